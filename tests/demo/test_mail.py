"""The mail server keeps what it takes, and refuses as real ones do."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import pytest

from demo.server import running


def message(subject="Price alert: BTCUSD above 90,000", text="Fired at 12:00.\n"):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "desk@example.org", "ann@example.org", subject
    mail["Message-ID"] = "<1@nightdesk>"
    mail.set_content(text)
    return mail


@pytest.fixture
def smtp(demo):
    with smtplib.SMTP("127.0.0.1", demo.mail.port, timeout=60) as client:
        yield client


def test_a_mail_is_kept_and_listed(ask, smtp):
    smtp.send_message(message(subject="Grüße – €"))
    (kept,) = ask("/control/mail").body
    assert kept["to"] == ["ann@example.org"]
    assert kept["subject"] == "Grüße – €"
    assert kept["text"].strip() == "Fired at 12:00."
    assert kept["message_id"] == "<1@nightdesk>"
    ask("/control/mail", method="DELETE")
    assert ask("/control/mail").body == []


def test_any_login_will_do(smtp):
    assert smtp.login("desk", "any")[0] == 235


def test_a_bad_login_is_535(smtp, demo):
    demo.faults.add("mail", 535)
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        smtp.login("desk", "wrong")
    assert refused.value.smtp_code == 535


@pytest.mark.parametrize("code", [421, 450, 451, 452])
def test_a_passing_failure_is_of_the_sender(smtp, demo, code):
    demo.faults.add("mail", code)
    with pytest.raises(smtplib.SMTPSenderRefused) as refused:
        smtp.send_message(message())
    assert refused.value.smtp_code == code
    assert not demo.mail.messages


@pytest.mark.parametrize("code", [550, 552, 554])
def test_a_lasting_failure_is_of_the_recipient(smtp, demo, code):
    demo.faults.add("mail", code, symbol="ann@")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        smtp.send_message(message())
    assert refused.value.recipients["ann@example.org"][0] == code


def test_one_of_two_recipients_is_refused(smtp, demo):
    demo.faults.add("mail", 550, symbol="bob@")
    refused = smtp.send_message(message(), to_addrs=["ann@example.org", "bob@example.org"])
    assert refused["bob@example.org"][0] == 550
    assert demo.mail.messages[0].recipients == ("ann@example.org",)


def test_a_drop_after_data_leaves_the_sender_in_doubt_and_the_message_kept(smtp, demo):
    demo.faults.add("mail", "drop")
    with pytest.raises((smtplib.SMTPServerDisconnected, smtplib.SMTPDataError)):
        smtp.send_message(message())
    assert len(demo.mail.messages) == 1


def test_mails_are_files_where_a_folder_is_given(tmp_path):
    folder = tmp_path / "mail"
    with running(mail_folder=folder) as demo, smtplib.SMTP("127.0.0.1", demo.mail.port, timeout=60) as client:
        client.send_message(message())
    (file,) = folder.glob("*.eml")
    assert b"Subject: Price alert: BTCUSD above 90,000" in file.read_bytes()
