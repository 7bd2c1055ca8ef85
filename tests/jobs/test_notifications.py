"""The delivery job: from notification rows to users, whatever the channel says."""

import dataclasses
from datetime import UTC, datetime
from threading import Barrier, Thread

import pytest

import config
import db
import queues
from jobs.notifications import deliver_notifications
from models import notifications
from models.alerts import user_with
from tests.mail import mail_server

NOW = datetime.now(UTC)
DATA = """{"alert_id": 1, "subject": "BTCUSD", "stream": "price", "value": "2", "touches": 0,
           "previous": null, "source": "binance",
           "happened_at": "2026-11-23T12:00:05+00:00", "received_at": "2026-11-23T12:00:06+00:00",
           "rule": {"condition": "above", "level": "1"}}"""


@pytest.fixture
def server(monkeypatch):
    with mail_server() as running:
        use(monkeypatch, running.url)
        yield running


def use(monkeypatch, url: str, channels=("email",)) -> None:
    changed = dataclasses.replace(config.settings, smtp_url=url, channels=channels)
    monkeypatch.setattr(config, "settings", changed)


def notify(name: str, channel: str = "email", data: str = DATA) -> None:
    """Tell a user of this name something, routed to one channel."""
    db.rows(
        """with u as (insert into app_user (external_id, email) values (%s, %s) on conflict (external_id)
                      do update set email = excluded.email returning id)
           insert into notification (user_id, kind, title, data)
           select id, 'alert', 'BTCUSD is at 2, above 1', %s from u""",
        name,
        f"{name}@example.com",
        data,
    )
    assert sum(notifications.route([channel])) == 1


def run() -> dict[str, int]:
    return deliver_notifications(due_at=NOW)


def states() -> list[tuple]:
    return db.rows("select state, tries, error from delivery order by id")


def make_due() -> None:
    """The wait, or the lease, is over."""
    db.rows("update delivery set due_at = now() where state in ('failed', 'sending')")
    db.rows("update channel set off_until = now() where off_until is not null")


def facts() -> list[str]:
    return [topic for (topic,) in db.rows("select topic from event order by id")]


def test_what_is_due_is_sent_and_its_timeline_is_kept(database, redis, server):
    notify("ann")
    assert run() == {"sent": 1}
    assert [mail["To"] for mail in server.mails] == ["ann@example.com"]
    assert states() == [("sent", 1, None)]
    ((key, created_at, tried_at, ended_at),) = db.rows("select key, created_at, tried_at, ended_at from delivery")
    assert created_at <= tried_at <= ended_at
    assert db.rows("select number, outcome, receipt from delivery_try") == [(1, "sent", f"<{key}@localhost>")]


def test_twice_is_the_same_as_once(database, redis, server):
    notify("ann")
    run()
    assert run() == {}
    assert len(server.mails) == 1


def test_what_is_not_due_or_has_ended_is_left_alone(database, redis, server):
    notify("ann")
    db.rows("update delivery set due_at = now() + interval '1 hour'")
    notify("bob")
    db.rows("update delivery set state = 'dead', error = 'x', ended_at = now() where target like 'bob%%'")
    assert run() == {}
    assert server.mails == []


def test_a_mailbox_that_does_not_exist_is_given_up_at_once_and_costs_the_others_nothing(database, redis, server):
    notify("ann"), notify("bob")
    server.answers["RCPT"] = ["550 no such user"]
    assert run() == {"dead": 1, "sent": 1}
    assert states() == [("dead", 1, "smtp: 550 no such user"), ("sent", 1, None)]
    assert facts() == ["delivery.dead"]


def test_data_that_makes_no_message_costs_only_its_own(database, redis, server):
    notify("ann", data="{}"), notify("bob")
    assert run() == {"dead": 1, "sent": 1}
    assert "no message can be made" in states()[0][2]


def test_a_passing_trouble_is_tried_again_later_with_the_same_message_id(database, redis, server):
    notify("ann")
    server.answers["DATA"] = ["451 try later"]
    assert run() == {"failed": 1}
    ((wait,),) = db.rows("select extract(epoch from due_at - tried_at) from delivery")
    assert 12 <= wait <= 19
    assert run() == {}, "not yet"
    make_due()
    assert run() == {"sent": 1}
    assert db.rows("select number, outcome from delivery_try order by 1") == [(1, "failed"), (2, "sent")]
    ((key,),) = db.rows("select key from delivery")
    assert server.mails[0]["Message-ID"] == f"<{key}@localhost>"


def test_tries_come_to_an_end(database, redis, server):
    notify("ann")
    server.answers["DATA"] = ["451 try later"] * 10
    outcomes = []
    for _ in range(8):
        outcomes.append(run())
        make_due()
    assert outcomes == [{"failed": 1}] * 5 + [{"dead": 1}] + [{}] * 2
    assert facts() == ["delivery.dead"]


