"""The step that hands out runs and ends them."""

from __future__ import annotations

import json
from statistics import median

import pytest
from redis.exceptions import ConnectionError as RedisGone

import engine.worker
from engine import steps
from tests.engine.desk import beat, end, heard, outcomes, put, put_raw, silence, status, take, waiting


def test_a_run_is_handed_out_once_and_marked_as_started_in_the_same_step(redis):
    beat(redis)
    run = put(redis, "fine")
    assert take(redis) == ("ok", run)
    assert take(redis, "v") == ("unknown", None)
    beat(redis, "v")
    assert take(redis, "v") == ("ok", None)
    assert status(redis, run) == "started"
    assert [member.decode().split(":")[0] for member in redis.smembers("rq:worker:w:executions")] == [run]


def test_queues_are_served_in_strict_priority(redis):
    beat(redis)
    for queue in ("low", "default", "critical"):
        put(redis, "fine", run_id=f"in-{queue}", queue=queue)
    assert take(redis, execution="x")[1] == "in-critical"
    assert take(redis, execution="y", finished=end("in-critical", "x", queue="critical"))[1] == "in-default"
    assert take(redis, execution="z", finished=end("in-default", "y"))[1] == "in-low"


def test_a_retry_that_is_due_in_a_higher_queue_goes_before_what_waits_in_a_lower_one(redis):
    beat(redis)
    run = put(redis, "fine", queue="critical")
    take(redis, execution="x")
    take(redis, finished=end(run, "x", "retried", queue="critical"), queues=[])
    put(redis, "fine"), put(redis, "fine", queue="low")
    assert take(redis)[1] == run


def test_a_call_whose_answer_was_lost_gets_the_same_run_again(redis):
    beat(redis)
    run, other = put(redis, "fine"), put(redis, "fine")
    assert take(redis, execution="x", number=2001) == ("ok", run)
    assert take(redis, execution="x", number=2001) == ("ok", run)
    assert waiting(redis) == [other]
    assert redis.hget(f"rq:job:{run}", "nd_attempt") == b"1"


def test_a_run_that_was_deleted_before_its_lost_answer_came_again_leaves_nothing_behind(redis):
    beat(redis)
    run, other = put(redis, "fine", limits=[["api", 1]]), put(redis, "fine")
    assert take(redis, execution="x", number=2011) == ("ok", run)
    redis.delete(f"rq:job:{run}")
    assert take(redis, execution="x", number=2011) == ("ok", other)
    assert [member.decode() for member in redis.smembers("rq:worker:w:executions")] == [f"{other}:x"]
    assert not redis.exists("nightdesk:running:api")


def test_what_was_finished_in_a_call_whose_answer_was_lost_is_finished_once(redis):
    beat(redis)
    first, second = put(redis, "fine"), put(redis, "fine")
    take(redis, execution="x", number=2101)
    for _ in range(3):
        assert take(redis, finished=end(first, "x"), execution="y", number=2102) == ("ok", second)
    assert redis.xlen(steps.RUNS) == 1
    assert redis.hget("rq:worker:w", "successful_job_count") == b"1"


def test_a_call_that_arrives_after_the_next_one_does_nothing(redis):
    beat(redis)
    run, other = put(redis, "fine"), put(redis, "fine")
    assert take(redis, number=2202) == ("ok", run)
    assert take(redis, number=2201) == ("late", None)
    assert waiting(redis) == [other]


def test_a_run_that_a_dead_work_horse_was_handed_too_late_comes_back_at_the_next_call(redis):
    """The horse was killed, its parent gave back what it had, and only then its last call reached Redis."""
    beat(redis)
    run = put(redis, "fine")
    steps.rescue(redis, "w", "the work-horse died")
    assert take(redis, execution="dead-horse", number=2301) == ("ok", run)
    assert take(redis, execution="next-horse", number=2302) == ("ok", run)
    assert redis.hget(f"rq:job:{run}", "nd_attempt") == b"2"


def test_nothing_is_handed_to_a_worker_that_has_not_beaten_yet(redis):
    """Killed in its first second it would be in no list, and what it had in hand lost."""
    run = put(redis, "fine")
    assert take(redis) == ("unknown", None)
    assert waiting(redis) == [run]


