"""Workers as they are deployed: `rq worker -w …` in processes of their own, signals, rq's own commands and tools."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.job import Dependency, Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker as StockWorker

from cli import processes
from engine import steps
from tests.engine.desk import MODULE, QUEUES, outcomes, put, rows, silence, status, waiting
from tests.engine.work import let_go, lines, words
from tests.waiting import stopwatch, until


@pytest.fixture
def worker(database, redis, start):
    """Start a worker and wait until it beats; `worker("critical", SHUTDOWN_GRACE="1s")`."""

    def begin(*queues, options=(), **environment):
        known = set(redis.zrange(steps.WORKERS, 0, -1))
        process = start("rq", "worker", "-w", f"{MODULE}.Worker", *options, *(queues or QUEUES), **environment)
        if "--name" not in options:
            until(lambda: set(redis.zrange(steps.WORKERS, 0, -1)) - known or process.poll() is not None)
        return process

    return begin


@pytest.fixture
def log(tmp_path):
    """Where the tests' jobs write down what they do."""
    return str(tmp_path / "log")


def horse_of(process):
    """The work-horse's process id."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def said(process):
    """What a process that has ended wrote."""
    return process.communicate(timeout=60)[0]


def rq(*arguments):
    """One of rq's own commands."""
    command = [str(Path(sys.executable).parent / "rq"), *arguments]
    return subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=60, cwd=Path.cwd())


def test_a_killed_work_horse_takes_nobody_along(worker, redis, log):
    process = worker()
    run = put(redis, "die", log, tries=3)
    others = [put(redis, "fine") for _ in range(3)]
    until(lambda: outcomes(run) == ["lost", "lost", "failed"])
    assert words(log) == ["died"] * 3
    until(lambda: all(outcomes(other) == ["ok"] for other in others))
    assert process.poll() is None
    assert "signal 9" in rows(run)[0]["error"]


def test_a_crashing_job_does_not_slow_down_the_jobs_after_it(worker, redis, log):
    worker()
    for _ in range(12):
        put(redis, "die", log, tries=1)
    last = put(redis, "fine")
    until(lambda: outcomes(last) == ["ok"])
    crashed = [float(line[-1]) for line in lines(log)]
    # A pause that grows from crash to crash would be above a second by now, each time.
    assert min(later - earlier for earlier, later in pairwise(crashed[-6:])) < 0.75


def test_a_work_horse_dies_with_its_parent(worker, redis, log):
    process = worker()
    put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    horse = horse_of(process)
    process.kill()
    until(lambda: not processes.identity(horse))


def test_all_workers_restarted_at_once_still_rescue_within_15_seconds(worker, redis, log):
    both = [worker(), worker()]
    run = put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    for process in both:
        process.kill()
    time.sleep(2.5)  # so long a restart takes
    worker()
    with stopwatch() as took:
        until(lambda: len(words(log)) > 1)
    assert 2.5 + took.seconds < 15
    let_go(log)
    until(lambda: outcomes(run) == ["lost", "ok"])


def test_a_paused_worker_that_wakes_up_is_fenced_and_starts_over(worker, redis, log):
    zombie = worker(SHUTDOWN_GRACE="1s")
    run = put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    horse = horse_of(zombie)
    for pid in (zombie.pid, horse):
        os.kill(pid, signal.SIGSTOP)
    name = redis.zrange(steps.WORKERS, 0, 0)[0].decode()
    silence(redis, name)
    other = worker()
    until(lambda: silence(redis, name) or len(words(log)) > 1, every=0.3)
    let_go(log)
    until(lambda: outcomes(run) == ["lost", "ok"])
    for pid in (zombie.pid, horse):
        os.kill(pid, signal.SIGCONT)
    fine = put(redis, "fine")
    until(lambda: outcomes(fine) == ["ok"])
    until(lambda: horse_of(zombie) not in (horse, None) and len(StockWorker.all(connection=redis)) == 2)
    assert outcomes(run) == ["lost", "ok"]
    for process in (zombie, other):
        process.terminate()
    assert "was taken for dead: starting over" in said(zombie)


