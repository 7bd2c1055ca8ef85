"""The hub against real servers: whatever commits in whatever order, each listener hears it once."""

import asyncio
import json
import os
import random
import signal
import time
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from threading import Thread

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import db
import events as bus
from config import settings
from models import events
from models.events import LAST_ID, Position
from tests.waiting import async_until, stopwatch
from web import hub as hub_module
from web import listeners
from web.hub import Gap, Hub, parse_token
from web.listeners import NOW, Client, Ended


@pytest.fixture(autouse=True)
def _servers(database, redis):
    """Every test here talks to both."""


@asynccontextmanager
async def reading():
    hub = Hub()
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def fact(topic="prices.stale", user_id=None, **payload):
    with db.transaction():
        bus.publish(topic, payload, user_id)


def kept(topics=None):
    """(token, user) of every event in the table, in the order of positions."""
    rows = db.rows("select xid::text || '-' || id, user_id, topic from event order by xid, id")
    return [token for token, _, topic in rows if topics is None or topic in topics]


async def heard(hub, client, count, seconds=30.0):
    """The tokens of the next facts, from joining on."""
    tokens = [missed.token async for missed in hub.catch_up(client)]
    async with asyncio.timeout(seconds):
        while len(tokens) < count:
            tokens += [message.token for message in await client.messages() if message.token]
    return tokens


def run(coroutine):
    """To its end; what never comes fails its own test and holds up no other."""

    async def limited():
        async with asyncio.timeout(120):
            return await coroutine

    return asyncio.run(limited())


async def listening(client):
    """Until what is said over Redis reaches it; how many listen says nothing, for others do too."""
    while True:
        bus.broadcast("quote", {"symbol": "here?"})
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                return await client.messages()


def position(token):
    return parse_token(token)


def test_facts_come_in_the_order_of_their_positions_with_topic_time_and_payload():
    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            fact("prices.stale", symbols=["BTC-USD"], words="<b>\u2028 é 🙂")
            fact("run.failed", entry="sync_prices")
            messages = []
            while len(messages) < 2:
                messages += await client.messages()
            return [json.loads(m.text) | {"token": m.token} for m in messages]

    stale, failed = run(listen())
    assert stale["topic"] == "prices.stale"
    assert stale["payload"] == {"symbols": ["BTC-USD"], "words": "<b>\u2028 é 🙂"}
    assert failed["topic"] == "run.failed"
    assert [stale["token"], failed["token"]] == [stale["id"], failed["id"]] == kept()
    assert abs(time.time() - datetime.fromisoformat(stale["at"]).timestamp()) < 10


