"""Telegram, LINE, Discord and webhooks: what goes out, and what each answer means."""

import base64
import dataclasses
import hmac
import json
import os
import sys
from datetime import UTC, datetime
from hashlib import sha256

import pytest

import config
from demo.api import Response
from demo.server import running
from domain.failures import Rejected, Unavailable
from domain.notifications import Line, Message, Section
from notify import limits, wording
from notify.channels import Crowded, Gone, Moved, channel
from notify.webhook import signature

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = "5f0c9a4e-3c1b-4a57-9f0e-8f3a1f6a0d9c"
MESSAGE = Message(KEY, "BTCUSD is at 97000", NOW, (Line("Price", "97000"),), kind="alert", facts={"alert_id": 3})
NASTY = "<b>bold</b> *stars* @everyone <@123> [x](http://evil.example) `code` ||spoiler|| _under_ & more"
LINE_USER = "U" + "0" * 32


@pytest.fixture
def demo(monkeypatch, redis):
    with running(seed=5) as world:
        monkeypatch.setattr(config, "settings", config.load({**os.environ, **world.environment}))
        yield world


def webhook(demo, path: str = "hook") -> str:
    return f"{demo.url}/webhook/{path}"


def discord(demo, number: int = 77) -> str:
    return f"https://discord.com/api/webhooks/{number}/token-of_it"


def taken(demo, name: str) -> list[dict]:
    return demo.inboxes[name].list()


def send(name: str, target: str, message: Message = MESSAGE, secret: str = ""):
    with channel(name) as opened:
        return opened.send(target, message, secret), opened.broken


def failure(name: str, target: str, message: Message = MESSAGE, secret: str = "") -> tuple[Exception, Exception | None]:
    with channel(name) as opened:
        with pytest.raises((Unavailable, Rejected)) as raised:
            opened.send(target, message, secret)
        return raised.value, opened.broken


def test_a_message_arrives_on_each(demo):
    assert send("telegram", "1001") == ("1", None)
    assert send("line", LINE_USER) == ("1", None)
    assert send("discord", discord(demo)) == ("1", None)
    assert taken(demo, "telegram")[0]["text"] == "<b>BTCUSD is at 97000</b>\nPrice: 97000\n"
    assert taken(demo, "line")[0]["text"] == "BTCUSD is at 97000\n\nPrice: 97000\n"
    assert taken(demo, "discord")[0]["text"] == "**BTCUSD is at 97000**\nPrice: 97000\n"


def test_hostile_text_is_inert_on_every_channel(demo):
    hostile = dataclasses.replace(MESSAGE, title=NASTY, lines=(Line(NASTY, NASTY),))
    send("telegram", "1001", hostile), send("discord", discord(demo), hostile), send("line", LINE_USER, hostile)
    (telegram,), (on_discord,) = taken(demo, "telegram"), taken(demo, "discord")
    assert "<b>bold" not in telegram["text"]
    assert "&lt;b&gt;bold&lt;/b&gt;" in telegram["text"]
    assert "@everyone" not in telegram["text"], "nobody in a group is called"
    title = on_discord["text"].splitlines()[0].removeprefix("**").removesuffix("**")
    assert title.replace("\\", "") == NASTY, "nothing is lost"
    for mark in "*_`|<>[]()@~":
        assert title.count(mark) == title.count(f"\\{mark}"), f"{mark} means nothing"


def test_nobody_is_mentioned_on_discord_whatever_a_message_says(demo, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "clients.http.send", lambda method, url, body, **more: sent.append((url, json.loads(body))) or 1 / 0
    )
    with channel("discord") as opened, pytest.raises(ZeroDivisionError):
        opened.send(discord(demo), MESSAGE)
    ((url, body),) = sent
    assert url.endswith("/discord/api/webhooks/77/token-of_it?wait=true"), "the host is ours, not the address's"
    assert (body["allowed_mentions"], body["flags"]) == ({"parse": []}, 4)


