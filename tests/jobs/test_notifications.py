"""The delivery job: from notification rows to users, whatever the channel says."""

import dataclasses
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier, Thread

import pytest

import config
import db
import queues
from demo.api import Response
from demo.server import running
from domain.deliveries import Limit
from domain.links import read
from domain.prices import Price
from jobs.notifications import deliver_notifications, deliver_webhooks, prune_notifications
from models import deliveries, notifications, prices, routing, targets, timeline
from models.alerts import user_with
from notify import limits
from notify.telegram import Telegram
from tests.mail import mail_server

NOW = datetime.now(UTC)
DATA = """{"alert_id": 1, "subject": "BTCUSD", "stream": "price", "value": "2", "touches": 0,
           "previous": null, "source": "binance",
           "happened_at": "2026-11-23T12:00:05+00:00", "received_at": "2026-11-23T12:00:06+00:00",
           "rule": {"condition": "above", "level": "1", "target": "1", "band": "0", "way_back": null,
                    "measure": "price", "direction": null, "frequency": "once", "bar": null, "base": null,
                    "cooldown": null}}"""


PLACE = "https://desk.example.com"


@pytest.fixture
def server(database, redis, monkeypatch):
    with mail_server() as running:
        use(monkeypatch, running.url)
        yield running


def use(monkeypatch, url: str, channels=("email",)) -> None:
    """Deliver for real, by this mail server."""
    changed = dataclasses.replace(config.settings, smtp_url=url, channels=channels, public_url=PLACE)
    monkeypatch.setattr(config, "settings", changed)
    targets.turn_switch("live", PLACE, "tests")


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
    assert sum(routed([channel])) == 1


def routed(channels) -> list[int]:
    return list(routing.route(channels, datetime.now(UTC)))


def run() -> dict[str, int]:
    return dict(Counter(deliver_notifications(due_at=NOW)) + Counter(deliver_webhooks(due_at=NOW)))


def states() -> list[tuple]:
    return db.rows("select state, tries, reason from delivery order by id")


def be_quiet(user: int, breaks_through: str | None = "critical") -> None:
    """Quiet hours that have begun and go on for hours, whatever time it is, midnight too."""
    now = datetime.now(UTC)
    targets.be_quiet(user, (now - timedelta(hours=6)).time(), (now + timedelta(hours=6)).time(), breaks_through)


def make_due() -> None:
    """The wait, or the lease, is over."""
    db.rows("update delivery set due_at = now() where state in ('failed', 'sending')")
    db.rows("update channel set off_until = now() where off_until is not null")


def clock() -> datetime:
    """The database's."""
    return db.rows("select clock_timestamp()")[0][0]


def due() -> list[datetime]:
    """When what waits is tried."""
    return [at for (at,) in db.rows("select due_at from delivery where state = 'pending' order by due_at")]


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
    db.rows("update delivery set state = 'dead', reason = 'x', ended_at = now() where target like 'bob%%'")
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
    before = clock()
    assert run() == {"failed": 1}
    ((due_at,),) = db.rows("select due_at from delivery")
    assert before + timedelta(seconds=12) <= due_at <= clock() + timedelta(seconds=18)
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
    db.rows("update delivery set expires_at = now()")
    assert run() == {"dead": 1}
    assert states() == [("dead", 0, "too late: SMTP_URL is not set")]


def test_a_worker_that_died_while_sending_leaves_one_message_in_doubt_that_is_sent_again(database, redis, server):
    notify("ann"), notify("bob")
    deliveries.claim("email", PLACE)  # … and dies
    assert run() == {"sent": 1}
    assert [mail["To"] for mail in server.mails] == ["bob@example.com"], "the other one is held up by nothing"
    make_due()
    assert run() == {"sent": 1}
    assert states() == [("sent", 2, None), ("sent", 1, None)]


def test_a_message_that_kills_every_worker_is_given_up(database, redis, server):
    notify("ann")
    for _ in range(6):
        assert deliveries.claim("email", PLACE)
        make_due()
    assert run() == {"dead": 1}
    assert states() == [("dead", 6, "cut off 6 times")]


def test_a_worker_that_comes_back_late_does_not_overrule_the_one_that_took_over(database, redis, server):
    notify("ann")
    late = deliveries.claim("email", PLACE)
    make_due()
    run()
    assert late is not None
    assert not deliveries.close_try(late, "failed", error="timed out")
    assert states() == [("sent", 2, None)]