class Writer(Thread):
    """Commits facts in transactions that stay open for a while, so that they end in another order than they began."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self.dice = random.Random(seed)

    def run(self):
        connection = psycopg2.connect(settings.database_url)
        cursor = connection.cursor()
        for _ in range(25):
            for _ in range(self.dice.randint(1, 4)):
                topic, user = self.dice.choice(
                    [("prices.stale", None), ("run.failed", None), ("alert", 1), ("alert", 2)]
                )
                cursor.execute("insert into event (topic, user_id, payload) values (%s, %s, '{}')", (topic, user))
                time.sleep(self.dice.random() * 0.01)
            time.sleep(self.dice.random() ** 4 * 0.3)
            connection.rollback() if self.dice.random() < 0.1 else connection.commit()
            if self.dice.random() < 0.5:
                db.redis().publish(bus.NUDGE, "")
        connection.close()


async def come_and_go(hubs, user_id, dice, has_come, last):
    """Listens here and there, leaves at any moment, resumes with the last token it was given; hears the last fact."""
    tokens, token = [], NOW
    while not (last.done() and last.result() in tokens[-1:]):
        client, hub = Client(user_id, token), dice.choice(hubs)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if last.done() else dice.random() * 0.2):
                async for missed in hub.catch_up(client):
                    tokens.append(missed.token)
                    token = missed.position
                    await asyncio.sleep(0)
                token = client.came_at
                has_come.set()
                while not (last.done() and last.result() in tokens[-1:]):
                    for message in await client.messages():
                        tokens.append(message.token)
                        token = position(message.token)
                        await asyncio.sleep(0)
        hub.leave(client)
        await asyncio.sleep(dice.random() ** 3 * 0.6)
    return tokens


@pytest.mark.parametrize("seed", range(3))
def test_whoever_leaves_and_resumes_at_any_moment_hears_every_fact_once(monkeypatch, seed):
    monkeypatch.setattr(hub_module, "KEPT", 15)  # so that many have to read from the table
    monkeypatch.setattr(hub_module, "PAGE", 7)
    users = [None, None, 1, 2, 1, 2]

    async def listen():
        async with reading() as here, reading() as there:
            come, last = [asyncio.Event() for _ in users], asyncio.get_running_loop().create_future()
            listeners = [
                asyncio.create_task(come_and_go([here, there], user, random.Random(f"{seed} {number}"), has_come, last))
                for number, (user, has_come) in enumerate(zip(users, come, strict=True))
            ]
            for has_come in come:
                await has_come.wait()
            writers = [Writer(f"{seed}{number}") for number in range(4)]
            for writer in writers:
                writer.start()
            for writer in writers:
                await asyncio.to_thread(writer.join)
            fact()
            last.set_result(kept()[-1])
            return await asyncio.gather(*listeners)

    for user, tokens in zip(users, run(listen()), strict=True):
        theirs = db.rows(
            """select xid::text || '-' || id from event where %s::bigint is null or user_id = %s
               or user_id is null and topic = 'prices.stale' order by xid, id""",
            user,
            user,
        )
        assert len(theirs) > 20
        assert tokens == [token for (token,) in theirs]


def test_a_fact_that_an_older_transaction_holds_back_comes_soon_after_its_end(monkeypatch):
    monkeypatch.setattr(hub_module, "SWEEP", 60)

    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            older = psycopg2.connect(settings.database_url)
            older.cursor().execute("select pg_current_xact_id()")
            fact()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.messages()
            ended = time.monotonic()
            older.commit()  # nobody is nudged by this
            async with asyncio.timeout(20):
                await client.messages()
            older.close()
            return time.monotonic() - ended

    assert run(listen()) < 10


def test_a_transaction_that_holds_events_back_for_long_is_told(monkeypatch, caplog):
    monkeypatch.setattr(hub_module, "LONG_HELD_BACK", 0.3)

    async def listen():
        async with reading() as hub:
            await hub.started.wait()
            older = psycopg2.connect(settings.database_url)
            older.cursor().execute("select pg_current_xact_id()")
            began = time.monotonic()
            fact()
            await asyncio.sleep(1)
            await async_until(lambda: "waited for a transaction" in caplog.text)
            older.close()
            return time.monotonic() - began

    lasted = run(listen())
    assert caplog.text.count("waited for a transaction") <= lasted / 0.3


def test_a_process_that_can_no_longer_read_events_ends(monkeypatch, caplog):
    signals = []
    monkeypatch.setattr(hub_module.os, "kill", lambda *pair: signals.append(pair))
    monkeypatch.setattr(events, "after", lambda *_: 1 / 0)

    async def listen():
        async with reading():
            await async_until(lambda: signals)

    run(listen())
    assert signals == [(os.getpid(), signal.SIGTERM)]
    assert "ZeroDivisionError" in caplog.text


def test_a_token_of_a_process_that_has_read_further_brings_nothing_twice():
    async def listen():
        async with reading() as hub:
            await hub.started.wait()
            real, asks, reads_on = hub._ask, asyncio.Event(), asyncio.Event()

            async def lag(*question):
                asks.set()
                await reads_on.wait()
                return await real(*question)

            hub._ask = lag
            await asks.wait()
            for _ in range(3):
                fact()
            client = Client(None, position(kept()[1]))
            joined = asyncio.create_task(heard(hub, client, 1))
            await async_until(lambda: client in hub.clients)
            reads_on.set()
            return await joined

    assert run(listen()) == kept()[2:]


@pytest.mark.parametrize("ahead", [Position(2**62, 1), Position(2**63 - 1, LAST_ID)])
def test_a_token_that_this_database_never_gave_is_a_gap(ahead):
    async def listen():
        async with reading() as hub:
            with pytest.raises(Gap):
                await heard(hub, Client(None, ahead), 1)
            assert not hub.clients

    run(listen())


def forget_before(token):
    """As the upkeep does: note the floor, then drop."""
    xid, _, id_ = token.partition("-")
    db.rows("insert into reader_position (reader, xid, id) values (%s, %s::xid8, %s)", events.FLOOR, xid, id_)
    db.rows("delete from event where (xid, id) <= (%s::xid8, %s)", xid, id_)


def test_a_token_from_before_the_kept_days_is_a_gap_and_a_later_one_is_none(monkeypatch):
    monkeypatch.setattr(hub_module, "KEPT", 2)
    for _ in range(6):
        fact()
    tokens = kept()
    forget_before(tokens[1])

    async def listen():
        async with reading() as hub:
            with pytest.raises(Gap):
                await heard(hub, Client(None, position(tokens[0])), 1)
            return await heard(hub, Client(None, position(tokens[1])), 4)

    assert run(listen()) == tokens[2:]


def test_memory_that_reaches_back_to_the_floor_knows_a_gap_too():
    for _ in range(3):
        fact()
    tokens = kept()
    forget_before(tokens[1])

    async def listen():
        async with reading() as hub:
            with pytest.raises(Gap):
                await heard(hub, Client(None, position(tokens[0])), 1)

    run(listen())


def test_events_that_go_while_somebody_catches_up_are_a_gap_not_a_silence(monkeypatch):
    monkeypatch.setattr(hub_module, "KEPT", 2)
    monkeypatch.setattr(hub_module, "PAGE", 3)
    for _ in range(12):
        fact()
    tokens = kept()

    async def listen():
        async with reading() as hub:
            missed = hub.catch_up(Client(None, position(tokens[0])))
            got = [(await anext(missed)).token for _ in range(3)]
            await asyncio.to_thread(connected, forget_before, tokens[6])
            with pytest.raises(Gap):
                await anext(missed)
            return got

    assert run(listen()) == tokens[1:4]


def connected(function, *arguments):
    with db.database.connection_context():
        return function(*arguments)


def test_a_restored_database_sends_everybody_away_to_start_over(monkeypatch):
    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            hub.position = Position(2**40, LAST_ID)  # of the database before
            hub.nudged.set()
            with pytest.raises(Ended, match="restart"):
                async with asyncio.timeout(20):
                    await client.messages()
            hub.leave(client)
            await asyncio.sleep(0.1)
            with pytest.raises(Gap):
                await heard(hub, Client(None, Position(2**40, 1)), 1)
            again = Client(None)
            assert [m async for m in hub.catch_up(again)] == []
            fact()
            return [m.token for m in await again.messages()]

    assert run(listen()) == kept()


def asked_by_clients(monkeypatch):
    """What is read from now on for those who catch up; the hub's own reads name nobody."""
    questions, after = [], events.after

    def note(*question):
        if len(question) > 2:
            questions.append(question)
        return after(*question)

    monkeypatch.setattr(events, "after", note)
    return questions


