"""rq-dashboard under /rq: every page and answer over whatever jobs hold, and nothing of it for who may not."""

from __future__ import annotations

import json
import pickle
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

import db
from cli.migrate import reconcile
from engine import entries, steps
from models import operators
from scheduler import SCHEDULE, Scheduler
from tests.waiting import until
from tests.web import chromium
from tests.web.conftest import PASSWORD, Site, Visitor

NASTY = "<img src=x onerror=document.title='hacked'>'\"&\\"
LISTS = ("queued", "started", "finished", "failed", "deferred", "scheduled", "canceled")


@pytest.fixture
def rq(redis: Any) -> Queue:
    """A queue as other tools fill it, with JSON."""
    return Queue("default", connection=redis, serializer="json")


@pytest.fixture
def ann(site: Site) -> Visitor:
    """An operator whose browser says where its requests come from, as rq-dashboard's own scripts make it."""
    visitor = site.log_in()
    visitor.headers["sec-fetch-site"] = "same-origin"
    return visitor


def run(job_id: str = "r-1", **fields: Any) -> str:
    """A run of ours that waits."""
    steps.enqueue(
        db.redis(), "jobs.prices.sync_prices", "default", run_id=job_id, due=1, entry="sync_prices", timeout=9, tries=1
    )
    if fields:
        db.redis().hset(f"rq:job:{job_id}", mapping=fields)
    return job_id


def failed(job_id: str, error: str = "boom") -> str:
    """A run of ours that failed, as the steps bury it."""
    run(job_id, status="failed")
    redis = db.redis()
    redis.lrem("rq:queue:default", 0, job_id)
    redis.zadd("rq:failed:default", {job_id: time.time() + 9999})
    redis.xadd(f"rq:results:{job_id}", {"type": 2, "created_at": "now", "exc_string": steps.rq_text(error)})
    return job_id


def started(job_id: str, worker: str = "w") -> str:
    """A run of ours that a worker has in hand, with its slot, as take.lua leaves it."""
    run(job_id, status="started")
    redis, member = db.redis(), f"{job_id}:abc"
    redis.lrem("rq:queue:default", 0, job_id)
    at = datetime.now(UTC).timestamp()
    redis.hset(
        f"rq:execution:{member}",
        mapping={"id": "abc", "job_id": job_id, "created_at": at, "last_heartbeat": at, "worker_name": worker},
    )
    redis.zadd(f"rq:executions:{job_id}", {"abc": "inf"})
    redis.zadd("rq:wip:default", {member: "inf"})
    redis.sadd(f"rq:worker:{worker}:executions", member)
    redis.sadd("rq:workers", f"rq:worker:{worker}")
    redis.hset(
        f"rq:worker:{worker}", mapping={"birth": "2026-01-01T00:00:00.000000Z", "queues": "default", "state": "busy"}
    )
    redis.zadd("nightdesk:running:entry:sync_prices", {job_id: 1})
    return job_id


def job_json(visitor: Visitor, job_id: str) -> dict[str, Any]:
    answer = visitor.get(f"/rq/0/data/job/{job_id}.json")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def shown(
    visitor: Visitor, registry: str = "queued", page: Any = 1, per_page: Any = 8, order: str = "asc"
) -> list[str]:
    answer = visitor.get(f"/rq/0/data/jobs/default/{registry}/{per_page}/{order}/{page}.json")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


# what it shows


def test_every_page_and_answer_works_over_every_kind_of_run(ann: Visitor) -> None:
    run("waits")
    failed("is-dead")
    started("is-running")
    run("comes-later", status="scheduled")
    db.redis().lrem("rq:queue:default", 0, "comes-later")
    db.redis().zadd("rq:scheduled:default", {"comes-later": time.time() + 60})
    pages = ["", "0/", "0/view", "0/view/queues", "0/view/workers", "0/view/jobs", "favicon.ico", "static/favicon.ico"]
    pages += [f"0/view/jobs/default/{name}/8/{order}/1" for name in LISTS for order in ("asc", "dsc")]
    pages += [f"0/view/job/{name}" for name in ("waits", "is-dead", "is-running", "comes-later")]
    data = ["0/data/queues.json", "0/data/workers.json"]
    data += [f"0/data/jobs/default/{name}/8/{order}/1.json" for name in LISTS for order in ("asc", "dsc")]
    data += [f"0/data/job/{name}.json" for name in ("waits", "is-dead", "is-running", "comes-later")]
    assert {path: ann.get(f"/rq/{path}").status_code for path in pages + data} == dict.fromkeys(pages + data, 200)
    assert [shown(ann, name) for name in LISTS] == [["waits"], ["is-running"], [], ["is-dead"], [], ["comes-later"], []]
    (worker,) = ann.get("/rq/0/data/workers.json").json()["workers"]
    assert worker["current_job"]["job_id"] == "is-running"
    assert worker["current_job"]["call_string"] == "jobs.prices.sync_prices()"