def test_two_runs_at_once_send_each_message_once(database, redis, server, monkeypatch):
    monkeypatch.setattr("jobs.notifications.SECONDS", 600)  # on a busy machine all of it takes longer than a run may
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
    assert server.mails[0].get_body(("plain",)).get_content().splitlines()[:4] == [
        "BTCUSD has expired",
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
    assert sum(routed(["console"])) == 0


def test_a_user_without_an_address_gets_no_mail_but_the_rest(database):
    ((user,),) = db.rows("insert into app_user (external_id) values ('app-7') returning id")
    notifications.tell(user, "order", "BTCUSD has expired")
    assert sum(routed(["email", "console"])) == 1
    assert db.rows("select channel, target from delivery") == [("console", "app-7")]


def test_routing_at_once_makes_each_delivery_once(database, monkeypatch):
    monkeypatch.setattr(routing, "BATCH", 7)
    for n in range(100):
        tell(f"user{n % 10}")
    counts, together = [], Barrier(3)

    def work() -> None:
        with db.database.connection_context():
            together.wait()
            counts.append(sum(routed(["email", "console"])))

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100
    assert db.rows("select count(*), count(distinct (notification_id, channel)) from delivery") == [(200, 200)]


@pytest.fixture
def demo(database, redis, monkeypatch):
    """The messengers' stand-ins; delivered for real."""
    with running(seed=5) as world:
        settings = config.load(
            {**os.environ, **world.environment, "PUBLIC_URL": PLACE, "CHANNELS": "telegram,line,discord,webhook,email"}
        )
        monkeypatch.setattr(config, "settings", settings)
        targets.turn_switch("live", PLACE, "tests")
        yield world


def reach(name: str, channel: str, address: str) -> int:
    """A user without a mail address who is reached there."""
    user = user_with(f"{name}@example.com")
    db.rows("update app_user set email = null where id = %s", user)
    targets.add(user, channel, address, verified=True)
    return user


def texts(demo, name: str) -> list[str]:
    return [message["text"].splitlines()[0] for message in demo.inboxes[name].list()]


def test_each_user_is_told_where_they_are_reached(demo):
    line = "U" + "0" * 32
    for name, channel, address in (
        ("ann", "telegram", "1001"), ("bob", "line", line), ("cid", "discord", "https://discord.com/api/webhooks/7/t"),
        ("dee", "webhook", f"{demo.url}/webhook/dee"),
    ):  # fmt: skip
        notifications.tell(reach(name, channel, address), "order", f"{name} is told")
    tell("eve")
    assert run() == {"routed": 5, "sent": 5}
    assert texts(demo, "telegram") == ["<b>ann is told</b>"]
    assert texts(demo, "line") == ["bob is told"]
    assert texts(demo, "discord") == ["**cid is told**"]
    assert len(demo.inboxes["webhook"].list()) == len(demo.mail.messages) == 1
    keys = dict(db.rows("select channel, key::text from delivery"))
    assert demo.inboxes["line"].list()[0]["key"] == keys["line"]
    assert demo.inboxes["webhook"].list()[0]["key"] == keys["webhook"]


def test_many_that_are_due_at_one_address_go_in_one_message_and_end_with_it(demo):
    user = reach("ann", "line", "U" + "1" * 32)
    for n in range(5):
        notifications.tell(user, "alert", f"BTCUSD is at {n}", subject="BTCUSD", data={"n": n})
    notifications.tell(user, "order", "an order has expired")
    notifications.tell(user, "alert", "BTCUSD is at 0", severity="critical", data={"details": []})
    assert run() == {"routed": 7, "sent": 3}
    assert texts(demo, "line") == ["5 alerts: BTCUSD", "an order has expired", "BTCUSD is at 0"]
    assert {state for state, *_ in states()} == {"sent"}
    assert db.rows("select count(*) from delivery_try where outcome = 'sent'") == [(3,)]


def test_what_waits_for_its_turn_at_one_address_goes_in_one_message_too(demo, monkeypatch):
    monkeypatch.setattr(deliveries, "MOST_TOGETHER", 10)
    monkeypatch.setattr(Telegram, "limit_of", lambda *_: Limit(1, 600))
    user = reach("ann", "telegram", "1001")
    for n in range(30):
        notifications.tell(user, "alert", f"{n}", data={"details": []})
    routed(["telegram"])
    db.rows("update delivery set state = 'pending', due_at = now()")
    assert run() == {"sent": 1, "postponed": 1}
    assert deliveries.claim("telegram", PLACE) is None, "and none before its turn"
    db.rows(
        """update delivery set due_at = now() where id in (
             select id from delivery where state = 'pending' order by due_at limit 2)"""
    )
    claims = [deliveries.claim("telegram", PLACE) for _ in range(2)]
    assert [len(claimed["others"]) for claimed in claims if claimed] == [9, 9]
    assert db.rows("select 1 from delivery d join delivery l on l.id = d.leader_id where l.state = 'bundled'") == []


def test_what_goes_together_stays_together_when_whoever_sends_it_dies(demo):
    user = reach("ann", "line", "U" + "1" * 32)
    for n in range(4):
        notifications.tell(user, "alert", f"{n}", data={"details": []})
    routed(["line"])
    claimed = deliveries.claim("line", PLACE)  # … and dies
    assert claimed
    assert len(claimed["others"]) == 3
    notifications.tell(user, "alert", "later", data={"details": []})
    db.rows("update delivery set due_at = now() where state = 'sending'")
    assert run() == {"routed": 1, "sent": 2}
    assert texts(demo, "line") == ["4 alerts", "later"]
    assert demo.inboxes["line"].list()[0]["key"] == str(claimed["key"])


def test_a_message_of_many_that_fails_for_good_takes_all_of_them_along(demo):
    user = reach("ann", "webhook", f"{demo.url}/webhook/410")
    for n in range(4):
        notifications.tell(user, "alert", f"{n}", data={"details": []})
    assert run()["dead"] == 1
    assert {state for state, *_ in states()} == {"dead"}


def test_an_address_that_is_gone_is_tried_once_switched_off_and_its_user_is_told(demo):
    user = reach("ann", "telegram", "1403")
    targets.add(user, "webhook", f"{demo.url}/webhook/ann", verified=True)
    for kind in ("order", "deposit"):
        notifications.tell(user, kind, f"{kind}s")
    assert run() == {"routed": 2, "sent": 2, "dead": 1}
    ((reason,),) = db.rows("select off_reason from target where channel = 'telegram'")
    assert "bot was blocked" in reason
    assert demo.requests["telegram"] == 1
    assert db.rows("select kind, severity, title from notification order by id desc limit 1") == [
        ("system", "warning", "Messages by telegram no longer reach you and are switched off")
    ]
    assert run() == {"routed": 1, "sent": 1}, "and on the ways that are left"
    assert demo.requests["telegram"] == 1
    assert facts() == ["delivery.dead"]


def test_what_has_gone_together_before_an_address_was_switched_off_ends_too(demo):
    user = reach("ann", "webhook", f"{demo.url}/webhook/ann")
    for n in range(4):
        notifications.tell(user, "alert", f"{n}", data={"details": []})
    demo.faults.add("webhook", 500)
    assert run() == {"routed": 4, "failed": 1}
    targets.turn_off(user, "webhook", f"{demo.url}/webhook/ann", "gone")
    assert {state for state, *_ in states()} == {"dead"}


def test_nothing_goes_along_with_a_message_that_may_have_arrived_before(demo):
    user = reach("ann", "line", "U" + "1" * 32)
    notifications.tell(user, "alert", "first", data={"details": []})
    demo.faults.add("line", "reset")
    assert run() == {"routed": 1, "put_back": 1}
    demo.faults.clear()
    for n in range(4):
        notifications.tell(user, "alert", f"{n}", data={"details": []})
    routed(["line"])
    make_due()
    db.rows("update delivery set due_at = now() - interval '1 s' where id = (select min(id) from delivery)")
    assert run() == {"sent": 2}
    assert texts(demo, "line") == ["first", "4 alerts"]


def test_a_mailbox_that_the_server_calls_unknown_is_switched_off_but_a_refused_mail_is_not(server):
    server.answers["RCPT"] = ["550 5.1.1 no such user", "550 5.7.1 no thanks"]
    tell("ann"), tell("bob")
    assert run() == {"routed": 2, "dead": 2}
    assert db.rows("select address from target") == [("ann@example.com",)]


def test_a_chat_that_has_moved_is_written_to_at_its_new_place(demo, monkeypatch):
    user = reach("ann", "telegram", "-55")
    answers = [Response({"ok": False, "description": "upgraded", "parameters": {"migrate_to_chat_id": -100}}, 400)]
    real = demo.apis["telegram"].answer
    monkeypatch.setattr(demo.apis["telegram"], "answer", lambda r: answers.pop() if answers else real(r))
    notifications.tell(user, "order", "hello")
    assert run() == {"routed": 1, "put_back": 1, "sent": 1}
    assert demo.inboxes["telegram"].list()[0]["to"] == "-100"
    assert db.rows("select address from target") == [("-100",)]


def test_a_message_that_alone_meets_trouble_stops_the_others_no_more_and_is_given_up(demo, monkeypatch):
    real, trouble = demo.apis["telegram"].answer, Response({"ok": False}, 500)
    monkeypatch.setattr(demo.apis["telegram"], "answer", lambda r: trouble if b"1001" in r.body else real(r))
    ann, bob = reach("ann", "telegram", "1001"), reach("bob", "telegram", "1002")

    def go_on() -> dict[str, int]:
        make_due()
        db.redis().flushall()  # everybody's turn has come
        return run()

    notifications.tell(ann, "order", "one")
    assert run() == {"routed": 1, "put_back": 1}, "it may be the channel"
    notifications.tell(bob, "order", "two")
    assert go_on() == {"routed": 1, "put_back": 1}
    assert go_on() == {"sent": 1, "failed": 1}
    assert db.rows("select failures, off_until from channel") == [(0, None)]
    assert [go_on() for _ in range(6)] == [{"failed": 1}] * 4 + [{"dead": 1}, {}]
    assert facts() == ["channel.off", "channel.on", "delivery.dead"]


def test_too_many_costs_no_try_and_waits_as_long_as_it_is_told_with_all_else_for_that_address(demo):
    ann, bob = reach("ann", "telegram", "1001"), reach("bob", "telegram", "1002")
    demo.faults.add("telegram", 429)
    notifications.tell(ann, "order", "one"), notifications.tell(ann, "deposit", "two")
    before = clock()
    assert run() == {"routed": 2, "postponed": 1}
    assert demo.requests["telegram"] == 1, "nobody asks again"
    assert [tries for _, tries, _ in states()] == [0, 0]
    first, second = due()
    assert before + timedelta(seconds=3) <= first <= clock() + timedelta(seconds=3)
    assert timedelta(seconds=1) <= second - first <= timedelta(seconds=1.3)
    demo.faults.clear()
    notifications.tell(bob, "order", "three")
    assert run() == {"routed": 1, "sent": 1}, "others need not wait"


def test_the_limit_of_an_address_postpones_and_nobody_is_over_it(demo):
    user = reach("ann", "telegram", "1001")
    for kind in ("a", "b", "c"):
        notifications.tell(user, kind, kind)
    before = clock()
    assert run()["sent"] == 1
    assert demo.inboxes["telegram"].refused == 0
    first, second = due()
    assert before + timedelta(seconds=1) <= first <= clock() + timedelta(seconds=1.3)
    assert timedelta(seconds=1) <= second - first <= timedelta(seconds=1.3)
    assert db.rows("select distinct reason from delivery where state = 'pending' and reason is not null") == [
        ("its turn has not come",)
    ]


def test_a_run_leaves_when_another_one_waits_for_the_worker(demo, monkeypatch):
    for n in range(5):
        notifications.tell(reach(f"user{n}", "telegram", f"10{n}0"), "order", "hello")
    monkeypatch.setattr("jobs.notifications.waiting", lambda *queues: 1)
    assert run() == {"routed": 5, "sent": 1}


def test_a_webhook_holds_up_neither_mails_nor_whatever_else_waits(demo, monkeypatch):
    for path in ("one", "two"):
        notifications.tell(reach(path, "webhook", f"{demo.url}/webhook/{path}"), "order", "hello")
    tell("ann")
    assert deliver_notifications(due_at=NOW) == {"routed": 3, "sent": 1}
    assert demo.inboxes["webhook"].list() == []
    queued = []
    monkeypatch.setattr("jobs.notifications.waiting", lambda *queues: queued.append(queues) or 1)
    assert deliver_webhooks(due_at=NOW) == {"sent": 1}
    assert queued == [("critical", "default")]
    assert deliver_webhooks(due_at=NOW) == {"sent": 1}


def test_an_address_that_was_slow_waits_for_its_next_message_and_others_do_not(demo, monkeypatch):
    monkeypatch.setattr(limits, "SLOW", 0)
    monkeypatch.setattr(limits, "PAUSE", 1_000_000)
    ann, bob = (reach(name, "webhook", f"{demo.url}/webhook/{name}") for name in ("ann", "bob"))
    notifications.tell(ann, "order", "one"), notifications.tell(ann, "deposit", "two")
    notifications.tell(bob, "order", "three")
    assert run() == {"routed": 3, "sent": 2, "postponed": 1}
    assert len(demo.inboxes["webhook"].list()) == 2
    assert states()[1] == ("pending", 0, "its turn has not come")


def test_nothing_leaves_a_desk_that_was_not_switched_to_live(server):
    targets.turn_switch("dry-run", PLACE, "tests")
    tell("ann")
    assert run() == {"routed": 1, "dry": 1}
    assert server.mails == []
    assert states() == [("dry", 1, None)]


def test_a_copy_of_the_database_at_another_place_reaches_nobody(server, monkeypatch):
    tell("ann")
    monkeypatch.setattr(
        config, "settings", dataclasses.replace(config.settings, public_url="https://staging.example.com")
    )
    assert run() == {"routed": 1, "dry": 1}
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, public_url=""))
    targets.turn_switch("live", "", "tests")
    tell("ann")
    assert run() == {"routed": 1, "dry": 1}
    assert server.mails == []