def test_a_run_that_was_queued_twice_runs_once(redis):
    beat(redis)
    run = put(redis, "fine")
    redis.rpush("rq:queue:default", run, run)
    assert take(redis, execution="x")[1] == run
    beat(redis, "v")
    assert take(redis, "v") == ("ok", None)
    redis.rpush("rq:queue:default", run)
    assert take(redis, finished=end(run, "x")) == ("ok", None)
    assert status(redis, run) == "finished"


def test_an_end_is_refused_once_the_run_was_taken_from_the_worker(redis):
    beat(redis)
    run = put(redis, "fine")
    take(redis, execution="x")
    silence(redis, "w")
    assert beat(redis, "v")[1] == [("w", 1)]
    assert take(redis, "v", execution="y")[1] == run
    assert take(redis, "w", finished=end(run, "x", "failed"))[0] == "fenced"
    assert status(redis, run) == "started"
    assert redis.xlen(steps.RUNS) == 1  # that it was lost


def test_an_end_is_recorded_when_redis_has_lost_its_memory_meanwhile(redis):
    beat(redis)
    run = put(redis, "fine")
    take(redis, execution="x")
    redis.flushall()
    assert take(redis, finished=end(run, "x"), queues=[])[0] == "ok"
    assert redis.xlen(steps.RUNS) == 1
    assert not redis.exists(f"rq:job:{run}")


@pytest.mark.parametrize("outcome", ["yielded", "handed_back", "retried"])
def test_a_run_that_another_tool_deleted_while_it_ran_leaves_nothing_behind(redis, outcome):
    beat(redis)
    run = put(redis, "fine")
    take(redis, execution="x")
    redis.delete(f"rq:job:{run}")
    take(redis, finished=end(run, "x", outcome), queues=[])
    assert not redis.exists(f"rq:job:{run}")
    assert waiting(redis) == []
    assert redis.zcard("rq:scheduled:default") == 0


def test_a_retry_that_another_tool_deleted_leaves_nothing_behind(redis):
    beat(redis)
    redis.zadd("rq:scheduled:default", {"gone": 1})
    assert take(redis) == ("ok", None)
    assert not redis.exists("rq:job:gone")


def test_a_retry_comes_when_it_is_due_and_not_before(redis):
    beat(redis)
    run = put(redis, "fine")
    take(redis, execution="x")
    assert take(redis, finished=end(run, "x", "retried", delay=60_000))[1] is None
    assert status(redis, run) == "scheduled"
    redis.zadd("rq:scheduled:default", {run: steps.now(redis) / 1000 - 1})
    assert take(redis)[1] == run


def test_a_key_that_is_not_what_it_should_be_costs_only_its_own_run(redis):
    beat(redis)
    redis.set("rq:job:poison", "a text")
    redis.rpush("rq:queue:default", "poison")
    put_raw(redis, "no-number", data="[]", nd_attempt="often")
    put_raw(redis, "no-limits", data="[]", nd_limits="{broken")
    run = put(redis, "fine")
    assert take(redis) == ("ok", run)
    lines = [json.loads(fields[b"r"]) for _, fields in redis.xrange(steps.RUNS)]
    assert [(line["run"], line["outcome"], line["dead"]) for line in lines] == [
        ("poison", "refused", True), ("no-number", "refused", True), ("no-limits", "refused", True)
    ]  # fmt: skip
    assert redis.smembers("rq:worker:w:executions") == {
        member for member in redis.smembers("rq:worker:w:executions") if member.startswith(run.encode())
    }


def test_retries_that_cannot_be_read_hold_up_no_other_queue(redis):
    beat(redis)
    redis.set("rq:scheduled:low", "a text")
    run = put(redis, "fine", queue="critical")
    state, got = take(redis)
    assert got == run
    assert state.startswith("what is due again in low waits: WRONGTYPE")


def test_an_end_that_can_be_written_only_in_part_costs_only_its_own_run(redis):
    beat(redis)
    run, other = put(redis, "fine"), put(redis, "fine")
    take(redis, execution="x")
    redis.set("rq:finished:default", "a text")
    state, following = take(redis, finished=end(run, "x"))
    assert state.startswith(f"the end of {run} is recorded in part")
    assert following == other
    assert redis.xlen(steps.RUNS) >= 1