def test_everything_a_page_links_to_is_there_under_the_prefix(ann: Visitor) -> None:
    run()
    for page in ("/rq/", "/rq/0/view/jobs", "/rq/0/view/workers", "/rq/0/view/job/r-1"):
        text = ann.get(page).text
        links = set(re.findall(r'(?:href|src)="([^"#<{]+)"', text)) - {"http://python-rq.org"}
        ours = {link for link in links if not link.startswith("https://github.com")}
        assert len(ours) > 8
        for link in ours:
            assert link.startswith("/rq/")
            answer = ann.get(link)
            assert answer.status_code == (405 if re.search("/(empty|compact)$", link) else 200), link
    assert ann.get("/rq", allow_redirects=False).headers["location"].endswith("/rq/")


def test_a_job_with_dependencies_says_which_and_whether_they_are_still_there(ann: Visitor, rq: Queue) -> None:
    first, second = rq.enqueue("jobs.a"), rq.enqueue("jobs.b")
    rq.enqueue("jobs.c", depends_on=[first, second], job_id="third")
    second.delete()
    found = job_json(ann, "third")
    assert dict(zip(found["depends_on"], found["depends_on_status"], strict=True)) == {
        first.id: "active",
        second.id: "expired",
    }
    assert shown(ann, "deferred") == ["third"]


class Thing:
    """Something of somebody's own."""


VALUES = [b"\x00\xff", {1, 2}, datetime(2026, 1, 2, tzinfo=UTC), Thing(), [Thing(), {"k": {1}}], float("nan"), "plain"]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_results_and_meta_of_any_kind_are_told_and_never_unpickled(
    ann: Visitor, redis: Any, value: Any, serializer: str
) -> None:
    job = Job.create("jobs.x", connection=redis, origin="default", id="j", serializer=serializer, status="finished")
    job.save()
    raw = pickle.dumps(value) if serializer == "pickle" else json.dumps(value, default=str).encode()
    redis.hset("rq:job:j", "meta", raw)
    redis.xadd("rq:results:j", {"type": 1, "created_at": "now", "return_value": b64encode(raw)})
    redis.zadd("rq:finished:default", {"j": time.time() + 500})
    found = job_json(ann, "j")
    if serializer == "pickle":
        assert found["result"] == f"{len(raw)} bytes that are not JSON: not opened"
        assert json.loads(found["metadata"]) == found["result"]
    else:
        assert found["result"] == json.loads(raw.replace(b"NaN", b'"NaN"'))
    assert shown(ann, "finished") == ["j"]
    assert ann.get("/rq/0/view/job/j").status_code == 200