def test_a_refused_login_switches_the_channel_off_for_a_while_and_costs_no_message_a_try(database, redis, monkeypatch):
    notify("ann"), notify("bob"), notify("cid", channel="console")
    with pytest.MonkeyPatch.context() as patch, mail_server() as server:
        patch.setattr("notify.email._connection", _refuse)
        use(monkeypatch, server.url, channels=("email", "console"))
        assert run() == {"put_back": 1, "sent": 1}
        assert run() == {}, "the channel rests"
        assert states() == [("pending", 0, LOGIN), ("pending", 0, None), ("sent", 1, None)]
        assert facts() == ["channel.off"]
        make_due()
        assert run() == {"put_back": 1}
        patch.undo()
        make_due()
        assert run() == {"sent": 2}
        assert {state for state, *_ in states()} == {"sent"}
        assert facts() == ["channel.off", "channel.on"]
        assert db.rows("select failures, off_until, reason from channel") == [(0, None, None)]


LOGIN = "smtp: login: 535 5.7.8 bad credentials"


def _refuse():
    from smtplib import SMTPAuthenticationError

    raise SMTPAuthenticationError(535, b"5.7.8 bad credentials")


def test_without_a_mail_server_mails_wait_a_day_for_one_and_the_reason_is_shown(database, redis, monkeypatch):
    use(monkeypatch, "")
    notify("ann")
    assert run() == {"put_back": 1}
    assert db.rows("select name, reason from channel") == [("email", "SMTP_URL is not set")]
    db.rows("update delivery set created_at = now() - interval '25 hours'")
    assert run() == {"dead": 1}
    assert states() == [("dead", 0, "too late: SMTP_URL is not set")]


def test_a_worker_that_died_while_sending_leaves_one_message_in_doubt_that_is_sent_again(database, redis, server):
    notify("ann"), notify("bob")
    notifications.claim("email")  # … and dies
    assert run() == {"sent": 1}
    assert [mail["To"] for mail in server.mails] == ["bob@example.com"], "the other one is held up by nothing"
    make_due()
    assert run() == {"sent": 1}
    assert states() == [("sent", 2, None), ("sent", 1, None)]


def test_a_message_that_kills_every_worker_is_given_up(database, redis, server):
    notify("ann")
    for _ in range(6):
        assert notifications.claim("email")
        make_due()
    assert run() == {"dead": 1}
    assert states() == [("dead", 6, "cut off 6 times")]


def test_a_worker_that_comes_back_late_does_not_overrule_the_one_that_took_over(database, redis, server):
    notify("ann")
    late = notifications.claim("email")
    make_due()
    run()
    assert late is not None
    assert not notifications.close_try(late, "failed", error="timed out")
    assert states() == [("sent", 2, None)]


def test_two_runs_at_once_send_each_message_once(database, redis, server):
    for n in range(60):
        notify(f"user{n}")
    counts = []

    def work() -> None:
        with db.database.connection_context():
            counts.append(run())

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(count.get("sent", 0) for count in counts) == 60
    assert len({mail["To"] for mail in server.mails}) == len(server.mails) == 60


def test_a_long_run_gives_way_with_every_outcome_written(database, redis, server, monkeypatch):
    notify("ann"), notify("bob")
    monkeypatch.setattr(queues, "should_yield", lambda: True)
    with pytest.raises(queues.Yielded):
        run()
    assert [state for state, *_ in states()] == ["sent", "pending"]
    monkeypatch.setattr(queues, "should_yield", lambda: False)
    assert run() == {"sent": 1}


def tell(name: str, **more) -> int | None:
    return notifications.tell(user_with(f"{name}@example.com"), "order", "BTCUSD has expired", **more)


def test_what_an_area_tells_is_routed_and_sent_in_the_same_run(database, redis, server):
    tell("ann", data={"details": [["Price", "2"], ["Expired", {"at": "2026-11-23T12:00:05+00:00"}]]})
    assert run() == {"routed": 1, "sent": 1}
    assert server.mails[0].get_content().splitlines() == [
        "BTCUSD has expired.",
        "",
        "Price: 2",
        "Expired: 23 Nov 2026 12:00:05 UTC",
    ]
    assert run() == {}


def test_the_same_key_is_told_once(database):
    assert tell("ann", key="order-7-expired")
    assert tell("ann", key="order-7-expired") is None
    assert db.rows("select count(*) from notification") == [(1,)]


def test_what_is_rolled_back_with_its_fact_is_told_to_nobody(database):
    with db.database.atomic() as fact:
        tell("ann")
        fact.rollback()
    assert sum(notifications.route(["console"])) == 0


def test_a_user_without_an_address_gets_no_mail_but_the_rest(database):
    ((user,),) = db.rows("insert into app_user (external_id) values ('app-7') returning id")
    notifications.tell(user, "order", "BTCUSD has expired")
    assert sum(notifications.route(["email", "console"])) == 1
    assert db.rows("select channel, target from delivery") == [("console", "app-7")]


def test_routing_at_once_makes_each_delivery_once(database, monkeypatch):
    monkeypatch.setattr(notifications, "BATCH", 7)
    for n in range(100):
        tell(f"user{n % 10}")
    routed, together = [], Barrier(3)

    def work() -> None:
        with db.database.connection_context():
            together.wait()
            routed.append(sum(notifications.route(["email", "console"])))

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(routed) == 100
    assert db.rows("select count(*), count(distinct (notification_id, channel)) from delivery") == [(200, 200)]