@pytest.mark.parametrize("run_id", [b"caf\xc3\xa9", b"\xff\xfe", b"line\nbreak", b"nul\0", b"x" * 300])
def test_an_id_that_no_tool_could_show_is_refused(redis, run_id):
    beat(redis)
    redis.hset(b"rq:job:" + run_id, mapping={"origin": "default", "data": "[]", "status": "queued"})
    redis.rpush("rq:queue:default", run_id)
    assert take(redis) == ("ok", None)
    (fields,) = [fields for _, fields in redis.xrange(steps.RUNS)]
    assert json.loads(fields[b"r"])["outcome"] == "refused"


@pytest.mark.parametrize("run_id", ["a:b:c", "with space", "per%cent", 'quo"te', "back\\slash", "{curly}", "-"])
def test_an_id_with_odd_characters_is_worked_off(redis, run_id):
    beat(redis)
    put(redis, "fine", run_id=run_id)
    assert take(redis, execution="x")[1] == run_id
    assert take(redis, finished=end(run_id, "x")) == ("ok", None)
    assert status(redis, run_id) == "finished"
    assert not redis.exists("rq:worker:w:executions")


def test_a_finished_run_is_forgotten_when_its_time_is_over_and_so_is_its_place_in_rqs_list(redis):
    beat(redis)
    for ttl in (-1, 0, 60):
        run = put(redis, "fine", run_id=f"ttl{ttl}")
        take(redis, execution="x")
        take(redis, finished=end(run, "x", ttl=ttl), queues=[])
    assert redis.ttl("rq:job:ttl-1") == -1
    assert not redis.exists("rq:job:ttl0")
    assert 0 < redis.ttl("rq:job:ttl60") <= 60
    redis.zadd("rq:finished:default", {"ttl60": steps.now(redis) / 1000 - 1})
    beat(redis)
    assert redis.zrange("rq:finished:default", 0, -1) == [b"ttl-1"]


def test_nothing_is_handed_out_while_the_queues_are_suspended(redis):
    beat(redis)
    run = put(redis, "fine")
    redis.set("rq:suspended", 1)
    assert take(redis) == ("ok", None)
    redis.delete("rq:suspended")
    assert take(redis) == ("ok", run)


def test_a_script_that_the_server_forgot_is_sent_again(redis):
    beat(redis)
    run = put(redis, "fine")
    redis.script_flush()
    assert take(redis) == ("ok", run)


def test_a_queue_of_a_hundred_thousand_is_no_slower_than_a_short_one(redis):
    beat(redis)
    template = {"data": "[]", "origin": "default", "status": "queued"}
    for start in range(0, 100_000, 10_000):
        with redis.pipeline(transaction=False) as pipe:
            for number in range(start, start + 10_000):
                pipe.hset(f"rq:job:n{number}", mapping=template)
            pipe.rpush("rq:queue:default", *(f"n{number}" for number in range(start, start + 10_000)))
            pipe.execute()
    last, took = None, []
    for number in range(200):
        redis.config_resetstat()
        _, run = take(redis, finished=last and end(last, "x"), execution="x")
        took.append(sum(figures["usec"] for name, figures in redis.info("commandstats").items() if "eval" in name))
        assert run == f"n{number}"
        last = run
    assert median(took) < 1000  # µs in the server


# --- limits


LIMITS = [["api", 1]]


def test_a_run_beyond_a_limit_is_parked_and_goes_first_when_a_slot_is_free(redis):
    beat(redis), beat(redis, "v")
    one, two = (put(redis, "fine", limits=LIMITS) for _ in range(2))
    free = put(redis, "fine")
    assert take(redis, execution="x")[1] == one
    assert take(redis, "v", execution="y")[1] == free
    assert redis.lrange("nightdesk:waiting:api", 0, -1) == [two.encode()]
    assert take(redis, finished=end(one, "x", limits=LIMITS))[1] == two


def test_jobs_share_a_limit(redis):
    beat(redis), beat(redis, "v"), beat(redis, "u")
    for number in range(3):
        put(redis, "fine", run_id=f"r{number}", limits=[["api", 2]])
    assert [take(redis, worker)[1] for worker in "wvu"] == ["r0", "r1", None]


@pytest.mark.parametrize("outcome", ["ok", "failed", "retried", "yielded", "handed_back", "refused"])
def test_every_end_frees_the_slot(redis, outcome):
    beat(redis)
    run = put(redis, "fine", limits=LIMITS)
    take(redis, execution="x")
    assert redis.zcard("nightdesk:running:api") == 1
    take(redis, finished=end(run, "x", outcome, limits=LIMITS), queues=[])
    assert redis.zcard("nightdesk:running:api") == 0