class Call:
    """Pickled, it writes a file for whoever opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_payload_that_would_run_when_it_is_unpickled_stays_closed(ann: Visitor, redis: Any, tmp_path: Path) -> None:
    raw = pickle.dumps(Call(tmp_path / "opened"))
    failed("bomb")
    redis.hset("rq:job:bomb", mapping={"data": raw, "meta": raw, "result": raw})
    redis.delete("rq:results:bomb")
    redis.xadd("rq:results:bomb", {"type": 1, "created_at": "now", "return_value": b64encode(raw)})
    for path in ("0/data/job/bomb.json", "0/view/job/bomb", "0/data/jobs/default/failed/8/asc/1.json"):
        assert ann.get(f"/rq/{path}").status_code == 200
    for path in ("job/bomb/requeue", "requeue/default", "job/bomb/delete"):
        assert ann.post(f"/rq/{path}").status_code < 500
    assert not list(tmp_path.iterdir())


BROKEN: list[dict[str, Any]] = [
    {"created_at": "yesterday"},
    {"description": b"\xff\xfe"},
    {"status": "dancing"},
    {"timeout": "soon"},
    {"dependency_ids": "{"},
    {"origin": b"\xff"},
    {"ttl": "x"},
]


@pytest.mark.parametrize("fields", BROKEN, ids=lambda fields: next(iter(fields)))
def test_a_hash_that_is_no_job_costs_only_itself(ann: Visitor, fields: dict[str, Any]) -> None:
    run("good")
    run("bad", **fields)
    assert set(shown(ann)) == {"good", "bad"}
    answer = ann.get("/rq/0/data/job/bad.json")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("job bad cannot be read")
    assert ann.get("/rq/0/view/job/bad").status_code == 422
    assert ann.post("/rq/job/bad/delete").status_code == 422
    assert ann.post("/rq/job/bad/requeue").status_code < 500


def test_an_id_that_rq_does_not_allow_costs_only_itself(ann: Visitor, redis: Any) -> None:
    failed("good")
    redis.zadd("rq:failed:default", {"evil/../2": time.time() + 500})
    redis.hset("rq:job:evil/../2", "origin", "default")
    assert set(shown(ann, "failed")) == {"good", "evil/../2"}
    assert ann.post("/rq/queue/default/failed/empty").status_code == 200
    assert shown(ann, "failed") == []


def test_a_result_that_is_none_is_left_out(ann: Visitor, redis: Any) -> None:
    run("r")
    for entry in ({"type": "9"}, {"x": "y"}, {"type": 2, "exc_string": "!"}, {"type": 1, "return_value": "x"}):
        redis.delete("rq:results:r")
        redis.xadd("rq:results:r", entry)
        assert job_json(ann, "r")["result"] is None
        assert shown(ann) == ["r"]


def test_a_run_that_is_gone_leaves_its_list_and_its_worker_readable(ann: Visitor, redis: Any) -> None:
    started("here")
    redis.zadd("rq:wip:default", {"gone:abc": "inf"})
    redis.rpush("rq:queue:default", "never-was")
    redis.sadd("rq:worker:w:executions", "gone:abc")
    redis.delete("rq:execution:here:abc")
    assert shown(ann, "started") == ["here"]
    assert shown(ann) == []
    assert redis.lrange("rq:queue:default", 0, -1) == [b"never-was"]  # looking changes nothing
    assert ann.get("/rq/0/data/workers.json").json()["workers"][0]["current_job"] == "idle"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("0/data/job/never-was.json", 404),
        ("0/view/job/never-was", 404),
        ("1/data/queues.json", 404),
        ("1/view/queues", 404),
        ("99999999999999999999/view", 404),
        ("0/data/jobs/default/nonsense/8/asc/1.json", 404),
        ("0/view/jobs/default/nonsense/8/asc/1", 404),
        ("0/data/jobs/default/queued/0/asc/1.json", 404),
        ("0/data/jobs/default/queued/8/asc/0.json", 404),
        ("0/data/jobs/default/queued/8/asc/-1.json", 404),
        ("0/data/jobs/default/queued/x/asc/1.json", 404),
        ("0/data/jobs/default/queued/8/asc/99999999999999999999.json", 404),
        ("0/data/jobs/default/queued/8/asc/٣.json", 404),
        ("0/data/jobs/default/queued/999999/asc/999999999.json", 200),
        ("0/data/jobs/no-such-queue/failed/8/asc/1.json", 200),
        ("0/nowhere", 404),
        ("static/../web.py", 404),
        ("static/%2e%2e/web.py", 404),
    ],
)
def test_an_address_that_makes_no_sense_is_told_so(ann: Visitor, path: str, status: int) -> None:
    assert ann.get(f"/rq/{path}").status_code == status


@pytest.mark.parametrize("order", ["asc", "dsc"])
@pytest.mark.parametrize("registry", ["queued", "failed"])
def test_each_page_has_its_own_rows(ann: Visitor, redis: Any, registry: str, order: str) -> None:
    names = [f"r-{number:02}" for number in range(20)]
    for number, name in enumerate(names):
        run(name)
        redis.zadd("rq:failed:default", {name: 10**10 + number})
    in_order = names[::-1] if order == "dsc" else names
    assert [shown(ann, registry, page, 8, order) for page in (1, 2, 3, 4)] == [
        in_order[:8],
        in_order[8:16],
        in_order[16:],
        [],
    ]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0/view/workers",
        "0/view/job/x",
        "0/data/queues.json",
        "0/data/workers.json",
        "0/data/jobs/default/queued/8/asc/1.json",
        "0/data/job/x.json",
    ],
)
def test_while_redis_is_away_it_says_so_and_comes_back(ann: Visitor, valkey: Any, path: str) -> None:
    valkey.stop()
    try:
        answer = ann.get(f"/rq/{path}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "away" in answer.text
        assert ann.post("/rq/job/x/delete").status_code == 503
    finally:
        valkey.start()
    assert ann.get("/rq/0/data/queues.json").status_code == 200


# who may


READS = [
    "",
    "0/view/jobs",
    "0/view/job/r-1",
    "0/data/queues.json",
    "0/data/job/r-1.json",
    "static/js/jquery-3.5.1.min.js",
]
ACTS = ["job/r-1/delete", "job/r-1/requeue", "requeue/default", "queue/default/queued/empty", "queue/default/compact"]


def test_a_stranger_and_those_of_other_doors_see_nothing_and_do_nothing(site: Site) -> None:
    run()
    programs = [operators.new_token(scope, scope, None) for scope in ("metrics", "read")]
    for headers in ({}, {"cookie": "nightdesk=x"}, *({"authorization": f"Bearer {token}"} for token in programs)):
        visitor = site.stranger(**{"sec-fetch-site": "same-origin", **headers})
        assert {visitor.get(f"/rq/{path}").status_code for path in READS} <= {401, 403}
        assert {visitor.post(f"/rq/{path}").status_code for path in ACTS} <= {401, 403}
    assert site.stranger(accept="text/html").get("/rq/", allow_redirects=False).headers["location"] == "/login"
    assert db.redis().exists("rq:job:r-1")


def test_a_viewer_looks_and_cannot_act(site: Site) -> None:
    run()
    failed("f-1")
    viewer = site.log_in("vic", "viewer")
    viewer.headers["sec-fetch-site"] = "same-origin"
    assert {viewer.get(f"/rq/{path}").status_code for path in READS} == {200}
    assert {viewer.post(f"/rq/{path}").status_code for path in ACTS} == {403}
    odd = ["requeue/default", "/requeue/default", "//requeue/default", "./requeue/default"]
    assert {viewer.get(f"/rq/{path}").status_code for path in odd} <= {403, 308, 404}
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert viewer.request(method, "/rq/job/r-1/delete").status_code == 403
    assert db.redis().exists("rq:job:r-1", "rq:job:f-1") == 2
    assert db.redis().llen("rq:queue:default") == 1
    assert db.rows("select 1 from audit where who = 'vic' and action <> 'log in'") == []


ELSEWHERE: list[dict[str, str | None]] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
    {"sec-fetch-site": None, "origin": "https://evil.example"},
    {"sec-fetch-site": None, "origin": "null"},
    {"sec-fetch-site": None, "origin": ""},
    {"sec-fetch-site": None, "referer": "/"},
    {"sec-fetch-site": None},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_an_operators_browser_acts_for_no_other_site(ann: Visitor, headers: Any) -> None:
    run()
    failed("f-1")
    for path in ACTS:
        assert ann.post(f"/rq/{path}", headers=headers).status_code == 403
    assert ann.get("/rq/requeue/default", headers=headers).status_code == 403
    assert db.redis().exists("rq:job:r-1", "rq:job:f-1") == 2
    assert db.rows("select 1 from audit where action <> 'log in'") == []


def test_an_old_browser_that_names_our_origin_may_act(ann: Visitor, site: Site) -> None:
    run()
    del ann.headers["sec-fetch-site"]
    assert ann.post("/rq/job/r-1/delete", headers={"origin": site.url}).status_code == 200
    assert not db.redis().exists("rq:job:r-1")


# what an operator does


def audit() -> list[tuple[Any, ...]]:
    return db.rows("select who, action, target from audit where action <> 'log in' order by id")


def test_deleting_emptying_and_compacting_do_that_and_are_audited(ann: Visitor, redis: Any) -> None:
    for name in ("a", "b", "c"):
        run(name)
    assert ann.post("/rq/job/a/delete").json() == {"status": "OK"}
    redis.delete("rq:job:b")
    assert ann.post("/rq/queue/default/compact").json() == {"status": "OK"}
    assert redis.lrange("rq:queue:default", 0, -1) == [b"c"]
    assert ann.post("/rq/queue/default/queued/empty").json()["status"] == "OK"
    assert not redis.exists("rq:queue:default", "rq:job:a", "rq:job:c")
    assert ann.post("/rq/queue/default/compact").status_code == 200  # an empty one, too
    failed("f")
    redis.zadd("rq:failed:default", {"long-gone": 10**10})
    assert ann.post("/rq/queue/default/failed/empty").json()["status"] == "OK"
    assert not redis.exists("rq:failed:default", "rq:job:f")
    assert ann.post("/rq/job/never-was/delete").status_code == 404
    assert audit()[:3] == [
        ("ann", "delete job", "a"),
        ("ann", "compact", "default"),
        ("ann", "empty queued", "default"),
    ]


def dead_letter(run_id: str) -> None:
    db.rows(
        """insert into run (entry, due_at, attempt, run_id, job, queue, arguments, ended_at, outcome, error,
                            fingerprint, dead)
           values ('sync_prices', now(), 1, %s, 'jobs.prices.sync_prices', 'default', '{"args": [], "kwargs": {}}',
                   now(), 'failed', 'boom', 'f1', true)""",
        run_id,
    )


def test_requeueing_a_run_of_ours_settles_its_dead_letter(ann: Visitor, redis: Any) -> None:
    for name in ("one", "two", "three"):
        failed(name)
        dead_letter(name)
    redis.zadd("rq:failed:default", {"long-gone": 10**10})
    assert ann.post("/rq/job/one/requeue").json() == {"status": "OK"}
    assert db.rows("select run_id from run where settled_at is not null") == [("one",)]
    assert ann.post("/rq/requeue/default").json() == {"status": "OK", "count": 2}
    assert redis.lrange("rq:queue:default", 0, -1) == [b"one", b"two", b"three"]
    assert {redis.hget(f"rq:job:{name}", "status") for name in ("one", "two", "three")} == {b"queued"}
    assert not redis.exists("rq:failed:default")
    assert db.rows("select count(*) from run where dead and settled_at is null") == [(0,)]


def test_requeueing_what_others_enqueued_works_as_rq_has_it(ann: Visitor, rq: Queue, redis: Any) -> None:
    job = rq.enqueue("jobs.x", 1, meta={"of": "theirs"})
    redis.lrem("rq:queue:default", 0, job.id)
    redis.hset(job.key, "status", "failed")
    redis.zadd("rq:failed:default", {job.id: 10**10})
    assert ann.post(f"/rq/job/{job.id}/requeue").status_code == 200
    again = Job.fetch(job.id, connection=redis, serializer="json")
    assert (again.get_status(), again.args, again.meta) == ("queued", [1], {"of": "theirs"})
    assert ann.post(f"/rq/job/{job.id}/requeue").status_code == 409  # it has not failed
    assert ann.post("/rq/job/never-was/requeue").status_code == 404


def test_a_run_under_way_is_not_deleted_because_its_entry_would_never_run_again(ann: Visitor, redis: Any) -> None:
    started("r")
    answer = ann.post("/rq/job/r/delete")
    assert answer.status_code == 409
    assert "is running" in answer.json()["error"]
    assert ann.post("/rq/queue/default/started/empty").json() == {"status": "OK", "left_running": 1}
    assert redis.smembers("rq:worker:w:executions") == {b"r:abc"}
    assert redis.exists("rq:job:r") == redis.zcard("rq:wip:default") == 1


# the schedule


def fires(entry: str) -> list[str]:
    """What the schedule enqueues for an entry whose time has come."""
    redis = db.redis()
    redis.hset(f"nightdesk:entry:{entry}", "due", steps.now(redis) - 1)
    scheduler = Scheduler()
    scheduler.states = {state.id: state for state in entries.load(redis)}
    scheduler.fire([scheduler.states[entry]])
    return [run_id.decode() for run_id in redis.lrange("rq:queue:default", 0, -1)]


def test_a_schedule_entry_is_not_deleted(ann: Visitor, redis: Any) -> None:
    reconcile()
    answer = ann.post("/rq/job/sync_prices/delete")
    assert answer.status_code == 409
    assert "pause it" in answer.json()["error"]
    assert redis.exists("rq:job:sync_prices", "nightdesk:entry:sync_prices") == 2
    assert job_json(ann, "sync_prices")["status"] == "scheduled"


def test_whatever_is_emptied_the_schedule_goes_on(ann: Visitor, redis: Any) -> None:
    reconcile()
    assert len(fires("sync_prices")) == 1
    for name in LISTS:
        assert ann.post(f"/rq/queue/default/{name}/empty").status_code == 200
    assert redis.llen("rq:queue:default") == 0
    assert len(fires("sync_prices")) == 1  # the run that went with the queue does not count as one that waits


def test_entries_that_another_tool_deletes_run_on_and_are_declared_again(redis: Any) -> None:
    reconcile()
    for entry in SCHEDULE:
        Job.fetch(entry.id, connection=redis, serializer="json").delete()
    redis.delete(steps.SCHEDULED)
    assert len(fires("sync_prices")) == 1
    scheduler = Scheduler()
    until(lambda: scheduler.look() or redis.exists(f"rq:job:{SCHEDULE[-1].id}"))
    assert redis.exists(*(f"rq:job:{entry.id}" for entry in SCHEDULE)) == len(SCHEDULE)
    assert redis.zcard(steps.SCHEDULED) == len(SCHEDULE)


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    """One for the module."""
    browser = chromium.Chromium()
    yield browser
    browser.close()


@pytest.fixture
def tab(browser: chromium.Chromium, site: Site) -> Iterator[chromium.Page]:
    """An operator's tab."""
    page = browser.page()
    page.look(1440, 900)
    site.let_in("ann", "operator")
    page.go(f"{site.url}/login")
    page.write("#name", "ann")
    page.write("#password", PASSWORD)
    page.press("Enter")
    page.until("!!document.getElementById('board')")
    page.events.clear()
    yield page
    page.open.close()


