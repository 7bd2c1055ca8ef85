from datetime import timedelta

import pytest

from domain.spans import span, whole


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.34, "340 ms"), (4.2, "4.2 s"), (119, "119.0 s"), (150, "2 min"), (18_000, "5 h"), (-3, "-3.0 s"), (2e5, "2 d")],
)
def test_a_span_is_told_in_its_largest_fitting_unit(seconds: float, words: str) -> None:
    assert span(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (4.9, "4 s"), (119.9, "119 s"), (179, "2 min"), (7199, "119 min"), (7200, "2 h")],
)
def test_an_age_counts_full_units(seconds: float, words: str) -> None:
    assert whole(timedelta(seconds=seconds)) == words
