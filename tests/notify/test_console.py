"""Notifications as lines of the log."""

from datetime import UTC, datetime

from domain.notifications import Message, inert
from notify.channels import send


def test_a_message_is_one_line_whatever_it_holds(caplog):
    message = Message("k", inert("BTCUSD is at 97000\nfake line"), datetime(2026, 11, 23, tzinfo=UTC))
    with caplog.at_level("INFO"):
        assert send("console", "ann\r@example.com", message) is None
    assert [record.getMessage() for record in caplog.records] == ["to ann @example.com: BTCUSD is at 97000 fake line"]
