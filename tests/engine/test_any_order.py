"""The steps in any order, with answers lost and workers gone: each run is somewhere, and in one hand at most."""

from __future__ import annotations

import random
from itertools import count

import pytest

from engine import steps
from engine.lost import find_lost
from tests.engine.desk import beat, end, put, silence, status, take

LIMITS = {"A": 1, "B": 2}
WORKERS = ("u", "v", "w")
OVER = ("finished", "failed", "canceled", None)


class House:
    """Three workers, as their clients see them, and all that may happen to them."""

    def __init__(self, redis, dice):
        self.redis, self.dice = redis, dice
        self.numbers = count(1)
        self.runs = {}  # id -> limits
        self.hands = dict.fromkeys(WORKERS)  # worker -> (run, execution) as its horse believes
        self.latest = dict.fromkeys(WORKERS)  # worker -> its latest call, to be repeated
        for worker in WORKERS:
            beat(redis, worker)

    def enqueue(self):
        limits = [[name, LIMITS[name]] for name in LIMITS if self.dice.random() < 0.4]
        run = put(self.redis, "fine", run_id=f"r{len(self.runs)}", limits=limits, tries=self.dice.randint(1, 4))
        self.runs[run] = limits

    def call(self, worker, queues=("default",)):
        """What a work-horse does next; sometimes its answer is lost, and it asks again or dies of it."""
        finished = None
        if self.hands[worker]:
            run, execution = self.hands[worker]
            outcome = self.dice.choice(["ok", "ok", "ok", "failed", "retried", "yielded", "handed_back", "refused"])
            finished = end(run, execution, outcome, limits=self.runs[run], delay=self.dice.choice([0, 60_000]))
        number = next(self.numbers)
        arguments = {"finished": finished, "queues": list(queues), "execution": f"e{number}", "number": number}
        before, self.latest[worker] = self.latest[worker], arguments
        state, run = take(self.redis, worker, **arguments)
        luck = self.dice.random()
        if luck < 0.15:
            assert take(self.redis, worker, **arguments) == (state if state != "fenced" else "ok", run)
        elif luck < 0.25 and before:
            assert take(self.redis, worker, **before)[0] in ("late", "unknown", "ok", "fenced")
        elif luck < 0.3:
            self.die(worker)
            return
        self.hands[worker] = (run, f"e{number}") if run else None

    def die(self, worker):
        """The horse is gone; its parent gives back what it had, and its last call may still come."""
        steps.rescue(self.redis, worker, "the work-horse died", counted=self.dice.random() < 0.5)
        if self.latest[worker] and self.dice.random() < 0.3:
            take(self.redis, worker, **self.latest[worker])
        self.hands[worker] = None

    def fall_silent(self, worker):
        """Reaped by another; its horse does not know yet, its parent starts over."""
        reaper = next(other for other in WORKERS if other != worker)
        for other in WORKERS:
            silence(self.redis, other, seconds=11 if other == worker else 0)  # however slow this machine is
        beat(self.redis, reaper)
        if self.hands[worker] and self.dice.random() < 0.5:
            run, execution = self.hands[worker]
            number = next(self.numbers)
            take(self.redis, worker, end(run, execution, limits=self.runs[run]), ["default"], f"e{number}", number)
        assert beat(self.redis, worker)[0] == "dead"
        steps.rescue(self.redis, worker, "taken for dead")
        beat(self.redis, worker)
        self.hands[worker], self.latest[worker] = None, None

    def meddle(self):
        """Another tool deletes, cancels, requeues or queues twice."""
        if not self.runs:
            return
        run = self.dice.choice(list(self.runs))
        what = self.dice.choice(["delete", "cancel", "twice", "forget"])
        if what == "delete":
            self.redis.delete(f"rq:job:{run}")
        elif what == "cancel" and status(self.redis, run) == "queued":
            self.redis.hset(f"rq:job:{run}", "status", "canceled")
        elif what == "twice" and status(self.redis, run) == "queued":
            self.redis.rpush("rq:queue:default", run)
        elif what == "forget":
            self.redis.lrem("rq:queue:default", 0, run)
            for _ in range(2):
                self.redis.delete("nightdesk:scan")
                find_lost(self.redis)

    def pass_time(self):
        for run in self.redis.zrange("rq:scheduled:default", 0, -1):
            self.redis.zadd("rq:scheduled:default", {run: 1})

    def step(self):
        kind = self.dice.choices(
            ["enqueue", "call", "die", "silent", "meddle", "time"], [20, 55, 6, 5, 7, 7]
        )[0]  # fmt: skip
        worker = self.dice.choice(WORKERS)
        {
            "enqueue": self.enqueue, "meddle": self.meddle, "time": self.pass_time,
            "call": lambda: self.call(worker), "die": lambda: self.die(worker),
            "silent": lambda: self.fall_silent(worker),
        }[kind]()  # fmt: skip

    def check(self):
        """The laws."""
        redis = self.redis
        held = [
            (member.decode().rpartition(":")[0], worker)
            for worker in WORKERS
            for member in redis.smembers(f"rq:worker:{worker}:executions")
        ]
        in_hand = [run for run, _ in held]
        assert len(in_hand) == len(set(in_hand)), "in two hands"
        assert len({worker for _, worker in held}) == len(held), "two in one hand"
        for worker, hand in self.hands.items():
            if hand:
                assert redis.sismember(f"rq:worker:{worker}:executions", ":".join(hand)), "taken from who works on it"
        queued = [run.decode() for run in redis.lrange("rq:queue:default", 0, -1)]
        later = [run.decode() for run in redis.zrange("rq:scheduled:default", 0, -1)]
        parked = [run.decode() for name in LIMITS for run in redis.lrange(f"nightdesk:waiting:{name}", 0, -1)]
        places = {*in_hand, *queued, *later, *parked}
        for run in self.runs:
            if status(redis, run) not in OVER:
                assert run in places, f"{run} is {status(redis, run)} and nowhere"
        for name, size in LIMITS.items():
            running = {run.decode() for run in redis.zrange(f"nightdesk:running:{name}", 0, -1)}
            assert len(running) <= size, "over its limit"
            assert running == {run for run in in_hand if [name, size] in self.runs[run]}, "a slot held by nobody"
        wip = {member.decode().rpartition(":")[0] for member in redis.zrange("rq:wip:default", 0, -1)}
        assert wip == set(in_hand), "rq's list of what runs is wrong"

    def finish(self):
        """Everybody works until nothing is left; nothing may be left over."""
        for _ in range(400):
            self.pass_time()
            for worker in WORKERS:
                finished = None
                if self.hands[worker]:
                    run, execution = self.hands[worker]
                    finished = end(run, execution, limits=self.runs[run])
                number = next(self.numbers)
                _, run = take(self.redis, worker, finished, ["default"], f"e{number}", number)
                self.hands[worker] = (run, f"e{number}") if run else None
            self.check()
            if not any(self.hands.values()) and not self.redis.exists("rq:queue:default", "rq:scheduled:default"):
                break
        left = {run: status(self.redis, run) for run in self.runs if status(self.redis, run) not in OVER}
        assert left == {}
        assert self.redis.keys("nightdesk:running:*") == []
        assert self.redis.keys("rq:execution*") == []


@pytest.mark.parametrize("seed", range(25))
def test_each_run_is_somewhere_and_in_one_hand_at_most_whatever_happens(redis, seed):
    house = House(redis, random.Random(seed))
    for _ in range(120):
        house.step()
        house.check()
    house.finish()
