"""Notifications from a shell: why a message did not come, where users are reached, and the switch."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest

import config
import db
from models import deliveries, notifications, routing, targets, timeline
from models.alerts import user_with

PLACE = "https://desk.example.com"
pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def _place(monkeypatch):
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, public_url=PLACE))


def tell(title: str = "an order has expired", **more: object) -> int:
    told = notifications.tell(user_with("ann@example.com"), "order", title, **more)
    assert told
    return told


def route() -> None:
    list(routing.route(config.CHANNELS, datetime.now(UTC)))


def why(call, which: object) -> str:
    return " ".join(call("notifications", "why", str(which)).output.split())


def test_why_tells_what_became_of_a_message_on_each_channel(call):
    ann = user_with("ann@example.com")
    targets.add(ann, "telegram", "1001", verified=False)
    targets.want(ann, "order", "email", wanted=False)
    told = tell()
    assert "not routed yet" in why(call, told)
    route()
    said = why(call, told)
    assert "not sent: order is not wanted by email" in said
    assert "not sent: the address is not verified" in said
    assert "dry run" in said, "and what holds for all"


def test_why_tells_of_tries_rests_and_the_switch(call):
    told = tell()
    route()
    targets.turn_switch("live", PLACE, "bob")
    delivery = deliveries.claim("email", PLACE)
    assert delivery
    deliveries.close_try(delivery, "failed", error="smtp: 451 later", wait=deliveries.LEASE)
    deliveries.lay_to_rest("email", deliveries.LEASE, "smtp: no connection")
    said = why(call, told)
    assert "try 1: failed: smtp: 451 later" in said
    assert "the channel rests until" in said
    targets.turn_switch("off", PLACE, "bob")
    deliveries.wake("email")
    assert "waits: delivery is switched off" in why(call, told)


def test_why_names_the_firing_to_be_explained(call):
    told = tell(data={"trigger_id": 7})
    assert "nightdesk alerts explain 7" in why(call, told)
    assert json.loads(call("notifications", "why", "ann@example.com", "--json").output)[0]["trigger_id"] == "7"


@pytest.mark.parametrize(
    ("channel", "address", "shown"),
    [
        ("webhook", "https://example.com/hook/of/ann", "https://example.com/…/ann"),
        ("webhook", "https://ann:hidden@example.com/hook/of/ann", "https://example.com/…/ann"),
        ("webhook", "https://example.com?token=hidden-1234", "https://example.com/…1234"),
        ("apprise", "ntfy://hidden:hidden@example.com/topic", "ntfy://…/…opic"),
        ("telegram", "1001", "1001"),
    ],
)
def test_an_address_is_shown_without_what_is_a_password(channel, address, shown):
    assert timeline.masked(channel, address) == shown


def test_why_lists_what_a_user_was_told(call):
    told = tell()
    route()
    rows = json.loads(call("notifications", "why", "ANN@example.com", "--json").output)
    assert [(row["id"], row["title"]) for row in rows] == [(told, "an order has expired")]
    assert "email pending" in rows[0]["deliveries"]
    assert "no notification and no user" in call("notifications", "why", "nobody", code=1).output


def test_delivery_is_dry_until_somebody_says_live_for_this_place(call):
    assert "dry run" in call("notifications", "mode").output
    assert f"live for {PLACE}" in call("notifications", "mode", "live", "--who", "bob").output
    assert db.rows("select mode, place, who from delivery_switch") == [("live", PLACE, "bob")]
    assert "delivery is off" in call("notifications", "mode", "off").output


def test_a_place_without_a_name_cannot_be_live(call, monkeypatch):
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, public_url=""))
    assert "PUBLIC_URL is not set" in call("notifications", "mode", "live", code=1).output


def test_the_first_start_goes_live_and_a_copy_of_another_desk_does_not(call):
    assert "delivery is live" in call("notifications", "mode", "live", "--first").output
    targets.turn_switch("live", "https://real.example.com", "bob")
    assert "dry run" in call("notifications", "mode", "live", "--first").output
    targets.turn_switch("live", "http://127.0.0.1:8000", "up")
    assert "delivery is live" in call("notifications", "mode", "live", "--first").output
    targets.turn_switch("off", "http://127.0.0.1:8000", "bob")
    assert "delivery is off" in call("notifications", "mode", "live", "--first").output, "a person's word stays"


def test_where_a_user_is_reached_is_said_and_shown_without_secrets(call):
    webhook = "https://discord.com/api/webhooks/7/secret-token"
    assert "secret" not in call("notifications", "target", "ann@example.com", "discord", webhook).output
    call("notifications", "target", "ann@example.com", "telegram", "1001")
    call("notifications", "target", "ann@example.com", "telegram", "1001", "--remove")
    call("notifications", "target", "ann@example.com", "telegram", "1001", "--remove", code=1)
    rows = json.loads(call("notifications", "targets", "ann@example.com", "--json").output)
    assert [row["channel"] for row in rows] == ["discord", "email"]
    assert "secret" not in json.dumps(rows)
    assert "is no user" in call("notifications", "targets", "nobody", code=1).output
    refused = call("notifications", "target", "ann@example.com", "webhook", "http://x y", code=2).output
    assert "no spaces" in refused
    inside = call("notifications", "target", "ann@example.com", "webhook", "http://10.0.0.1/hook", code=2).output
    assert "its address is not a public one" in inside
    assert "whsec" not in refused
    for channel, wrong in (("email", "nobody"), ("webhook", "javascript:alert(1)"), ("discord", "http:///x")):
        said = call("notifications", "target", "ann@example.com", channel, wrong, code=2).output
        assert f"an address of {channel} is such as " in said


def test_wishes_quiet_hours_and_digests_are_said_in_one_line_each(call):
    call("notifications", "want", "ann@example.com", "alert", "telegram", "off")
    call("notifications", "quiet", "ann@example.com", "23:00", "07:00", "--breaks-through", "nothing")
    call("notifications", "digest", "ann@example.com", "daily", "--at", "07:30")
    assert db.rows("select kind, channel, wanted from preference") == [("alert", "telegram", False)]
    assert db.rows("select from_time::text, until_time::text, breaks_through from quiet_hours") == [
        ("23:00:00", "07:00:00", None)
    ]
    assert db.rows("select kind, at_time::text from digest") == [("daily", "07:30:00")]
    call("notifications", "digest", "ann@example.com", "daily", "--remove")
    assert db.rows("select count(*) from digest") == [(0,)]
    assert (
        "a clock time such as 07:30" in call("notifications", "quiet", "ann@example.com", "25:00", "7", code=2).output
    )
    assert "never end" in call("notifications", "quiet", "ann@example.com", "07:00", "07:00", code=2).output
    odd = call("notifications", "want", "ann@example.com", "Bad Kind", "email", "on", code=2).output
    assert "a kind of notification such as alert or order" in " ".join(odd.split())
    assert "-1 is not in the range" in call("notifications", "why", "ann@example.com", "--limit", "-1", code=2).output


def test_a_channel_that_rests_shows_why_and_can_be_woken(call):
    deliveries.lay_to_rest("line", deliveries.LEASE, "line: the month's quota is spent")
    rows = {row["channel"]: row for row in json.loads(call("notifications", "channels", "--json").output)}
    assert rows["line"]["reason"] == "line: the month's quota is spent"
    assert "tries again" in call("notifications", "wake", "line").output
    assert "does not rest" in call("notifications", "wake", "line").output
