"""Secrets are hidden by name, by value and by the shape of a URL."""

from __future__ import annotations

import pytest

from clients.redaction import excerpt, redact


@pytest.mark.parametrize(
    "text",
    [
        "https://x.example/?apikey=SECRET&symbol=IBM",
        "https://x.example/?symbol=IBM&apiKey=SECRET",
        "GET /v4/odds?api_key=SECRET#x",
        "/v1?access_key=SECRET",
        "?token=SECRET",
        "?crumb=SECRET",
        '{"api_key": "SECRET"}',
        "X-Access-Token: SECRET",
        "Authorization: Bearer SECRETSECRET",
        "Basic SECRETSECRET==",
        "postgresql://desk:SECRET@db/x",
        "https://SECRET@x.example/",
        "https://api.telegram.org/bot12345:SECRET/sendMessage",
        "https://discord.com/api/webhooks/123/SECRET",
        "x_client_secret=SECRET",
        "password%3DSECRET",
    ],
)
def test_what_is_named_like_a_secret_is_hidden(text):
    assert "SECRET" not in redact(text)
    assert "***" in redact(text)


def test_what_is_not_secret_stays():
    text = 'binance: GET /api/v3/ticker/price?symbol=BTCUSDT: 400: {"code":-1121,"msg":"Invalid symbol."}'
    assert redact(text) == text


def test_given_secrets_are_hidden_in_each_encoding():
    assert redact("a k/e+y= b k%2Fe%2By%3D c", ["k/e+y="]) == "a *** b *** c"


def test_the_key_in_the_path_of_a_secret_url_is_hidden(settings):
    settings(ethereum_rpc_url="https://mainnet.example.com/v3/0123456789abcdef")
    assert redact("ethereum: POST /v3/0123456789abcdef: 500") == "ethereum: POST ***: 500"


def test_an_excerpt_is_one_short_printable_line():
    assert excerpt(b"a\n b\x00\xff\x1b[31m" + b"x" * 1000, 12).isprintable()
    assert len(excerpt(b"x" * 1000, 12)) == 12