@pytest.mark.parametrize(("name", "most"), [("telegram", 4096), ("line", 5000), ("discord", 2000)])
def test_a_long_message_is_cut_at_a_line_and_not_refused(demo, name, most):
    target = {"telegram": "1001", "line": LINE_USER, "discord": discord(demo)}[name]
    lines = tuple(Line(f"label {n}", "<value> *" * 50) for n in range(20))
    send(name, target, dataclasses.replace(MESSAGE, title="t" * 500, lines=lines, sections=(Section("s", lines),)))
    (message,) = taken(demo, name)
    assert 1000 < len(message["text"]) <= most
    assert message["text"].rstrip().endswith("…")


def test_an_emoji_counts_as_two_characters_as_line_counts(demo):
    lines = tuple(Line(f"{n}", "🍎" * 490) for n in range(20))
    send("line", LINE_USER, dataclasses.replace(MESSAGE, lines=lines))
    (message,) = taken(demo, "line")
    assert 4000 < len(message["text"].encode("utf-16-le")) // 2 <= 5000


def test_a_markup_that_telegram_cannot_read_is_sent_again_as_plain_words(demo, monkeypatch):
    monkeypatch.setattr("notify.wording.telegram", lambda message, most: "<blink>no</blink>")
    send("telegram", "1001")
    assert taken(demo, "telegram")[0]["text"].startswith("BTCUSD is at 97000\n")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("telegram", "1403"),
        ("telegram", "1404"),
        ("telegram", "no chat"),
        ("line", LINE_USER[:-3] + "404"),
        ("line", "ann"),
        ("discord", "https://discord.com/api/webhooks/1404/t"),
        ("discord", "https://discord.com/channels/1"),
        ("discord", "http://169.254.169.254/latest"),
        ("apprise", "json://10.0.0.1/x"),
        ("apprise", "file:///etc/passwd"),
        ("apprise", "pover://"),
    ],
)
def test_an_address_that_takes_nothing_any_more_is_gone_and_the_channel_is_not_to_blame(demo, name, target):
    found, broken = failure(name, target)
    assert isinstance(found, Gone)
    assert broken is None


def test_a_group_that_became_another_says_where_it_is_now(demo, monkeypatch):
    body = {"ok": False, "error_code": 400, "description": "Bad Request: group chat was upgraded to a supergroup chat",
            "parameters": {"migrate_to_chat_id": -1001234}}  # fmt: skip
    monkeypatch.setattr(demo.apis["telegram"], "answer", lambda _: Response(body, 400))
    found, _ = failure("telegram", "-55")
    assert isinstance(found, Moved)
    assert found.address == "-1001234"


def test_too_many_is_nothing_against_the_message_and_says_for_how_long(demo):
    demo.faults.add("telegram", 429)
    demo.faults.add("line", 429)
    demo.faults.add("discord", 429)
    telegram, line, on_discord = (
        failure(name, target) for name, target in
        (("telegram", "1001"), ("line", LINE_USER), ("discord", discord(demo)))
    )  # fmt: skip
    assert all(isinstance(found, Crowded) and broken is None for found, broken in (telegram, line, on_discord))
    assert (telegram[0].retry_after, on_discord[0].retry_after) == (3, 1.5)
    assert [found.everybody for found, _ in (telegram, line, on_discord)] == [False, True, False]


@pytest.mark.parametrize("name", ["telegram", "line", "discord"])
@pytest.mark.parametrize("body", ["<html>Sign in to the network</html>", [], {}, {"ok": "yes", "id": None}])
def test_an_answer_of_success_without_a_message_is_none(demo, monkeypatch, name, body):
    monkeypatch.setattr(demo.apis[name], "answer", lambda _: Response(body))
    found, broken = failure(name, {"telegram": "1001", "line": LINE_USER, "discord": discord(demo)}[name])
    assert isinstance(found, Unavailable)
    assert broken is found


def test_an_error_is_one_under_whatever_status(demo, monkeypatch):
    body = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
    monkeypatch.setattr(demo.apis["telegram"], "answer", lambda _: Response(body))
    found, broken = failure("telegram", "1001")
    assert isinstance(found, Rejected)
    assert "chat not found" in str(found)
    assert broken is None