def test_the_slot_of_a_dead_workers_run_is_freed_even_if_the_run_was_deleted_meanwhile(redis):
    beat(redis), beat(redis, "v")
    run, parked = (put(redis, "fine", limits=LIMITS) for _ in range(2))
    assert take(redis)[1] == run
    assert take(redis, "v")[1] is None
    redis.delete(f"rq:job:{run}")
    silence(redis, "w")
    assert beat(redis, "v")[1] == [("w", 1)]
    assert take(redis, "v")[1] == parked


def test_who_waits_for_a_slot_gets_it_when_the_one_that_was_woken_for_it_is_deleted(redis):
    beat(redis)
    one, two, three = (put(redis, "fine", limits=LIMITS) for _ in range(3))
    take(redis, execution="x")
    beat(redis, "v")
    take(redis, "v")  # parks two and three
    redis.delete(f"rq:job:{two}")
    take(redis, finished=end(one, "x", limits=LIMITS), queues=[])  # wakes three: two is gone
    redis.delete(f"rq:job:{three}")
    four = put(redis, "fine", limits=LIMITS)
    assert take(redis)[1] == four


def test_who_waits_for_a_slot_gets_it_when_the_one_that_was_woken_for_it_must_wait_for_another(redis):
    for worker in "wvut":
        beat(redis, worker)
    put(redis, "fine", run_id="a", limits=[["A", 1]])
    put(redis, "fine", run_id="b", limits=[["B", 1]])
    put(redis, "fine", run_id="both", limits=[["A", 1], ["B", 1]])
    put(redis, "fine", run_id="a2", limits=[["A", 1]])
    assert [take(redis, "w", execution="x")[1], take(redis, "v", execution="y")[1]] == ["a", "b"]
    assert take(redis, "u")[1] is None
    assert take(redis, "w", finished=end("a", "x", limits=[["A", 1]]), execution="z")[1] == "a2"  # both waits for B now
    assert take(redis, "v", finished=end("b", "y", limits=[["B", 1]]))[1] is None
    assert take(redis, "w", finished=end("a2", "z", limits=[["A", 1]]))[1] == "both"


def test_a_thousand_runs_that_must_wait_do_not_hold_up_what_comes_after_them(redis):
    beat(redis)
    redis.zadd("nightdesk:running:api", {"somebody": 1})
    with redis.pipeline(transaction=False) as pipe:
        for number in range(2500):
            pipe.hset(f"rq:job:n{number}", mapping={"data": "[]", "origin": "default", "nd_limits": json.dumps(LIMITS)})
        pipe.rpush("rq:queue:default", *(f"n{number}" for number in range(2500)))
        pipe.execute()
    run = put(redis, "fine")
    assert [take(redis) for _ in range(3)] == [("more", None), ("more", None), ("ok", run)]
    assert redis.llen("nightdesk:waiting:api") == 2500


def test_runs_parked_behind_a_limit_go_on_after_their_entry_was_removed(redis):
    beat(redis), beat(redis, "v")
    limits = [["entry:fine", 1]]
    one, two = (put(redis, "fine", entry="fine", limits=limits) for _ in range(2))
    assert take(redis, execution="x")[1] == one
    assert take(redis, "v")[1] is None
    steps.declare(redis, [], reconcile=True)
    assert take(redis, finished=end(one, "x", limits=limits))[1] == two


def test_runs_parked_behind_a_slot_that_nobody_holds_any_more_are_woken(redis):
    beat(redis)
    run = put(redis, "fine", limits=LIMITS)
    redis.zadd("nightdesk:running:api", {"ghost": 1})
    assert take(redis)[1] is None
    redis.zrem("nightdesk:running:api", "ghost")
    assert take(redis)[1] == run


# --- entries


def test_a_run_that_waits_again_counts_as_its_entrys_overlap(redis):
    redis.hset("nightdesk:entry:e", "due", 1)
    beat(redis)
    for outcome in ("yielded", "handed_back", "retried"):
        run = put(redis, "fine", entry="e")
        take(redis, execution="x")
        assert redis.hget("nightdesk:entry:e", "queued") is None
        take(redis, finished=end(run, "x", outcome, delay=10), queues=[])
        assert redis.hget("nightdesk:entry:e", "queued") == run.encode()
        redis.zadd("rq:scheduled:default", {run: 1}, xx=True)
        assert take(redis, execution="y")[1] == run
        take(redis, finished=end(run, "y"), queues=[])


