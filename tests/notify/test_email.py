"""Mail over SMTP: what goes out, and what each answer of a server means."""

import dataclasses
from datetime import UTC, datetime

import pytest

import config
from domain.failures import Rejected, Unavailable
from domain.notifications import Line, Message, Section, inert
from notify.channels import send
from notify.email import Email, compose
from tests.mail import mail_server

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MESSAGE = Message("0d9c", "BTCUSD is at 97000, above 96000", NOW, (Line("Price", "97000"),))


@pytest.fixture
def server(monkeypatch):
    with mail_server() as running:
        use(monkeypatch, running.url)
        yield running


def use(monkeypatch, url: str, **settings) -> None:
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, smtp_url=url, **settings))


def test_a_message_arrives_with_sender_recipient_date_and_its_key(server):
    receipt = send("email", "ann@example.com", MESSAGE)
    (mail,) = server.mails
    assert mail["To"] == "ann@example.com"
    assert mail["From"] == "Nightdesk <nightdesk@localhost>"
    assert mail["Subject"] == MESSAGE.title
    assert mail["Message-ID"] == receipt == "<0d9c@localhost>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == NOW
    assert plain(mail) == ["BTCUSD is at 97000, above 96000", "", "Price: 97000"]
    assert "97000" in mail.get_body(("html",)).get_content()
    assert mail["List-Unsubscribe"] is None, "where no link leads here"


def plain(mail) -> list[str]:
    return mail.get_body(("plain",)).get_content().splitlines()


def test_one_connection_carries_all_messages_of_a_run(server):
    with Email() as email:
        for n in range(5):
            email.send(f"user{n}@example.com", MESSAGE)
    assert len(server.mails) == 5
    assert server.connections == 1


def test_a_subject_with_line_breaks_adds_no_header():
    title = inert("up\r\nBcc: eve@example.com\n\tx\0y")
    mail = compose("ann@example.com", dataclasses.replace(MESSAGE, title=title))
    assert mail["Subject"] == "up Bcc: eve@example.com x y"
    assert mail["Bcc"] is None
    assert b"\nBcc" not in mail.as_bytes()


def test_other_alphabets_arrive_unharmed(server):
    lines = (Line("ทอง", "黄金"), Line("سعر", inert("ارتفع")))
    send("email", "ann@example.com", dataclasses.replace(MESSAGE, title="Gold über 4.000 €", lines=lines))
    assert server.mails[0]["Subject"] == "Gold über 4.000 €"
    assert plain(server.mails[0])[2:] == ["ทอง: 黄金", "سعر: \u2068ارتفع\u2069"]


def test_tags_in_a_message_are_words_in_the_mail():
    hostile = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    mail = compose("ann@example.com", dataclasses.replace(MESSAGE, title=hostile, lines=(Line(hostile, hostile),)))
    html = mail.get_body(("html",)).get_content()
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4


def test_a_series_is_a_picture_that_travels_with_the_mail():
    lines = (Line("BTCUSD", "+2 %", (1, 3, 2)), Line("XAUUSD", "-1 %", (2, 1)), Line("EURUSD", "0 %"))
    mail = compose("ann@example.com", dataclasses.replace(MESSAGE, sections=(Section("Yours", lines),)))
    pictures = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    html = mail.get_body(("html", "related")).get_content()
    assert len(pictures) == 2
    for part in pictures:
        assert f'src="cid:{part["Content-ID"].strip("<>")}"' in html
        assert part.get_content().startswith(b"\x89PNG")


def test_whoever_reads_a_mail_can_end_it_with_one_click():
    link = "https://desk.example.com/unsubscribe/1.email.alert.abc"
    mail = compose("ann@example.com", dataclasses.replace(MESSAGE, unsubscribe=link))
    assert mail["List-Unsubscribe"] == f"<{link}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert f'href="{link}"' in mail.get_body(("html",)).get_content()
    assert link in mail.get_body(("plain",)).get_content()


def test_links_in_headers_are_not_folded_or_encoded_however_long_they_are(server, monkeypatch):
    place = "notifications.of-a-company-with-a-long-name.example.com"
    use(monkeypatch, server.url, mail_from=f"Nightdesk <nightdesk@{place}>")
    link = f"https://{place}/unsubscribe/1.email.alert.{'5a34' * 16}"
    lines = (Line("BTCUSD", "+2 %", (1, 3, 2)),)
    send("email", "ann@example.com", dataclasses.replace(MESSAGE, unsubscribe=link, lines=lines))
    sent = server.raw[0].splitlines()
    assert f"List-Unsubscribe: <{link}>".encode() in sent
    assert f"Content-ID: <1.0d9c@{place}>".encode() in sent
    assert f"Message-ID: <0d9c@{place}>".encode() in sent