def test_sigterm_lets_the_run_in_hand_end_and_takes_no_other(worker, redis, log):
    process = worker()
    run, other = put(redis, "last", log), put(redis, "fine")
    until(lambda: words(log) == ["last-begun"])
    process.terminate()
    assert process.wait(60) == 0
    assert outcomes(run) == ["ok"]
    assert waiting(redis) == [other]
    assert not redis.zcard(steps.WORKERS)
    assert not StockWorker.all(connection=redis)


def test_sigterm_hands_back_at_once_what_does_not_end_within_the_grace(worker, redis, log):
    process = worker(SHUTDOWN_GRACE="1s")
    run = put(redis, "stay", log, tries=1)
    until(lambda: words(log) == ["stay-begun"])
    with stopwatch() as took:
        process.terminate()
        process.wait(60)
    assert took.seconds < 3
    assert waiting(redis) == [run]
    assert status(redis, run) == "queued"
    worker("critical")  # writes the history
    until(lambda: outcomes(run) == ["handed_back"])


def test_a_long_job_yields_at_sigterm_and_goes_on_elsewhere(worker, redis, log):
    process = worker()
    run = put(redis, "batched", log, queue="low")
    until(lambda: words(log) == ["batched-begun"])
    with stopwatch() as took:
        process.terminate()
        process.wait(60)
    assert took.seconds < 2
    assert waiting(redis, "low") == [run]
    assert outcomes(run) == ["yielded"]


def test_a_long_job_gives_way_to_a_higher_queue_and_goes_on_after_it(worker, redis, log):
    worker()
    run, urgent = put(redis, "batched", log, 4, queue="low"), []
    for times in (1, 2, 3):
        until(lambda times=times: words(log).count("batched-begun") == times)
        urgent.append(put(redis, "urgent", log, queue="critical"))
    until(lambda: outcomes(run) == ["yielded", "yielded", "yielded", "ok"])
    assert [outcomes(one) for one in urgent] == [["ok"]] * 3
    assert words(log) == ["batched-begun", "urgent"] * 3 + ["batched-begun", "batched-ended"]
    begun = [float(line[-1]) for line in lines(log) if line[0] == "urgent"]
    waited = [at - rows(one)[0]["enqueued_at"].timestamp() for at, one in zip(begun, urgent, strict=True)]
    assert min(waited) < 0.5


def test_a_hang_in_c_is_killed_soon_after_its_time_out_and_the_next_job_is_not(worker, redis, log):
    """The deadline of the run that was killed must not be taken for one of the next horse's."""
    process = worker()
    run = put(redis, "deaf", log, timeout=1, tries=1)
    until(lambda: words(log) == ["deaf"])
    with stopwatch() as took:
        until(lambda: status(redis, run) == "failed")
    assert took.seconds < 7.5
    horse = until(lambda: horse_of(process))
    time.sleep(1.0)
    assert horse_of(process) == horse
    fine = put(redis, "fine")
    until(lambda: outcomes(fine) == ["ok"])
    (row,) = rows(run)
    assert "answered to no signal" in row["error"]
    assert (row["ended_at"] - row["started_at"]).total_seconds() > 6


def test_a_leaking_job_gets_a_fresh_work_horse_each_time_and_loses_nothing(worker, redis, log):
    worker(WORKER_MEMORY_MB="120")
    runs = [put(redis, "leak", log, 100) for _ in range(4)]
    until(lambda: [outcomes(run) for run in runs] == [["ok"]] * 4)
    assert len({line[-2] for line in lines(log)}) >= 3


# --- rq's own commands and tools


def test_rqs_stop_job_command_ends_a_run_for_good(worker, redis, log):
    process = worker()
    run = put(redis, "stay", log, tries=5)
    until(lambda: words(log) == ["stay-begun"])
    send_stop_job_command(redis, run, serializer=JSONSerializer)
    until(lambda: outcomes(run) == ["failed"])
    assert "stopped by an operator" in rows(run)[0]["error"]
    assert status(redis, run) == "failed"
    assert process.poll() is None