def test_a_run_of_an_entry_that_was_removed_leaves_no_trace_of_the_entry(redis):
    beat(redis)
    run = put(redis, "fine", entry="gone", limits=[["entry:gone", 1]])
    take(redis, execution="x")
    take(redis, finished=end(run, "x", "yielded", limits=[["entry:gone", 1]]), queues=[])
    assert not redis.exists("nightdesk:entry:gone")
    assert take(redis)[1] == run


# --- the dead


def test_what_a_dead_worker_had_in_hand_goes_to_the_front_and_counts_as_a_try(redis, database):
    beat(redis)
    run, other = put(redis, "fine"), put(redis, "fine")
    take(redis)
    silence(redis, "w")
    assert beat(redis, "v")[1] == [("w", 1)]
    assert waiting(redis) == [run, other]
    assert redis.hget(f"rq:job:{run}", "nd_tries") == b"1"
    from engine.history import write

    write(redis)
    assert outcomes(run) == ["lost"]


def test_after_its_last_try_it_is_a_dead_letter(redis):
    beat(redis)
    run = put(redis, "fine", tries=2)
    for worker in "ab":
        beat(redis, worker)
        assert take(redis, worker)[1] == run
        silence(redis, worker)
        beat(redis)
    assert status(redis, run) == "failed"
    assert redis.zrange("rq:failed:default", 0, -1) == [run.encode()]
    assert waiting(redis) == []
    assert json.loads(redis.xrange(steps.RUNS)[-1][1][b"r"])["dead"] is True


def test_a_run_that_was_handed_back_uses_up_no_try(redis):
    beat(redis)
    run = put(redis, "fine", tries=1)
    take(redis)
    steps.rescue(redis, "w", "the worker was stopped", counted=False)
    assert status(redis, run) == "queued"
    assert redis.hget(f"rq:job:{run}", "nd_tries") is None


def test_a_run_that_an_operator_stopped_is_not_tried_again(redis):
    beat(redis)
    run = put(redis, "fine", tries=5)
    take(redis)
    steps.rescue(redis, "w", "stopped by an operator", run)
    assert status(redis, run) == "failed"


def test_nobody_is_declared_dead_after_a_silence_that_was_everybodys(redis):
    """Redis was away, or stood still: calls that were held up on their way must not kill who could not speak."""
    beat(redis), beat(redis, "v")
    put(redis, "fine")
    take(redis)
    silence(redis, "w", 15)
    redis.zadd(steps.WORKERS, {"v": steps.now(redis) - 15_000})
    redis.hset("nightdesk:pulse", mapping={"at": steps.now(redis) - 15_000, "since": 0})
    assert beat(redis, "v") == ("known", [])
    heard(redis, seconds=50)
    assert beat(redis, "v", heard_for=60) == ("known", [])
    heard(redis, seconds=61)
    assert beat(redis, "v", heard_for=60) == ("known", [("w", 1)])


def test_who_was_cut_off_or_speaks_late_declares_nobody_dead(redis):
    """Others may have been cut off with it: a host that was paused, a network that came back."""
    beat(redis), beat(redis, "v")
    silence(redis, "w")
    assert beat(redis, "v", sent=-1)[1] == []
    assert beat(redis, "v", sent=steps.now(redis) - 5000)[1] == []
    assert beat(redis, "v", sent=steps.now(redis) + 60_000)[1] == [("w", 0)]  # not late, however slow this machine is


def set_back(redis, seconds=3600):
    """The clock: whatever was written until now is ahead of it by so much."""
    for worker, beaten in redis.zrange(steps.WORKERS, 0, -1, withscores=True):
        redis.zadd(steps.WORKERS, {worker: beaten + seconds * 1000})
    for run, due in redis.zrange("rq:scheduled:default", 0, -1, withscores=True):
        redis.zadd("rq:scheduled:default", {run: due + seconds})
        if redis.hexists(b"rq:job:" + run, "nd_since"):
            redis.hincrby(b"rq:job:" + run, "nd_since", seconds * 1000)
    redis.hset("nightdesk:pulse", mapping={"at": steps.now(redis) + seconds * 1000, "since": 0})