def test_the_kill_switch_stops_the_next_message_and_what_waits_goes_later(server):
    notify("ann"), notify("bob")
    (first,) = [deliveries.claim("email", PLACE)]
    targets.turn_switch("off", PLACE, "ann")
    assert deliveries.claim("email", PLACE) is None
    assert run() == {}
    targets.turn_switch("live", PLACE, "ann")
    assert run() == {"sent": 1}
    assert first
    assert db.rows("select who, action, target from audit order by id")[1:] == [
        ("ann", "deliver", "off"),
        ("ann", "deliver", "live"),
    ]


def test_a_mail_says_how_to_get_no_more_of_its_kind(server):
    tell("ann")
    run()
    (mail,) = server.mails
    link = mail["List-Unsubscribe"].strip("<>")
    assert link.startswith(f"{PLACE}/unsubscribe/")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert link in mail.get_body(("plain",)).get_content()
    assert link in mail.get_body(("html",)).get_content()
    what = read(targets.link_key(), link.rpartition("/")[2])
    assert what == (user_with("ann@example.com"), "email", "order")


def test_an_address_that_was_removed_or_switched_off_after_routing_gets_nothing(demo):
    ann, bob = reach("ann", "telegram", "1001"), reach("bob", "telegram", "1002")
    notifications.tell(ann, "order", "one"), notifications.tell(bob, "order", "two")
    routed(["telegram"])
    targets.remove(ann, "telegram", "1001")
    db.rows("update target set off_at = now(), off_reason = 'by the user' where user_id = %s", bob)
    assert run() == {"dead": 2}
    assert sorted(reason for *_, reason in states()) == ["the address is off: by the user", "the address was removed"]