def test_a_thousand_who_reconnect_at_once_cost_next_to_no_query(monkeypatch):
    questions = asked_by_clients(monkeypatch)
    for number in range(300):
        fact("prices.stale", n=number)
    tokens = kept()

    async def come_back(after):
        async with reading() as hub:  # a fresh process: all that it knows is in the table
            await hub.started.wait()
            users = [None, *range(1, 1000)]
            with stopwatch() as took:
                all_heard = await asyncio.gather(
                    *(heard(hub, Client(user, position(tokens[after])), 299 - after) for user in users)
                )
            assert len(questions) < 60
            assert took.seconds < 20
            assert len(hub.clients) == 1000
            return all_heard

    for one in run(come_back(280)):
        assert one == tokens[-19:]


def test_those_who_have_been_away_for_long_share_what_is_read_for_them(monkeypatch):
    monkeypatch.setattr(hub_module, "KEPT", 10)
    questions = asked_by_clients(monkeypatch)
    for number in range(1200):
        fact("run.failed", n=number)
    tokens = kept()

    async def come_back():
        async with reading() as hub:
            await hub.started.wait()
            heard_by = await asyncio.gather(*(heard(hub, Client(None, position(tokens[0])), 1199) for _ in range(200)))
            return len(questions), heard_by

    asked_for, heard_by = run(come_back())
    assert asked_for < 30
    assert all(one == tokens[1:] for one in heard_by)