def test_rqs_kill_horse_command_costs_a_try(worker, redis, log):
    worker()
    run = put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    (name,) = (w.name for w in StockWorker.all(connection=redis))
    send_kill_horse_command(redis, name)
    until(lambda: len(words(log)) > 1)
    let_go(log)
    until(lambda: outcomes(run) == ["lost", "ok"])


def test_rqs_shutdown_command_is_a_sigterm(worker, redis, log):
    process = worker()
    run = put(redis, "last", log)
    until(lambda: words(log) == ["last-begun"])
    (name,) = (w.name for w in StockWorker.all(connection=redis))
    send_shutdown_command(redis, name)
    assert process.wait(60) == 0
    assert outcomes(run) == ["ok"]


def test_rq_suspend_and_resume(worker, redis):
    worker()
    suspend(redis)
    run = put(redis, "fine")
    time.sleep(0.6)
    assert waiting(redis) == [run]
    resume(redis)
    until(lambda: outcomes(run) == ["ok"])


def test_rq_info_tells_the_truth(worker, redis, log):
    worker()
    run = put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    put(redis, "fine")
    bug = put(redis, "bug", queue="critical")
    shown = rq("info", "--raw").stdout
    assert re.search(r"queue default 1, 1 executing, 0 finished, 0 failed", shown), shown
    assert re.search(r"worker \w+ \(.*\) busy critical, default, low", shown), shown
    (seen,) = StockWorker.all(connection=redis)
    assert seen.get_current_job_id() == run
    assert seen.get_state() == "busy"
    assert Queue("critical", connection=redis).get_job_ids() == [bug]


def test_an_ad_hoc_job_is_enqueued_from_a_shell_and_its_result_is_read_with_rq(worker, redis, log):
    worker()
    done = rq("enqueue", "-S", "json", "-q", "default", f"{MODULE}.fine", "pair=EURUSD")
    run = re.search(r"job-id '([-\w]+)'", done.stdout)[1]
    until(lambda: outcomes(run) == ["ok"])
    (row,) = rows(run)
    assert row["entry"] == "fine"
    assert abs((row["due_at"] - row["enqueued_at"]).total_seconds()) < 0.002
    job = Job.fetch(run, connection=redis, serializer=JSONSerializer)
    assert job.return_value() == {"done": 1}
    assert job.get_status() == "finished"
    assert 0 < redis.ttl(f"rq:job:{run}") <= 500


def test_an_ad_hoc_job_for_later_comes_when_it_is_due(worker, redis):
    worker()
    asked = time.time()
    done = rq("enqueue", "-S", "json", "-q", "default", "--schedule-in", "3s", f"{MODULE}.fine")
    run = re.search(r"job-id '([-\w]+)'", done.stdout)[1]
    until(lambda: outcomes(run) == ["ok"])
    (row,) = rows(run)
    assert row["started_at"].timestamp() >= int(asked + 3)  # rq keeps whole seconds


def test_a_failed_job_shows_its_traceback_in_rq_and_rq_requeue_runs_it_again(worker, redis):
    worker()
    run = put(redis, "bug")
    until(lambda: outcomes(run) == ["failed"])
    job = Job.fetch(run, connection=redis, serializer=JSONSerializer)
    assert "KeyError: 'no such thing: 1'" in job.latest_result().exc_string
    done = rq("requeue", "-S", "json", "--queue", "default", run)
    assert done.returncode == 0, done.stderr
    until(lambda: outcomes(run) == ["failed", "failed"])


def test_a_job_that_depends_on_another_runs_after_it_succeeded(worker, redis, log):
    queue = Queue("default", connection=redis, serializer=JSONSerializer)
    first = queue.enqueue(f"{MODULE}.nap", log, 0.3, "first")
    second = queue.enqueue(f"{MODULE}.nap", log, 0.0, "second", depends_on=first)
    third = queue.enqueue(f"{MODULE}.nap", log, 0.0, "third", depends_on=[first, second])
    assert third.get_status() == "deferred"
    worker()
    until(lambda: outcomes(third.id) == ["ok"])
    assert words(log) == ["first-begun", "first-ended", "second-begun", "second-ended", "third-begun", "third-ended"]
    assert not redis.exists("nightdesk:parents")