def test_an_address_that_is_not_known_to_be_its_users_any_more_gets_nothing(demo):
    ann = reach("ann", "telegram", "1001")
    notifications.tell(ann, "order", "one")
    routed(["telegram"])
    db.rows("update target set verified_at = null")
    assert run() == {"dead": 1}
    assert states() == [("dead", 1, "the address is not verified")]
    assert demo.requests["telegram"] == 0


def test_the_apps_own_mail_address_needs_nobody_to_verify_it(server):
    tell("ann")
    targets.add(user_with("ann@example.com"), "email", "ann@example.com", verified=False)
    assert run() == {"routed": 1, "sent": 1}


def test_a_message_that_was_held_overnight_goes_in_the_run_in_which_it_is_let_go(server):
    tell("ann")
    be_quiet(user_with("ann@example.com"))
    assert run() == {"routed": 1}
    db.rows("update delivery set due_at = now() where state = 'held'")
    db.rows("delete from quiet_hours")
    assert run() == {"released": 1, "sent": 1}


def test_what_was_to_go_before_the_quiet_hours_began_is_held_and_looked_at_again(demo):
    user = reach("ann", "telegram", "1001")
    for n in range(4):
        notifications.tell(user, "alert", f"{n}", subject=f"{n}", data={"details": []})
    notifications.tell(user, "alert", "storm", severity="warning", data={"details": []})
    routed(["telegram"])
    be_quiet(user, "warning")
    assert run() == {"held": 1, "sent": 1}
    assert texts(demo, "telegram") == ["<b>storm</b>"]
    assert [state for state, *_ in states()] == ["held", "bundled", "bundled", "bundled", "sent"]
    db.rows("update delivery set due_at = now() where state = 'held'")
    db.rows("delete from quiet_hours"), db.rows("insert into mute values (%s, '0')", user)
    counts = run()
    assert (counts["dropped"], counts["released"]) == (1, 3), "what was to go along is none the worse"