def test_when_the_clock_is_set_back_the_dead_are_found_once_the_living_have_beaten(redis):
    beat(redis), beat(redis, "v")
    run = put(redis, "fine")
    take(redis)
    set_back(redis)
    assert beat(redis, "v") == ("known", [])
    heard(redis, seconds=50)
    assert beat(redis, "v", heard_for=60) == ("known", [])
    heard(redis, seconds=61)
    assert beat(redis, "v", heard_for=60) == ("known", [("w", 1)])
    assert waiting(redis) == [run]
    assert beat(redis, "v") == ("known", [])


@pytest.mark.parametrize("delay", [10, 7200])
def test_when_the_clock_is_set_back_a_retry_waits_as_long_as_it_was_to_and_no_longer(redis, delay):
    beat(redis)
    run, theirs = put(redis, "fine"), put(redis, "fine")
    take(redis, execution="x")
    take(redis, finished=end(run, "x", "retried", delay=delay * 1000), queues=[])
    redis.lrem("rq:queue:default", 0, theirs)
    redis.zadd("rq:scheduled:default", {theirs: 4e9})
    set_back(redis)
    redis.sadd("rq:queues", "rq:queue:odd")
    redis.set("rq:scheduled:odd", "a text")
    before = steps.now(redis)
    beat(redis)
    assert before <= redis.zscore("rq:scheduled:default", run) * 1000 - delay * 1000 <= steps.now(redis)
    assert redis.zscore("rq:scheduled:default", theirs) == 4e9 + 3600  # who said when is taken at his word
    again = redis.zscore("rq:scheduled:default", run)
    beat(redis)
    assert redis.zscore("rq:scheduled:default", run) == again


def test_a_worker_takes_a_dead_ones_place_though_the_clock_was_set_back(redis, monkeypatch):
    waits = []
    monkeypatch.setattr(engine.worker.time, "sleep", waits.append)
    dead, made = (engine.worker.Worker(["default"], name="w") for _ in range(2))
    dead.register_birth()
    beat(redis)
    put(redis, "fine")
    take(redis)
    set_back(redis)
    made._register()
    assert len(waits) == 1
    assert len(waiting(redis)) == 1


def test_a_worker_that_could_not_beat_for_a_while_says_so(redis, monkeypatch):
    sent, clock, step = [], [1000.0], steps.step
    monkeypatch.setattr(engine.worker.time, "monotonic", lambda: clock[0])
    made = engine.worker.Worker(["default"], name="w")
    made.register_birth()

    def note(redis, name, *arguments):
        sent.append(arguments[-1])
        if clock[0] == 1030:
            raise RedisGone("away")
        return step(redis, name, *arguments)

    monkeypatch.setattr(steps, "step", note)
    for clock[0] in (1000, 1002, 1004, 1012, 1014, 1018.5, 1020.5, 1030, 1032, 1034, 1037, 1039):
        made._beat()
    known = [value if value <= 0 else 1 for value in sent]
    assert known == [0, 1, 1, -1, -1, -1, -1, -1, -1, -1, 1, 1]


def test_a_worker_learns_that_it_was_declared_dead_even_if_it_went_on_meanwhile(redis):
    beat(redis)
    beat(redis, "v")
    silence(redis, "w")
    beat(redis, "v")
    put(redis, "fine")
    assert take(redis, "w") == ("unknown", None)
    assert beat(redis, "w")[0] == "dead"
    assert take(redis, "w") == ("unknown", None)  # until its work-horse is replaced
    assert beat(redis, "w")[0] == "forgotten"
    assert beat(redis, "w")[0] == "known"


def test_a_worker_learns_that_redis_has_forgotten_it(redis):
    assert beat(redis)[0] == "forgotten"
    assert beat(redis)[0] == "known"
    redis.delete("rq:worker:w")
    assert steps.step(redis, "beat", "w", 90, 10, "silent", "", 6, 0)[0] == b"unlisted"
    redis.flushall()
    assert beat(redis)[0] == "forgotten"


