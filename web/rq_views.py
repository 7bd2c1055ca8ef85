"""rq-dashboard's pages and JSON, mended at the seam: its package and rq itself stay as they are.

What it got wrong: jobs with dependencies, results and meta that are no JSON, unknown jobs and pages
and a Redis that is away ended in 500; page 2 showed the wrong rows; names and errors of jobs went into
the page as HTML; deleting a run while it ran, or a schedule entry, left the schedule standing.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader
from peewee import PeeweeException
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisSlow
from rq.exceptions import InvalidJobOperation, NoSuchJobError

import db
from config import settings
from models import runs
from web import rq_jobs

if TYPE_CHECKING:
    from flask import Flask

LONGEST_PAGE, LAST_PAGE = 200, 1_000_000
POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
FAILURES: dict[type[Exception], int] = {
    NoSuchJobError: 404,
    rq_jobs.Refused: 409,
    InvalidJobOperation: 409,
    ResponseError: 409,
    rq_jobs.Unreadable: 422,
    RedisGone: 503,
    RedisSlow: 503,
    PeeweeException: 503,
}


class Templates(FileSystemLoader):
    """Its templates, with every value escaped and every script known by a nonce."""

    def get_source(self, environment: Environment, template: str) -> Any:
        """As they would be written today."""
        source, *rest = super().get_source(environment, template)
        source = re.sub(r"\$\('<div/>'\)\.text\((.+?)\)\.html\(\)", r"\1", source).replace("<%=", "<%-")
        source = source.replace("'{{ queue.name }}'", "{{ queue.name|tojson }}")
        return source.replace('<script type="text/javascript">', '<script nonce="{{ g.nonce }}">'), *rest


def flask_app() -> Flask:
    """The dashboard as a WSGI application of its own."""
    from flask import Flask
    from rq_dashboard import web

    web.config.serializer = rq_jobs.Readable
    web.Job, web.Worker, web.get_queue_registry_jobs_count = rq_jobs.Job, rq_jobs.Worker, rq_jobs.page_of_jobs
    app = Flask("rq_dashboard", static_folder="static")  # its pages ask for /static with and without the blueprint
    app.jinja_loader = Templates(f"{app.root_path}/templates")
    address = urlsplit(settings.redis_url)
    app.config["RQ_DASHBOARD_REDIS_URL"] = (f"{address.hostname or address.path}:{address.port or 6379}",)
    app.redis_conn = db.redis()  # type: ignore[attr-defined]
    app.register_blueprint(web.blueprint)
    app.before_request_funcs["rq_dashboard"] = [look_before]
    app.after_request(with_policy)
    for act in (delete_job_view, requeue_job_view, requeue_all, empty_queue, compact_queue):
        app.view_functions[f"rq_dashboard.{act.__name__}"] = act
    for failure, status in FAILURES.items():
        app.register_error_handler(failure, lambda error, status=status: say(status, str(error)))
    return app


def look_before() -> None:
    """Before each view: the address makes sense and Redis answers."""
    from flask import abort, g, request

    g.nonce = secrets.token_urlsafe(16)
    arguments: dict[str, Any] = request.view_args or {}
    if arguments.get("instance_number", 0) or arguments.get("registry_name", "queued") not in LISTS:
        abort(404)
    for name, most in (("per_page", LONGEST_PAGE), ("page", LAST_PAGE)):
        if name in arguments:
            text = str(arguments[name])
            if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
                abort(404)
            arguments[name] = type(arguments[name])(min(int(text), most))
    db.redis().ping()


LISTS = {"queued", *rq_jobs.REGISTRIES}


def with_policy(response: Any) -> Any:
    """Only scripts that we know run in these pages; their templates need eval and style attributes."""
    from flask import g

    response.headers["content-security-policy"] = POLICY.format(nonce=g.get("nonce", ""))
    return response


def say(status: int, words: str) -> Any:
    """An error in words: JSON for scripts, a page for people."""
    from flask import jsonify, request
    from markupsafe import escape

    if status == 503:
        words = "Redis or PostgreSQL is away; try again in a moment"
    headers = {"Retry-After": "2"} if status == 503 else {}
    if request.method == "GET" and "/data/" not in request.path:
        return f"<!doctype html><title>{status}</title><p>{escape(words)}</p>", status, headers
    return jsonify(status="ERROR", error=words), status, headers


# What an operator may do: each leaves an audit row first.


def delete_job_view(job_id: str) -> dict[str, Any]:
    """Delete a job that is not running."""
    _noted("delete job", job_id)
    rq_jobs.delete(db.redis(), job_id)
    return {"status": "OK"}


def requeue_job_view(job_id: str) -> dict[str, Any]:
    """Try a failed job again."""
    who = _noted("requeue job", job_id)
    with db.database.connection_context():
        rq_jobs.requeue(db.redis(), job_id, who)
    return {"status": "OK"}


def requeue_all(queue_name: str) -> dict[str, Any]:
    """Try all failed jobs of a queue again."""
    who = _noted("requeue failed jobs", queue_name)
    with db.database.connection_context():
        return {"status": "OK", "count": rq_jobs.requeue_all(db.redis(), queue_name, who)}


def empty_queue(queue_name: str, registry_name: str) -> dict[str, Any]:
    """Delete every job of a list that is not running."""
    _noted(f"empty {registry_name}", queue_name)
    return {"status": "OK", "left_running": rq_jobs.empty(db.redis(), queue_name, registry_name)}


def compact_queue(queue_name: str) -> dict[str, Any]:
    """Take those out of a queue whose job is gone."""
    _noted("compact", queue_name)
    rq_jobs.compact(db.redis(), queue_name)
    return {"status": "OK"}


def _noted(action: str, target: str) -> str:
    from flask import request

    who = str(request.environ["asgi.scope"]["nightdesk.visitor"].name)
    with db.database.connection_context():
        runs.audit(who, action, target)
    return who