def above(user: int, symbol: str) -> None:
    """An alert has told a user that a symbol is above 1."""
    rule = {"condition": "above", "side": "up", "target": "1"}
    data = {"details": [], "stream": "price", "rule": rule}
    notifications.tell(user, "alert", f"{symbol} is at 2, above 1", subject=symbol, data=data)


def price(symbol: str, value: str) -> None:
    now = datetime.now(UTC)
    prices.record([Price(symbol, Decimal(value), now, "binance")], {}, now)


def hold(user: int) -> None:
    """Quiet hours begin before a run, and have ended before the next one."""
    be_quiet(user)
    assert run() == {"held": 1}
    db.rows("delete from quiet_hours")
    db.rows("update delivery set due_at = now() where state = 'held'")


def test_each_of_what_was_to_go_together_is_looked_at_again(server):
    ann = user_with("ann@example.com")
    for symbol in ("BTCUSD", "XAUUSD", "EURUSD", "XAUUSD", "GBPUSD"):
        above(ann, symbol)
    routed(["email"])
    hold(ann)
    price("BTCUSD", "2"), price("XAUUSD", "0.5")
    db.rows("insert into mute values (%s, 'EURUSD')", ann)
    assert run() == {"released": 2, "dropped": 3, "sent": 1}
    assert [mail["Subject"] for mail in server.mails] == ["2 alerts: GBPUSD, BTCUSD"]
    assert [(state, reason) for state, _, reason in states()] == [
        ("sent", None),
        ("skipped", "the price is back, at 0.5: dropped"),
        ("skipped", "EURUSD is muted"),
        ("skipped", "the price is back, at 0.5: dropped"),
        ("sent", None),
    ]