def test_a_job_that_depends_on_one_that_failed_runs_only_if_it_may(worker, redis, log):
    queue = Queue("default", connection=redis, serializer=JSONSerializer)
    failing = queue.enqueue(f"{MODULE}.bug")
    strict = queue.enqueue(f"{MODULE}.nap", log, 0.0, "strict", depends_on=failing)
    lenient = queue.enqueue(
        f"{MODULE}.nap", log, 0.0, "lenient", depends_on=Dependency(jobs=[failing], allow_failure=True)
    )
    worker()
    until(lambda: outcomes(lenient.id) == ["ok"])
    assert words(log) == ["lenient-begun", "lenient-ended"]
    assert strict.get_status() == "deferred"


def test_burst_ends_when_the_queues_are_empty_with_all_history_written(worker, redis):
    runs = [put(redis, "fine") for _ in range(30)]
    process = worker(options=["--burst"])
    assert process.wait(60) == 0
    assert [outcomes(run) for run in runs] == [["ok"]] * 30
    assert redis.xlen(steps.RUNS) == 0


def test_burst_goes_on_when_its_work_horse_is_replaced(worker, redis):
    runs = [put(redis, "fine") for _ in range(6)]
    process = worker(options=["--burst"], WORKER_MEMORY_MB="1")
    assert process.wait(60) == 0
    assert [outcomes(run) for run in runs] == [["ok"]] * 6


def test_max_jobs_counts_the_jobs_of_all_work_horses(worker, redis, log):
    put(redis, "die", log, tries=1)
    for _ in range(5):
        put(redis, "fine")
    process = worker(options=["--max-jobs", "3"])
    assert process.wait(60) == 0
    assert len(waiting(redis)) == 3


def test_a_second_worker_of_a_living_ones_name_refuses_to_start(worker, redis):
    first = worker(options=["--name", "desk"])
    until(lambda: redis.zcard(steps.WORKERS))
    second = worker(options=["--name", "desk"])
    assert second.wait(60) != 0
    assert "There exists an active worker named 'desk' already" in said(second)
    run = put(redis, "fine")
    until(lambda: outcomes(run) == ["ok"])
    assert first.poll() is None


def test_a_worker_takes_the_place_of_a_dead_one_of_its_name_and_rescues_its_run(worker, redis, log):
    first = worker(options=["--name", "desk"])
    run = put(redis, "stay", log)
    until(lambda: words(log) == ["stay-begun"])
    first.kill()
    first.wait()
    silence(redis, "desk")
    worker(options=["--name", "desk"])
    until(lambda: len(words(log)) > 1)
    let_go(log)
    until(lambda: outcomes(run) == ["lost", "ok"])


def test_a_forgetful_redis_costs_a_scheduled_run_its_horse_and_none_that_somebody_enqueued(worker, redis, log):
    process = worker()
    for run, entry in (("adhoc", ""), ("e-now-1-abc", "e")):
        put(redis, "stay", f"{log}-{run}", timeout=600, entry=entry, run_id=run)
        until(lambda run=run: words(f"{log}-{run}") == ["stay-begun"])
        redis.flushall()
        until(lambda: StockWorker.all(connection=redis))
        let_go(f"{log}-{run}")
        until(lambda run=run: outcomes(run) == ["ok"])
        assert words(f"{log}-{run}") == ["stay-begun", "stay-ended"]
    put(redis, "stay", log, timeout=600, entry="e", run_id="e-1", due=1)
    until(lambda: words(log) == ["stay-begun"])
    horse = horse_of(process)
    redis.flushall()
    until(lambda: horse_of(process) not in (horse, None))
    run = put(redis, "fine")
    until(lambda: outcomes(run) == ["ok"])
    assert len(StockWorker.all(connection=redis)) == 1


def test_nothing_is_pickled_on_the_way(redis):
    run = put(redis, "fine", pair="EURUSD")
    assert json.loads(redis.hget(f"rq:job:{run}", "data")) == [f"{MODULE}.fine", None, [], {"pair": "EURUSD"}]