@pytest.mark.parametrize(
    ("listener", "topics"),
    [
        (None, {"public", "nobody's", "ann's", "bob's"}),
        (1, {"public", "ann's"}),
        (2, {"public", "bob's"}),
        (3, {"public"}),
    ],
)
@pytest.mark.parametrize("memory", [0, 2000], ids=["from the table", "from memory"])
def test_a_users_facts_are_closed_to_others(monkeypatch, listener, topics, memory):
    monkeypatch.setattr(hub_module, "KEPT", memory or 1)
    fact("first")
    start = position(kept()[0])
    said = {
        "public": ("prices.stale", None),
        "nobody's": ("run.failed", None),
        "ann's": ("alert", 1),
        "bob's": ("alert", 2),
    }
    for words, (topic, user) in said.items():
        fact(topic, user, words=words)

    async def listen():
        async with reading() as hub:
            client = Client(listener, start)
            early = [json.loads(m.text)["payload"] async for m in hub.catch_up(client)]
            for words, (topic, user) in said.items():
                fact(topic, user, words=f"{words} now")
            fact("prices.stale", words="all is said")
            late = []
            while {"words": "all is said"} not in late:
                late += [json.loads(m.text)["payload"] for m in await client.messages()]
            return {payload["words"] for payload in early + late if payload}

    assert run(listen()) == topics | {f"{words} now" for words in topics} | {"all is said"}


def test_a_client_that_does_not_read_is_sent_away_and_misses_nothing_when_it_resumes(monkeypatch):
    monkeypatch.setattr(listeners, "WAITING", 5)

    async def listen():
        async with reading() as hub:
            slow, other = Client(None), Client(None)
            for client in (slow, other):
                assert [m async for m in hub.catch_up(client)] == []
            fact("run.failed", n=0)
            first = [m.token for m in await slow.messages()]
            for number in range(12):
                fact("run.failed", n=number)
                await other.messages()
            with pytest.raises(Ended, match="slow"):
                await slow.messages()
            with pytest.raises(Ended, match="slow"):  # it stays away: nothing after the hole may reach it
                await slow.messages()
            hub.leave(slow)
            monkeypatch.setattr(listeners, "WAITING", 500)
            return first + await heard(hub, Client(None, position(first[-1])), 12)

    assert run(listen()) == kept()


def test_of_state_a_client_that_was_busy_reads_the_newest_alone():
    async def listen():
        async with reading() as hub:
            client = Client(7)
            assert [m async for m in hub.catch_up(client)] == []
            await listening(client)
            for price in range(100):
                bus.broadcast("quote", {"symbol": "BTC-USD", "price": price})
                bus.broadcast("quote", {"symbol": "ETH-USD", "price": -price})
            bus.broadcast("quote", {"symbol": "all is said", "price": 0})
            await async_until(lambda: "quote/all is said" in client.state)
            client.state.pop("quote/here?", None)
            return await client.messages()

    messages = run(listen())
    assert [(m.token, json.loads(m.text)["payload"]["price"]) for m in messages] == [("", 99), ("", -99), ("", 0)]


