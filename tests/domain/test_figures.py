"""Numbers and streams as people read them."""

from decimal import Decimal

import pytest

from domain.figures import figure, name, times


@pytest.mark.parametrize(
    ("stream", "value", "said", "named"),
    [
        ("price", "98641.76000000", "98641.76", "X"),
        ("price", "0.00001234500", "0.000012345", "X"),
        ("price", "90000", "90000", "X"),
        ("price@1m", "98569.860", "98569.86", "X (1m)"),
        ("price/close", "-6.722115", "-6.72 %", "X (since the close)"),
        ("odds/24h", "-0.0044", "-0.004 %", "X odds (in 24h)"),
        ("ema200@1d", "272.43688497", "272.4369", "X ema200 (1d)"),
        ("sma20@1h", "0.000012345678", "0.00001234568", "X sma20 (1h)"),
        ("volume@1d", "48123456", "48123456", "X volume (1d)"),
        ("volume_ratio@1d", "4.16853", "4.17", "X volume ratio (1d)"),
        ("rsi14@1m", "50.40210643", "50.4", "X rsi14 (1m)"),
        ("macd@1h", "0", "0", "X macd (1h)"),
    ],
)
def test_values_and_streams_are_said_as_people_read_them(stream, value, said, named):
    assert (figure(Decimal(value), stream), name("X", stream)) == (said, named)


def test_a_count_is_said_in_words_where_it_is_one():
    assert (times(1), times(3)) == ("once", "3 times")