def test_what_was_to_go_along_with_one_that_is_dropped_goes_without_it(server):
    ann = user_with("ann@example.com")
    for symbol in ("XAUUSD", "BTCUSD", "XAUUSD", "BTCUSD"):
        above(ann, symbol)
    routed(["email"])
    hold(ann)
    price("BTCUSD", "2"), price("XAUUSD", "0.5")
    assert run() == {"released": 2, "dropped": 2, "sent": 2}
    assert [state for state, *_ in states()] == ["skipped", "sent", "skipped", "sent"]


def test_a_repeat_that_was_held_has_the_same_key_and_what_is_left_of_its_parts(demo):
    ann = reach("ann", "webhook", f"{demo.url}/webhook/ann")
    for symbol in ("BTCUSD", "BTCUSD", "XAUUSD", "BTCUSD"):
        above(ann, symbol)
    demo.faults.add("webhook", 500)
    assert run() == {"routed": 4, "failed": 1}
    demo.faults.clear()
    make_due()
    hold(ann)
    price("XAUUSD", "0.5")
    assert run() == {"released": 3, "dropped": 1, "sent": 1}
    ((key,),) = db.rows("select key::text from delivery order by id limit 1")
    (message,) = demo.inboxes["webhook"].list()
    assert message["key"] == key
    assert [state for state, *_ in states()] == ["sent", "sent", "skipped", "sent"]


def test_what_is_held_together_says_so_of_each(demo):
    ann = reach("ann", "webhook", f"{demo.url}/webhook/ann")
    for _ in range(4):
        above(ann, "BTCUSD")
    routed(["webhook"])
    be_quiet(ann)
    run()
    ((told,),) = db.rows("select max(id) from notification")
    story = timeline.of_notification(told)
    assert story
    what = story["steps"][-1].what
    assert what.startswith("held in one message with delivery ")
    assert what.endswith(": quiet hours")


