"""Who gets in: every endpoint there is, against everybody who may not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import db
from models import operators
from tests.web.conftest import PASSWORD, ROOT, SECRET, Site
from web.access import APP, METRICS, OPEN, OPERATOR, READ, VIEWER
from web.app import ROUTES

VALUES = {"entry": "sync_prices", "fingerprint": "f1", "mode": "off", "token": "1.email.alert.0"}
LINK = "/unsubscribe/1.email.alert.0"  # signed, see tests/web/test_notifications.py


def endpoints() -> Iterator[tuple[str, str, str]]:
    """(method, path, access) of every route; a mounted app is asked at its root."""
    for route in ROUTES:
        if isinstance(route, Route):
            path = re.sub(r"{(\w+)}", lambda m: VALUES[m[1]], route.path)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, path, getattr(route.endpoint, "access", "none")
        elif isinstance(route, Mount):
            yield "GET", f"{route.path}/", OPEN if route.path == "/static" else VIEWER


ENDPOINTS = list(endpoints())
CLOSED = [(method, path) for method, path, access in ENDPOINTS if access != OPEN]
POSTS = [path for method, path, _ in ENDPOINTS if method == "POST" and path not in ("/login", LINK)]


def of(*kinds: str) -> list[tuple[str, str]]:
    return [(method, path) for method, path, access in ENDPOINTS if access in kinds]


def test_every_endpoint_names_its_access_and_few_are_open() -> None:
    assert {access for *_, access in ENDPOINTS} <= {OPEN, VIEWER, OPERATOR, METRICS, READ, APP}
    assert {path for _, path, access in ENDPOINTS if access == OPEN} == {"/healthz", "/login", "/static/", LINK}
    assert all(access == OPERATOR for method, path, access in ENDPOINTS if path in POSTS and path != "/logout")


def test_the_guide_lists_every_endpoint_with_who_may() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (\w+) \|", Path(ROOT, "docs/web.md").read_text(), re.MULTILINE)
    told = {re.sub(r"{(\w+)}", lambda m: VALUES[m[1]], path): access for path, access in rows}
    there = {path.rstrip("/") or "/": access for _, path, access in ENDPOINTS}
    assert told == there


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_stranger_is_shown_nothing(site: Site, method: str, path: str) -> None:
    assert site.stranger().request(method, path).status_code == 401
    page = site.stranger(accept="text/html").request(method, path)
    assert page.status_code in (401, 303)
    assert page.headers.get("location", "/login") == "/login"


@pytest.mark.parametrize(("method", "path"), of(OPERATOR))
def test_a_viewer_may_not_act(site: Site, method: str, path: str) -> None:
    viewer = site.log_in("vic", "viewer")
    assert viewer.request(method, path, headers={"x-csrf": viewer.csrf}).status_code == 403
    assert db.rows("select 1 from audit where who = 'vic' and action <> 'log in'") == []


def test_a_viewer_may_look(site: Site) -> None:
    viewer = site.log_in("vic", "viewer")
    seen = {
        path: viewer.get(path, stream=True).status_code for _, path in of(VIEWER, METRICS, READ) if path != "/logout"
    }
    del seen["/rq/"]  # has tests of its own
    assert set(seen.values()) == {200}


@pytest.mark.parametrize("path", POSTS)
def test_without_our_own_token_and_origin_nothing_changes(site: Site, path: str) -> None:
    ann, other = site.log_in(), site.log_in("bob")
    forged = {
        "missing": ann.post(path),
        "empty": ann.post(path, data={"csrf": ""}),
        "made up": ann.press(path, **{"x-csrf": "0" * 64}),
        "not text": ann.post(path, data={"csrf": "é\x00"}),
        "of another session": ann.press(path, **{"x-csrf": other.csrf}),
        "from elsewhere": ann.press(path, origin="https://evil.example"),
        "from nowhere": ann.press(path, origin="null"),
        "from our host by another port": ann.press(path, origin="http://127.0.0.1:1"),
    }
    assert {what: answer.status_code for what, answer in forged.items()} == dict.fromkeys(forged, 403)
    assert db.rows("select 1 from audit where action <> 'log in'") == []
    assert ann.get("/").status_code == 200


def test_a_form_that_none_of_ours_can_be_is_not_read(site: Site) -> None:
    ann = site.log_in()
    assert ann.post("/jobs/sync_prices/run", data={"csrf": "x" * 5000}).status_code == 413
    assert ann.post("/jobs/sync_prices/run", data=iter([b"csrf=", b"x"])).status_code == 413  # of unknown length
    assert ann.post("/jobs/sync_prices/run").status_code == 403  # it has no body, and so no word of ours
    assert ann.post("/jobs/sync_prices/run", data=b"csrf=\xff").status_code in (400, 403)
    assert ann.post("/login", data="&".join(f"a{i}=1" for i in range(50))).status_code == 400


# sessions


def test_a_session_ends_when_its_time_is_over(site: Site) -> None:
    ann = site.log_in()
    db.rows("update session set expires_at = now() - interval '1 second'")
    assert ann.get("/fragment").status_code == 401
    assert ann.press("/jobs/sync_prices/pause").status_code == 401


def test_a_made_up_cookie_opens_nothing(site: Site) -> None:
    site.log_in()
    for value in ("", "x", "a" * 43, "é", db.rows("select encode(token_hash, 'hex') from session")[0][0]):
        assert site.stranger(cookie=f"nightdesk={value}".encode()).get("/").status_code == 401


def test_who_is_shut_out_is_out_at_once_and_cannot_come_back(site: Site) -> None:
    ann = site.log_in()
    operators.disable("ann")
    assert ann.get("/").status_code == 401
    assert site.stranger().post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 401


def test_a_new_password_logs_out_everywhere(site: Site) -> None:
    ann = site.log_in()
    operators.save("ann", "another password", "operator")
    assert ann.get("/").status_code == 401


def test_a_new_role_counts_at_once(site: Site) -> None:
    ann = site.log_in()
    db.rows("update operator set role = 'viewer' where name = 'ann'")
    assert ann.press("/jobs/sync_prices/pause").status_code == 403


def test_logging_out_closes_the_session_itself_and_not_the_cookie_alone(site: Site) -> None:
    ann = site.log_in()
    kept = ann.cookies["nightdesk"]
    assert ann.post("/logout", data={"csrf": ann.csrf}).headers["location"] == "/login"
    assert site.stranger(cookie=f"nightdesk={kept}").get("/").status_code == 401


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(site: Site) -> None:
    site.let_in("ann", "operator")
    fields = {"name": "ann", "password": PASSWORD}
    plain = site.stranger().post("/login", data=fields).headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=lax" in plain
    assert "Secure" not in plain
    assert "Secure" in site.stranger(**{"x-forwarded-proto": "https"}).post("/login", data=fields).headers["set-cookie"]


# logging in


def test_a_login_needs_name_and_password_and_the_answer_does_not_tell_which_is_wrong(site: Site) -> None:
    site.let_in("ann", "operator")
    wrong = [
        ("ann", "wrong password"),
        ("nobody", PASSWORD),
        ("", ""),
        ("ann\x00", PASSWORD),
        ("<b>", "x"),
        ("Ann", PASSWORD),
    ]
    for name, password in wrong:
        answer = site.stranger().post("/login", data={"name": name, "password": password})
        assert answer.status_code == 401
        assert "Wrong name or password." in answer.text
        assert "set-cookie" not in answer.headers
        assert "<b>" not in answer.text


def test_another_site_cannot_log_anybody_in(site: Site) -> None:
    site.let_in("ann", "operator")
    answer = site.stranger(origin="https://evil.example").post("/login", data={"name": "ann", "password": PASSWORD})
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)


def test_guessing_is_slow_and_leaves_others_alone(site: Site) -> None:
    site.let_in("ann", "operator")
    site.let_in("bob", "operator")
    codes = [
        site.stranger().post("/login", data={"name": "ann", "password": f"guess {i}"}).status_code for i in range(11)
    ]
    assert codes == [401] * 10 + [429]
    assert site.stranger().post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 429
    assert site.stranger().post("/login", data={"name": "bob", "password": PASSWORD}).status_code == 303
    elsewhere = site.stranger(**{"x-forwarded-for": "203.0.113.9"})  # its owner, from another address
    assert elsewhere.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 303


def test_many_names_from_one_address_have_to_wait_too(site: Site) -> None:
    codes = [site.stranger().post("/login", data={"name": f"n{i}", "password": "guess"}).status_code for i in range(51)]
    assert codes == [401] * 50 + [429]
    assert 0 < db.redis().ttl("nightdesk:login:* 127.0.0.1") <= 300


# programs


def bearer(site: Site, token: str) -> Any:
    return site.stranger(authorization=f"Bearer {token}")


def test_a_token_opens_its_scope_and_nothing_else(site: Site) -> None:
    tokens = {scope: operators.new_token(scope, scope, None) for scope in (METRICS, READ)}
    for scope, token in tokens.items():
        for method, path, access in ENDPOINTS:
            if access != OPEN and path != "/rq/":
                code = bearer(site, token).request(method, path).status_code
                assert code == (200 if access == scope else 403), (scope, method, path)


@pytest.mark.parametrize("end", ["expires_at = now() - interval '1 s'", "revoked_at = now()"])
def test_a_token_that_has_ended_opens_nothing(site: Site, end: str) -> None:
    token = operators.new_token("prometheus", METRICS, 1)
    assert bearer(site, token).get("/metrics").status_code == 200
    db.rows(f"update api_token set {end}")
    assert bearer(site, token).get("/metrics").status_code == 401


def test_a_new_token_ends_the_old_one_of_that_name(site: Site) -> None:
    old, new = (operators.new_token("prometheus", METRICS, None) for _ in range(2))
    assert [bearer(site, token).get("/metrics").status_code for token in (old, new)] == [401, 200]


@pytest.mark.parametrize(
    "token", ["", "nd_", "nd_" + "x" * 43, "nd_é", "x.y.z", "\x7f", "a" * 5000, "eyJhbGciOiJub25lIn0.e30."]
)
def test_a_made_up_token_opens_nothing(site: Site, token: str) -> None:
    for path in ("/metrics", "/api/quotes", "/api/notifications"):
        assert site.stranger(authorization=f"Bearer {token}".encode()).get(path).status_code == 401


# the app's users


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 7200, **claims}, secret or None, algorithm)


def test_the_apps_users_come_in_by_the_apps_signature_and_see_their_own(site: Site) -> None:
    db.rows("insert into app_user (external_id) values ('alice'), ('mallory')")
    assert bearer(site, signed()).get("/api/notifications").status_code == 200
    for method, path in of(VIEWER, OPERATOR, METRICS, READ):
        assert bearer(site, signed()).request(method, path).status_code in ((401, 403) if path == "/rq/" else (403,))


@pytest.mark.parametrize(
    "token",
    [
        signed(exp=int(time.time()) - 60),
        signed(secret="a secret that somebody else made up for this"),
        signed(secret=SECRET * 2, algorithm="HS512"),
        signed(secret="", algorithm="none"),
        signed(sub="nobody"),
        signed(sub="alice\x00"),
        signed(nbf=int(time.time()) + 7000),
        jwt.encode({"sub": "alice"}, SECRET, "HS256"),
        jwt.encode({"exp": int(time.time()) + 7200}, SECRET, "HS256"),
        jwt.encode({"sub": "alice", "exp": "soon"}, SECRET, "HS256"),
        signed()[:-2],
    ],
    ids=["expired", "other secret", "other algorithm", "unsigned", "unknown", "with a NUL", "of later",
         "without an end", "without a user", "with an end in words", "cut off"],
)  # fmt: skip
def test_a_forged_or_expired_signature_opens_nothing(site: Site, token: str) -> None:
    db.rows("insert into app_user (external_id) values ('alice')")
    assert bearer(site, token).get("/api/notifications").status_code == 401
    assert site.stranger().get(f"/events?token={token}").status_code == 401


def test_a_token_in_the_address_opens_events_alone(site: Site) -> None:
    db.rows("insert into app_user (external_id) values ('alice')")
    assert site.stranger().get(f"/api/notifications?token={signed()}").status_code == 401
    with site.stranger().get(f"/events?token={signed()}", stream=True) as answer:
        assert answer.status_code == 200


# events by WebSocket


def test_a_websocket_is_closed_to_strangers_and_to_pages_of_others(site: Site) -> None:
    assert any(isinstance(route, WebSocketRoute) and route.path == "/events" for route in ROUTES)
    address = site.url.replace("http", "ws") + "/events"
    cookie = f"nightdesk={site.log_in().cookies['nightdesk']}"
    for headers in ({}, {"Cookie": "nightdesk=x"}, {"Cookie": cookie, "Origin": "https://evil.example"}):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, additional_headers=headers, proxy=None)
    with connect(address, additional_headers={"Cookie": cookie, "Origin": site.url}, proxy=None) as line:
        assert "hello" in str(line.recv(timeout=60))


# every answer


@pytest.mark.parametrize("path", ["/", "/login", "/fragment", "/static/nightdesk.js", "/nowhere", "/metrics"])
def test_every_answer_keeps_other_sites_out_and_is_not_kept(site: Site, path: str) -> None:
    headers = site.log_in().get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert "server" not in headers