def test_a_dead_workers_run_that_cannot_be_read_does_not_keep_the_others_from_their_rescue(redis):
    beat(redis)
    run = put(redis, "fine")
    take(redis)
    redis.set("rq:job:poison", "a text")
    redis.sadd("rq:worker:w:executions", "poison:e", "without-colon")
    silence(redis, "w")
    assert beat(redis, "v")[1] == [("w", 1)]
    assert status(redis, run) == "queued"
    assert not redis.exists("rq:worker:w:executions")


@pytest.mark.parametrize("broken", ["measured", "metrics"])
def test_what_cannot_be_counted_costs_its_count_alone(redis, broken):
    beat(redis)
    redis.set(f"nightdesk:{broken}", "a text")
    run = put(redis, "fine")
    take(redis, execution="x")
    assert take(redis, finished=end(run, "x", "retried", delay=60_000)) == ("ok", None)
    assert (status(redis, run), redis.xlen(steps.RUNS)) == ("scheduled", 1)
    assert beat(redis) == ("known", [])


def test_a_measurement_that_cannot_be_read_costs_no_other(redis):
    beat(redis)
    redis.rpush("nightdesk:measured", "a text")
    run = put(redis, "fine")
    take(redis, execution="x")
    assert take(redis, finished=end(run, "x")) == ("ok", None)
    assert beat(redis) == ("known", [])
    assert redis.hget("nightdesk:metrics", "worker_runs_total|e") == b"1"


def test_what_a_thousand_runs_measured_is_added_up_to_the_last(redis):
    beat(redis)
    redis.hset("nightdesk:metrics", "worker_runs_total|e", 10**14)
    last = None
    for _ in range(1000):
        run = put(redis, "fine")
        take(redis, finished=last and end(last, "x", seconds=0.001, waited=0.3), execution="x")
        last = run
    take(redis, finished=end(last, "x", "failed", seconds=0.5, waited=2), queues=[])
    beat(redis)
    told = {field.decode(): float(value) for field, value in redis.hgetall("nightdesk:metrics").items()}
    assert told["worker_duration_seconds|e|sum"] == pytest.approx(1.499, abs=1e-9)
    assert told["queue_latency_seconds|default|sum"] == pytest.approx(301.7, abs=1e-9)
    assert {field: count for field, count in told.items() if not field.endswith("sum")} == {
        "worker_runs_total|e": 10**14 + 1000, "worker_errors_total|e": 1,
        "worker_duration_seconds|e|0.005": 999, "worker_duration_seconds|e|0.5": 1,
        "queue_latency_seconds|default|0.5": 999, "queue_latency_seconds|default|2.5": 1,
    }  # fmt: skip
    assert redis.hmget("rq:worker:w", "total_working_time", "successful_job_count") == [b"1.499000", b"999"]


# --- a server that takes no writes


@pytest.mark.parametrize("why", ["maxmemory", "min-replicas-to-write"])
def test_no_step_is_half_done_where_nothing_can_be_written(redis, why):
    limits = [["api", 1]]
    run, due, entry = put(redis, "fine", limits=limits), put(redis, "fine"), "nightdesk:entry:e"
    beat(redis)
    take(redis, execution="x")
    redis.zadd("rq:scheduled:default", {due: 1})
    redis.sadd("nightdesk:parents", "p")
    redis.set("nightdesk:dead:w", 1)
    redis.zadd("nightdesk:running:held", {"by-nobody": 1})
    redis.hset(entry, mapping={"due": 1, "version": 1, "overlap": "skip", "queue": "low", "data": "[]"})
    order = {"id": "e", "due": 1, "version": 1, "next": 2, "run": 1, "missed": None, "to": 2, "again": False}
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    steps_that_write = (
        lambda: take(redis, finished=end(run, "x", limits=limits)),
        lambda: take(redis, "stranger", finished=end(run, "x")),
        lambda: take(redis, queues=[]),
        lambda: beat(redis),
        lambda: steps.rescue(redis, "w", "silent"),
        lambda: steps.fire(redis, json.dumps([order])),
        lambda: steps.declare(redis, [], reconcile=True),
        lambda: steps.step(redis, "rewind", json.dumps([order])),
        lambda: steps.step(redis, "sweep", "nightdesk:running:held"),
    )
    redis.config_set(why, 1)
    try:
        for step in steps_that_write:
            with pytest.raises(RedisGone, match="takes no writes"):
                step()
            assert {key: redis.dump(key) for key in redis.scan_iter()} == before
    finally:
        redis.config_set(why, 0)