def test_a_symbol_that_is_muted_after_routing_is_silent(server):
    ann = user_with("ann@example.com")
    for symbol in ("BTCUSD", "XAUUSD", "EURUSD"):
        above(ann, symbol)
    routed(["email"])
    db.rows("insert into mute values (%s, 'BTCUSD', null), (%s, 'XAUUSD', %s)", ann, ann, NOW)
    assert run() == {"held": 1, "sent": 2}, "the other mute has ended"
    assert run() == {"dropped": 1}
    assert [(state, reason) for state, _, reason in states()] == [
        ("skipped", "BTCUSD is muted"),
        ("sent", None),
        ("sent", None),
    ]


@pytest.mark.parametrize("muted", ["BTCUSD", "XAUUSD"])
def test_a_symbol_that_is_muted_leaves_the_message_that_it_was_to_go_in(server, muted):
    ann = user_with("ann@example.com")
    symbols = ("BTCUSD", "XAUUSD", "EURUSD", "GBPUSD", "AAPL")
    for symbol in symbols:
        above(ann, symbol)
    routed(["email"])
    server.answers["DATA"] = ["451 try later"]
    assert run() == {"failed": 1}
    make_due()
    db.rows("insert into mute values (%s, %s)", ann, muted)
    assert run() == {"held": 1}
    counts = run()
    assert (counts["released"], counts["dropped"]) == (4, 1)
    assert dict(zip(symbols, [state for state, *_ in states()], strict=True)) == {
        symbol: "skipped" if symbol == muted else "sent" for symbol in symbols
    }
    assert muted not in "".join(mail.get_body(("plain",)).get_content() for mail in server.mails)


def test_whoever_unsubscribes_or_changes_their_address_gets_nothing_that_is_on_its_way(server):
    tell("ann"), tell("bob")
    routed(["email"])
    targets.want(user_with("ann@example.com"), "order", "email", wanted=False)
    db.rows("update app_user set email = 'new@example.com' where external_id = 'bob@example.com'")
    assert run() == {"dead": 2}
    assert sorted(reason for *_, reason in states()) == ["order is not wanted by email", "the address was removed"]
    assert server.mails == []


def test_a_fault_of_our_own_costs_one_message_a_try_and_is_not_hidden(server, monkeypatch):
    notify("ann"), notify("bob")
    monkeypatch.setattr("notify.wording.html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    monkeypatch.undo()
    use(monkeypatch, server.url)
    assert run() == {"sent": 1}, "the other one goes"
    assert states()[0] == ("failed", 1, "a fault of ours: ZeroDivisionError")


def age(days: int) -> None:
    """All that was told was told so long ago."""
    db.rows("update notification set created_at = now() - make_interval(days => %s)", days)


def test_old_notifications_go_with_their_deliveries_and_those_on_their_way_stay(server, monkeypatch):
    monkeypatch.setattr(notifications, "BATCH", 2)
    for n in range(5):
        tell(f"user{n}")
    assert run() == {"routed": 5, "sent": 5}
    tell("late"), tell("new")
    routed(["email"])
    age(100)
    db.rows("update notification set created_at = now() where id = (select max(id) from notification)")
    assert prune_notifications(due_at=NOW) == {"notifications": 5, "triggers": 0}
    assert [state for state, *_ in states()] == ["pending"] * 2
    assert db.rows("select count(*) from notification") == [(2,)]
    assert db.rows("select count(*) from delivery_try") == [(0,)]
    run()
    assert prune_notifications(due_at=NOW) == {"notifications": 1, "triggers": 0}
    assert prune_notifications(due_at=NOW) == {"notifications": 0, "triggers": 0}


def test_firings_of_alerts_are_kept_for_a_year(database):
    for days in (364, 366):
        db.rows(
            """insert into alert_trigger (alert_id, number, user_id, subject, stream, value, happened_at, received_at,
                 source, touches, rule, waited, fired_at)
               select 1, %s, 1, 'BTCUSD', 'price', 1, now(), now(), 'x', 0, '{}', '{}',
                 now() - make_interval(days => %s)""",
            days,
            days,
        )
    assert prune_notifications(due_at=NOW) == {"notifications": 0, "triggers": 1}
    assert db.rows("select number from alert_trigger") == [(364,)]