@pytest.mark.parametrize(
    ("name", "body", "receipt"),
    [("telegram", {"ok": True, "result": True}, ""), ("line", {"sentMessages": ["x", {"id": 7}]}, "7")],
)
def test_a_receipt_in_another_form_costs_nothing(demo, monkeypatch, name, body, receipt):
    monkeypatch.setattr(demo.apis[name], "answer", lambda _: Response(body))
    assert send(name, {"telegram": "1001", "line": LINE_USER}[name])[0] == receipt


@pytest.mark.parametrize(("wait", "seconds"), [(3, 3), ("30s", 1), (None, 1), ("NaN", 1), ("Infinity", 21_600)])
def test_a_wait_that_cannot_be_read_is_a_second_and_none_is_endless(demo, monkeypatch, wait, seconds):
    body = {"ok": False, "error_code": 429, "parameters": {"retry_after": wait}}
    monkeypatch.setattr(demo.apis["telegram"], "answer", lambda _: Response(body, 429))
    assert failure("telegram", "1001")[0].retry_after == seconds


@pytest.mark.parametrize("name", ["telegram", "line", "discord"])
@pytest.mark.parametrize("status", [400, 429])
def test_a_refusal_in_another_form_is_one_all_the_same(demo, monkeypatch, name, status):
    body = {"parameters": None, "description": None, "details": None, "retry_after": None, "global": None}
    monkeypatch.setattr(demo.apis[name], "answer", lambda _: Response(body, status))
    found, _ = failure(name, {"telegram": "1001", "line": LINE_USER, "discord": discord(demo)}[name])
    assert type(found) is (Rejected if status == 400 else Crowded)


def test_a_wrong_token_is_the_channels_fault(demo, monkeypatch):
    wrong = dataclasses.replace(config.settings, telegram_token="2:secret", line_token="secret")
    monkeypatch.setattr(config, "settings", wrong)
    for name, target in (("telegram", "1001"), ("line", LINE_USER)):
        found, broken = failure(name, target)
        assert isinstance(broken, Rejected)
        assert "secret" not in str(found)
    monkeypatch.setattr(config, "settings", dataclasses.replace(wrong, telegram_token="", line_token=""))
    assert "TELEGRAM_TOKEN is not set" in str(failure("telegram", "1001")[1])
    assert "LINE_TOKEN is not set" in str(failure("line", LINE_USER)[1])


@pytest.mark.parametrize("name", ["telegram", "line", "discord"])
@pytest.mark.parametrize("fault", [500, "reset"])
def test_a_service_that_is_away_is_the_channels_trouble(demo, name, fault):
    demo.faults.add(name, fault)
    found, broken = failure(name, {"telegram": "1001", "line": LINE_USER, "discord": discord(demo)}[name])
    assert isinstance(found, Unavailable)
    assert broken is found


def test_a_repeat_under_the_same_key_is_known_to_line_and_counts_as_sent(demo):
    first, again = send("line", LINE_USER), send("line", LINE_USER)
    assert first == again == ("1", None)
    assert len(taken(demo, "line")) == 1


def test_a_month_whose_quota_is_spent_stops_line_until_the_next_month(demo):
    demo.apis["line"].quota = 0
    _, broken = failure("line", LINE_USER)
    assert isinstance(broken, Unavailable)
    left = broken.retry_after
    assert left == pytest.approx((datetime.now(UTC).replace(day=28) - datetime.now(UTC)).total_seconds(), abs=5 * 86400)


def test_discord_says_that_nothing_is_left_and_the_next_message_waits(demo, monkeypatch):
    answer = Response({"id": "9"}, 200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "175.5"})
    monkeypatch.setattr(demo.apis["discord"], "answer", lambda _: answer)
    with channel("discord") as opened:
        opened.send(discord(demo), MESSAGE)
        assert 155 < limits.take("discord", None, discord(demo), opened.limit_of(discord(demo))).wait <= 175.5


SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def test_a_webhook_is_signed_as_standard_webhooks_has_it(demo, monkeypatch):
    seen = []
    stand_in = demo.apis["webhook"]
    answer = stand_in.answer
    monkeypatch.setattr(stand_in, "answer", lambda request: seen.append(request) or answer(request))
    send("webhook", webhook(demo), MESSAGE, SECRET)
    (request,) = seen
    head = request.headers
    signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(b"k" * 32, signed, sha256).digest()).decode()
    assert head["webhook-id"] == KEY
    assert head["webhook-signature"] == f"v1,{expected}"
    told = json.loads(request.body)
    assert (told["type"], told["timestamp"]) == ("alert", NOW.isoformat())
    assert told["data"]["facts"] == {"alert_id": 3}
    assert told["data"]["lines"] == [{"label": "Price", "value": "97000", "series": []}]


def test_the_signature_is_that_of_the_published_example():
    # standardwebhooks.com, "Verifying webhooks manually"
    body = b'{"test": 2432232314}'
    made = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", body, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now=1614265330)
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data", "http://[::1]/", "http://0x7f.1/"]
)
def test_a_webhook_that_points_into_a_private_network_is_refused(demo, monkeypatch, url):
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, private_targets=False))
    found, broken = failure("webhook", url, MESSAGE, SECRET)
    assert isinstance(found, Gone)
    assert broken is None


def test_a_webhook_that_redirects_is_refused_and_not_followed(demo):
    demo.faults.add("webhook", "redirect", location="http://169.254.169.254/")
    assert isinstance(failure("webhook", webhook(demo), MESSAGE, SECRET)[0], Gone)
    assert taken(demo, "webhook") == []


def test_a_webhook_that_says_it_is_gone_is_gone_and_other_refusals_cost_one_message(demo):
    assert isinstance(failure("webhook", webhook(demo, "410"), MESSAGE, SECRET)[0], Gone)
    demo.faults.add("webhook", 403)
    found, _ = failure("webhook", webhook(demo), MESSAGE, SECRET)
    assert type(found) is Rejected
    assert "/webhook" not in str(found), "the path of a webhook is its password"


def test_a_secret_that_is_none_costs_one_message(demo):
    assert "secret" in str(failure("webhook", webhook(demo), MESSAGE, "whsec_!!")[0])


def test_apprise_without_its_package_says_how_to_install_it(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    found, broken = failure("apprise", "pover://x")
    assert broken is found
    assert "requirements-apprise.txt" in str(found)


def test_apprise_reaches_one_target_of_a_service_that_is_allowed(demo, monkeypatch):
    pytest.importorskip("apprise", reason="pip install -r requirements-apprise.txt")
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, apprise_services=("json", "pbul")))
    send("apprise", f"json://{demo.url.removeprefix('http://')}/webhook/push")
    assert "Price: 97000" in taken(demo, "webhook")[0]["text"]
    demo.faults.add("webhook", 500)
    assert isinstance(failure("apprise", f"json://{demo.url.removeprefix('http://')}/webhook/push")[0], Unavailable)
    assert "2 targets" in str(failure("apprise", f"pbul://{'a' * 32}/one/two")[0])


def test_hostile_text_is_inert_on_slack_too(demo, monkeypatch):
    slack = pytest.importorskip("apprise.plugins.slack", reason="pip install -r requirements-apprise.txt")
    monkeypatch.setattr(slack.NotifySlack, "webhook_url", f"{demo.url}/webhook")
    monkeypatch.setattr(demo.apis["webhook"], "answer", lambda request: seen.append(request.body) or Response("ok"))
    seen: list[bytes] = []
    hostile = "<!channel> <http://evil.example|log in>"
    for lines in ((), (Line("x", hostile),)):
        send("apprise", f"slack://{'T' * 9}/{'A' * 9}/{'i' * 24}/#alerts",
             dataclasses.replace(MESSAGE, title=hostile, lines=lines))  # fmt: skip
    assert len(seen) == 2
    assert all(b"&lt;!channel&gt;" in body and b"<!channel>" not in body and b"<http" not in body for body in seen)


def test_a_template_error_costs_one_message(demo, monkeypatch):
    monkeypatch.setattr("notify.wording.FOLDER", os.devnull)
    wording._templates.cache_clear()
    found, broken = failure("line", LINE_USER)
    wording._templates.cache_clear()
    assert type(found) is Rejected
    assert broken is None