def test_a_link_that_no_header_could_hold_is_refused_at_the_start():
    with pytest.raises(config.WrongSetting, match=r"PUBLIC_URL: .* in ASCII"):
        config.load({"PUBLIC_URL": "https://bücher.example"})
    assert config.load({"PUBLIC_URL": "https://xn--bcher-kva.example/"}).public_url == "https://xn--bcher-kva.example"


@pytest.mark.parametrize(
    "target",
    ["", "ann", "ann@", "@example.com", "a@b.c\r\nBcc: e@x.y", "a@b.c, e@x.y", "A <a@b.c>",
     "=?utf-8?q?eve?=@x.y", "a(b)@x.y", '"@x.y', "a@(b", "a@b.c."],
)  # fmt: skip
def test_what_is_no_address_is_rejected_before_any_server_is_asked(target, monkeypatch):
    use(monkeypatch, "smtp://127.0.0.1:1")
    with pytest.raises(Rejected, match="no mail address"):
        send("email", target, MESSAGE)


@pytest.mark.parametrize(
    ("command", "answer", "meaning"),
    [
        ("RCPT", "550 no such user", Rejected),
        ("RCPT", "450 greylisted", Unavailable),
        ("RCPT", "451 try later", Unavailable),
        ("DATA", "554 spam", Rejected),
        ("DATA", "552 too large", Rejected),
        ("MAIL", "552 5.3.4 too large", Rejected),
        ("DATA", "452 disk full", Unavailable),
    ],
)
def test_an_answer_about_one_message_costs_only_that_message(server, command, answer, meaning):
    server.answers[command] = [answer]
    with Email() as email:
        with pytest.raises(meaning, match=answer):
            email.send("ann@example.com", MESSAGE)
        assert email.broken is None
        email.send("bob@example.com", MESSAGE)
    assert [mail["To"] for mail in server.mails] == ["bob@example.com"]
    assert server.connections == 1


def test_a_refused_sender_is_the_channels_fault_and_not_the_messages(server):
    server.answers["MAIL"] = ["553 sender not allowed"]
    with Email() as email, pytest.raises(Rejected, match="sender not allowed"):
        email.send("ann@example.com", MESSAGE)
    assert isinstance(email.broken, Rejected)


def test_a_server_that_hangs_up_after_the_data_leaves_the_outcome_open_and_the_repeat_has_the_same_id(server):
    server.hang_up_after_data = 1
    with Email() as email:
        with pytest.raises(Unavailable, match="connection lost"):
            email.send("ann@example.com", MESSAGE)
        assert email.broken is None
        email.send("ann@example.com", MESSAGE)
    assert server.connections == 2
    assert len({mail["Message-ID"] for mail in server.mails}) == 1


def test_a_server_that_says_421_is_connected_to_again(server):
    server.answers["RCPT"] = ["421 closing"]
    with Email() as email:
        with pytest.raises(Unavailable, match="421"):
            email.send("ann@example.com", MESSAGE)
        email.send("ann@example.com", MESSAGE)
    assert server.connections == 2


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_the_right_password_opens_and_a_wrong_one_is_the_channels_fault(monkeypatch):
    with mail_server(password="secret") as server:
        use(monkeypatch, server.url)
        send("email", "ann@example.com", MESSAGE)
        assert len(server.mails) == 1
        use(monkeypatch, server.url.replace("secret", "wrong%20word"))
        email = Email()
        with email, pytest.raises(Rejected, match="login: 535") as refused:
            email.send("ann@example.com", MESSAGE)
        assert isinstance(email.broken, Rejected)
        assert "wrong word" not in str(refused.value)


def test_a_server_that_is_away_is_the_channels_trouble_and_will_be_tried_again(monkeypatch):
    use(monkeypatch, "smtp://127.0.0.1:1")
    email = Email()
    with email, pytest.raises(Unavailable, match="no connection"):
        email.send("ann@example.com", MESSAGE)
    assert isinstance(email.broken, Unavailable)


def test_without_a_mail_server_in_the_settings_the_channel_is_off_and_says_why(monkeypatch):
    use(monkeypatch, "")
    email = Email()
    with email, pytest.raises(Rejected, match="SMTP_URL is not set"):
        email.send("ann@example.com", MESSAGE)
    assert isinstance(email.broken, Rejected)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_password_is_never_sent_in_the_clear_to_another_machine(monkeypatch):
    with mail_server(password="secret") as server:
        use(monkeypatch, server.url)
        monkeypatch.setattr("notify.email.LOOPBACK", set())
        with Email() as email, pytest.raises(Rejected, match="not sent in the clear"):
            email.send("ann@example.com", MESSAGE)