def complaints(page: chromium.Page) -> list[Any]:
    """What the browser refused or could not find."""
    page.js("1")
    return [
        event["params"] for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
    ]


@pytest.mark.slow
@pytest.mark.skipif(not chromium.PROGRAM, reason="there is no Chromium here: apt-get install chromium")
def test_its_pages_work_in_a_browser_and_what_jobs_say_stays_text(tab: chromium.Page, site: Site) -> None:
    failed("nasty", NASTY)
    db.redis().hset("rq:job:nasty", mapping={"description": NASTY, "meta": json.dumps({"note": NASTY})})
    started("at-work")
    db.redis().hset("rq:job:at-work", "data", json.dumps(["jobs.x", None, [NASTY], {}]))
    for path, sign in (
        ("/rq/", "document.querySelectorAll('#queues tr[data-role=queue]').length === 1"),
        ("/rq/0/view/workers", "document.querySelector('#workers').innerText.includes('onerror')"),
        (
            "/rq/0/view/jobs/default/failed/8/dsc/1",
            "document.querySelector('.exc_info')?.innerText.includes('onerror')",
        ),
        ("/rq/0/view/job/nasty", "document.querySelector('#job-data').innerText.includes('onerror')"),
        ("/rq/0/view/jobs/');document.title='hacked';('/queued/8/asc/1", "!!document.querySelector('#jobs')"),
    ):
        tab.go(f"{site.url}{path}")
        tab.until(sign)
        assert tab.js("document.title") == "RQ dashboard"
        assert tab.js("document.querySelectorAll('#job-data img, #jobs img, #workers img').length") == 0
    assert complaints(tab) == []


@pytest.mark.slow
@pytest.mark.skipif(not chromium.PROGRAM, reason="there is no Chromium here: apt-get install chromium")
def test_its_buttons_work_in_a_browser(tab: chromium.Page, site: Site) -> None:
    run("goes")
    tab.go(f"{site.url}/rq/0/view/job/goes")
    tab.until("document.querySelector('#job-data').innerText.includes('sync_prices')")
    tab.js("document.querySelector('#delete-job-btn').click()")
    tab.until("document.querySelector('#confirmation-modal').classList.contains('show')")
    tab.js("document.querySelector('#confirmation-modal-yes').click()")
    tab.until("location.pathname.startsWith('/rq/') && !!document.querySelector('#queues tr[data-role=queue]')")
    assert not db.redis().exists("rq:job:goes")
    assert audit() == [("ann", "delete job", "goes")]