@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff\xfe", b"[]", b"null", b'"quote"', b'{"topic": 1}', b'{"topic":"q","payload":3}']
)
def test_what_is_no_state_is_left_alone(nonsense):
    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            while True:  # others listen too, so that nobody can tell when we do
                db.redis().publish(bus.LIVE, nonsense)
                bus.broadcast("quote", {"symbol": "BTC-USD"})
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        return await client.messages()

    assert len(run(listen())) == 1


def test_without_redis_facts_come_within_about_a_second_and_at_once_when_it_is_back(monkeypatch, valkey):
    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            await asyncio.to_thread(valkey.stop)
            await async_until(lambda: hub.redis_away)
            with db.transaction():
                events.add("run.failed", {}, None)
            with stopwatch() as without:
                await client.messages()
            valkey.start()
            await async_until(lambda: not hub.redis_away)
            monkeypatch.setattr(hub_module, "SWEEP", 60)
            hub.nudged.set()
            await async_until(lambda: not hub.nudged.is_set())  # from now on it looks once a minute
            fact()
            with stopwatch() as back:
                await client.messages()
            return without.seconds, back.seconds

    without, back = run(listen())
    assert without < 3
    assert back < 10


def test_a_redis_that_answers_no_ping_is_given_up_and_found_again(monkeypatch, valkey):
    monkeypatch.setattr(hub_module, "REDIS_SILENCE", 0.6)

    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            await listening(client)
            valkey.process.send_signal(signal.SIGSTOP)
            try:
                await async_until(lambda: hub.redis_away)
            finally:
                valkey.process.send_signal(signal.SIGCONT)
            await async_until(lambda: not hub.redis_away)

    run(listen())


def test_when_postgresql_is_back_events_go_on_by_themselves(postgres):
    async def listen():
        async with reading() as hub:
            client = Client(None)
            assert [m async for m in hub.catch_up(client)] == []
            fact("run.failed", n=1)
            tokens = [m.token for m in await client.messages()]
            db.database.close()
            await asyncio.to_thread(postgres.stop)
            await async_until(lambda: hub.database_away)
            postgres.start()  # in this thread: a server dies with the thread that started it
            await asyncio.to_thread(connected, fact, "run.failed")
            return tokens + [m.token for m in await client.messages()]

    tokens = run(listen())
    db.database.connect(reuse_if_open=True)
    assert tokens == kept()


def test_who_is_gone_leaves_nothing_behind():
    async def listen():
        async with reading() as hub:
            ours = {*hub._tasks, asyncio.current_task()}
            for number in range(50):
                client = Client(number % 3 or None)
                assert [m async for m in hub.catch_up(client)] == []
                hub.leave(client)
            hub.leave(Client(9))  # one that never joined
            assert not hub.clients
            assert not hub._whose
            assert not hub._pages
            await async_until(lambda: asyncio.all_tasks() == ours)  # a time-out of the hub's own is a task for a moment

    run(listen())


def test_who_comes_while_the_process_ends_goes_elsewhere():
    async def listen():
        hub = Hub()
        await hub.start()
        await hub.started.wait()
        early = Client(None)
        assert [m async for m in hub.catch_up(early)] == []
        hub.send_away()
        late = Client(None)
        assert [m async for m in hub.catch_up(late)] == []
        for client in (early, late):
            with pytest.raises(Ended, match="restart"):
                await client.messages()
        await hub.stop()

    run(listen())


@given(st.text(max_size=60) | st.from_regex(r"[0-9]{1,25}-[0-9]{1,25}", fullmatch=True))
def test_a_token_is_a_position_or_refused(text):
    parsed = None
    with suppress(ValueError):
        parsed = parse_token(text)
    if parsed is not None:
        assert 0 <= parsed.xid < 2**63
        assert 0 <= parsed.id <= LAST_ID
        xid, _, id_ = text.partition("-")
        assert parsed == (int(xid), int(id_))
