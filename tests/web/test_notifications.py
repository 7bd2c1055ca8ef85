"""The pages about messages: what became of one, the switch, and the links with which users unsubscribe."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import db
from domain.links import Unsubscribe, token
from models import notifications, routing, targets
from models.alerts import user_with
from tests.web.conftest import Site

NOW = datetime.now(UTC)


@pytest.fixture
def ann(site: Site) -> int:
    return user_with("ann@example.com")


def link(user: int, kind: str = "alert") -> str:
    return f"/unsubscribe/{token(targets.link_key(), Unsubscribe(user, 'email', kind))}"


def wishes() -> list[tuple]:
    return db.rows("select user_id, kind, channel, wanted from preference")


def test_opening_the_link_changes_nothing_and_shows_a_button(site: Site, ann: int) -> None:
    page = site.stranger().get(link(ann))
    assert page.status_code == 200
    assert "No more “alert” messages by mail?" in page.text
    assert site.stranger().head(link(ann)).status_code in (200, 405)
    assert wishes() == []


def test_one_click_of_a_mail_program_unsubscribes_without_a_login_and_twice_is_once(site: Site, ann: int) -> None:
    for _ in range(2):
        done = site.stranger().post(link(ann), data={"List-Unsubscribe": "One-Click"})
        assert done.status_code == 200
    assert wishes() == [(ann, "alert", "email", False)]
    notifications.tell(ann, "alert", "BTCUSD is at 1")
    notifications.tell(ann, "order", "an order has expired")
    assert sum(routing.route(["email"], NOW)) == 2
    assert db.rows("select state, reason from delivery order by id") == [
        ("skipped", "alert is not wanted by email"),
        ("pending", None),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(".email.", ".line."),
        lambda text: text.replace(".alert.", ".order."),
        lambda text: text.replace("/unsubscribe/", "/unsubscribe/9"),
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: "/unsubscribe/x",
        lambda text: "/unsubscribe/1.email.alert.",
        lambda text: "/unsubscribe/%00.%E2%82%AC.a.b",
    ],
)
def test_a_link_that_is_not_ours_does_nothing(site: Site, ann: int, change) -> None:
    for method in ("get", "post"):
        assert getattr(site.stranger(), method)(change(link(ann))).status_code == 404
    assert wishes() == []


def test_a_viewer_sees_what_became_of_a_message_and_a_users_addresses_without_their_secrets(
    site: Site, ann: int
) -> None:
    targets.add(ann, "discord", "https://discord.com/api/webhooks/7/secret-token", verified=True)
    targets.want(ann, "alert", "email", wanted=False)
    told = notifications.tell(ann, "alert", "<script>alert(1)</script>")
    list(routing.route(["email", "discord"], NOW))
    viewer = site.log_in("vic", "viewer")
    story = viewer.get(f"/notifications?which={told}").text
    assert "alert is not wanted by email" in story
    assert "<script>alert" not in story
    of_user = viewer.get("/notifications?which=ANN@example.com").text
    assert f"which={told}" in of_user
    assert "secret-token" not in of_user + story
    assert "is no notification and no user" in viewer.get("/notifications?which=%00nobody").text
    assert "Stop all delivery" not in of_user


def test_an_operator_stops_all_delivery_and_lets_it_go_on(site: Site, ann: int) -> None:
    operator = site.log_in()
    assert operator.press("/notifications/mode/off").status_code == 303
    assert "Delivery is off" in operator.get("/notifications").text
    assert operator.press("/notifications/mode/dry-run").status_code == 303
    assert "Dry run" in operator.get("/notifications").text
    assert operator.press("/notifications/mode/fast").status_code == 404
    assert db.rows("select who, action, target from audit where action = 'deliver' order by id") == [
        ("ann", "deliver", "off"),
        ("ann", "deliver", "dry-run"),
    ]


def test_delivery_is_not_live_for_a_place_without_a_name(site: Site) -> None:
    assert site.log_in().press("/notifications/mode/live").status_code == 409
