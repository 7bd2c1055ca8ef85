"""Settings: read once from the environment, checked, frozen. Nothing else reads os.environ.

Where a variable comes from, strongest first: the environment, `.env`, `.nightdesk/local.env`
(written by `nightdesk up` for the servers that it started, removed when they stop).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

ROOT = Path(__file__).resolve().parent
STATE = ROOT / ".nightdesk"  # data of the local servers, never committed


class WrongSetting(SystemExit):
    """A variable that stops the start: the message names it and says what would be right."""


def setting(variable: str, default: str, doc: str, parse: Callable[[str], Any] = str, *, secret: bool = False) -> Any:
    """A dataclass field that is read from `variable`; the default is parsed too, so it is checked."""
    return field(metadata={"variable": variable, "default": default, "doc": doc, "parse": parse, "secret": secret})


def seconds(text: str) -> float:
    """`15`, `15s`, `5m`, `1h` or `1d` as seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    try:
        value = float(number) * unit
    except ValueError:
        value = 0
    if not 0.001 <= value < 366 * 86400:
        raise ValueError("a duration of at least a millisecond such as 15s, 5m, 1h or 1d")
    return value


def whole(most: int = 1_000_000_000) -> Callable[[str], int]:
    """Parses a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,12}", text) or not 1 <= int(text) <= most:
            raise ValueError(f"a whole number from 1 to {most:,}")
        return int(text)

    return parse


days = whole(36_500)  # a date so long ago can still be written


def switch(text: str) -> bool:
    """`1`, `true`, `yes`, `on` and their opposites."""
    if text.lower() not in {"1", "true", "yes", "on", "0", "false", "no", "off", ""}:
        raise ValueError("one of 1, true, yes, on, 0, false, no, off")
    return text.lower() in {"1", "true", "yes", "on"}


def zone(text: str) -> ZoneInfo:
    """An IANA zone name."""
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA zone such as UTC or Europe/London") from None


def url(*schemes: str) -> Callable[[str], str]:
    """A URL of one of these schemes, or nothing."""

    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            port_is_readable = parts.port is None or parts.port > 0
        except ValueError:
            port_is_readable = False
        if text and not (port_is_readable and parts.scheme in schemes and (parts.netloc or parts.path)):
            raise ValueError(f"a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        if not schemes[0].startswith("http"):
            return text
        if not text.isascii():  # it stands in headers of mails, which hold nothing else
            raise ValueError("a URL in ASCII: a host of other letters is written xn--…")
        return text.rstrip("/")

    return parse


web = url("https", "http")


def plain(text: str) -> str:
    """What a header of HTTP can hold."""
    if not re.fullmatch("[ -~]*", text):
        raise ValueError("in ASCII: it is sent in headers of HTTP, which hold nothing else")
    return text


def host(text: str) -> str:
    """The address of an interface, or its name."""
    if not re.fullmatch(r"[0-9a-fA-F:.]*:[0-9a-fA-F:.]*|[\w-]{1,63}(\.[\w-]{1,63})*", text, re.ASCII):
        raise ValueError("an address such as 0.0.0.0, 127.0.0.1 or ::")
    return text


ADDRESS = r"[^\s@<>,;]+@[^\s@<>,;]+"


def address(text: str) -> str:
    """`desk@example.com`."""
    if not re.fullmatch(ADDRESS, text):
        raise ValueError("a mail address such as desk@example.com")
    return text


def mailbox(text: str) -> str:
    """`desk@example.com` or `Nightdesk <desk@example.com>`."""
    if not re.fullmatch(rf"{ADDRESS}|[^<>\r\n]*<{ADDRESS}>", text):
        raise ValueError("a mail address such as Nightdesk <desk@example.com>")
    return text


CHANNELS = ("email", "telegram", "line", "discord", "webhook", "apprise", "console")


def names(text: str) -> tuple[str, ...]:
    """Words with commas between."""
    return tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))


def channel_names(text: str) -> tuple[str, ...]:
    """Names of delivery channels with commas between."""
    if set(names(text)) - set(CHANNELS):
        raise ValueError(f"a list of {', '.join(CHANNELS)}")
    return names(text)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting; `.env.example` is generated from this class."""

    database_url: str = setting(
        "DATABASE_URL", "", "PostgreSQL 15 or newer", url("postgresql", "postgres"), secret=True
    )
    redis_url: str = setting(
        "REDIS_URL", "", "Redis or Valkey with maxmemory-policy noeviction", url("redis", "rediss", "unix"), secret=True
    )
    redis_tls_verify: bool = setting(
        "REDIS_TLS_VERIFY", "on", "off for a rediss:// server whose certificate nobody vouches for, as Heroku's", switch
    )
    timezone: ZoneInfo = setting("NIGHTDESK_TZ", "UTC", "the zone in which the commands show times", zone)
    code_version: str = setting(
        "CODE_VERSION", "", "recorded with each run; Render's and Heroku's own are found", plain
    )
    run_days: int = setting("RUN_DAYS", "90", "days for which run history is kept", days)
    event_days: int = setting("EVENT_DAYS", "30", "days for which events are kept: how far a client can resume", days)
    worker_memory_mb: int = setting("WORKER_MEMORY_MB", "200", "a work-horse above this is replaced", whole())
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE", "25s", "time for running jobs at SIGTERM; Render and Heroku kill after 30 s", seconds
    )
    private_targets: bool = setting(
        "PRIVATE_TARGETS", "off", "let users' URLs reach private addresses; for the demo and tests alone", switch
    )
    app_secret: str = setting(
        "APP_SECRET", "", "shared with the served app, which signs its users' tokens for /events with it", secret=True
    )
    web_host: str = setting("WEB_HOST", "0.0.0.0", "the address on which `web` listens; 127.0.0.1 in the demo", host)  # noqa: S104
    port: int = setting("PORT", "8000", "where `web` listens; Render and Heroku set it", whole(65_535))
    contact: str = setting("CONTACT", "", "an e-mail address or URL, sent in the User-Agent to outside services", plain)

    # prices
    quote_ttl: float = setting("QUOTE_TTL", "15s", "how long a cached quote lives in Redis", seconds)
    tick_days: int = setting("TICK_DAYS", "30", "days for which ticks are kept", days)
    minute_days: int = setting(
        "MINUTE_DAYS", "365", "days for which candles shorter than a day are kept; the others stay", days
    )
    trade_days: int = setting("TRADE_DAYS", "3650", "days for which single trades are kept; their candles stay", days)
    verify_days: int = setting("VERIFY_DAYS", "3", "days of candles that are verified every night", whole(366))
    binance_url: str = setting("BINANCE_URL", "https://data-api.binance.vision", "Binance market data", web)
    frankfurter_url: str = setting("FRANKFURTER_URL", "https://api.frankfurter.dev/v1", "Frankfurter, ECB rates", web)
    gold_api_url: str = setting("GOLD_API_URL", "https://api.gold-api.com", "gold-api.com, spot metals", web)
    yahoo_url: str = setting("YAHOO_URL", "https://query2.finance.yahoo.com", "Yahoo chart, unofficial", web)
    yahoo: bool = setting(
        "YAHOO", "on", "use Yahoo (unofficial, personal use only): live FX, and the last resort", switch
    )

    # deposits
    ethereum_rpc_url: str = setting(
        "ETHEREUM_RPC_URL", "https://ethereum-rpc.publicnode.com", "Ethereum's JSON-RPC", web, secret=True
    )
    bsc_rpc_url: str = setting("BSC_RPC_URL", "https://bsc-rpc.publicnode.com", "BSC's JSON-RPC", web, secret=True)
    polygon_rpc_url: str = setting(
        "POLYGON_RPC_URL", "https://polygon-bor-rpc.publicnode.com", "Polygon's JSON-RPC", web, secret=True
    )
    esplora_url: str = setting("ESPLORA_URL", "https://blockstream.info/api", "Bitcoin by Esplora", web)
    bitcoind_url: str = setting("BITCOIND_URL", "", "Bitcoin by a node of your own, before Esplora", web)
    bitcoind_login: str = setting("BITCOIND_LOGIN", "", "its user:password", secret=True)
    solana_rpc_url: str = setting(
        "SOLANA_RPC_URL", "https://api.mainnet-beta.solana.com", "Solana's JSON-RPC", web, secret=True
    )
    # stocks; a service without its key is off
    finnhub_url: str = setting("FINNHUB_URL", "https://finnhub.io/api/v1", "Finnhub, stocks", web)
    finnhub_key: str = setting("FINNHUB_KEY", "", "Finnhub's key: US stocks, earnings", plain, secret=True)
    twelve_data_url: str = setting("TWELVE_DATA_URL", "https://api.twelvedata.com", "Twelve Data, stocks", web)
    twelve_data_key: str = setting(
        "TWELVE_DATA_KEY", "", "Twelve Data's key: stocks of many markets", plain, secret=True
    )
    twelve_data_day: int = setting("TWELVE_DATA_DAY", "800", "credits a day that its plan grants", whole())
    twelve_data_minute: int = setting("TWELVE_DATA_MINUTE", "8", "credits a minute that its plan grants", whole())
    alpha_vantage_url: str = setting("ALPHA_VANTAGE_URL", "https://www.alphavantage.co", "Alpha Vantage, stocks", web)
    alpha_vantage_key: str = setting(
        "ALPHA_VANTAGE_KEY", "", "Alpha Vantage's key: stocks, fundamentals, earnings, dividends", plain, secret=True
    )
    alpha_vantage_day: int = setting("ALPHA_VANTAGE_DAY", "25", "calls a day that its plan grants", whole())

    # notifications
    smtp_url: str = setting(
        "SMTP_URL", "", "mail server: smtp://user:password@host:587, smtps://…:465", url("smtp", "smtps"), secret=True
    )
    mail_from: str = setting("MAIL_FROM", "Nightdesk <nightdesk@localhost>", "sender of mails", mailbox)
    mails_per_minute: int = setting("MAILS_PER_MINUTE", "600", "what the mail server takes", whole())
    telegram_url: str = setting("TELEGRAM_URL", "https://api.telegram.org", "Telegram's Bot API", web)
    telegram_token: str = setting("TELEGRAM_TOKEN", "", "the bot that writes to users' chats", plain, secret=True)
    line_url: str = setting("LINE_URL", "https://api.line.me", "LINE's Messaging API", web)
    line_token: str = setting("LINE_TOKEN", "", "access token of the LINE channel that pushes", plain, secret=True)
    discord_url: str = setting("DISCORD_URL", "https://discord.com", "Discord, for users' webhooks", web)
    apprise_services: tuple[str, ...] = setting(
        "APPRISE_SERVICES", "pbul,pover,sinch,slack,twilio,vonage", "which of Apprise's services users may name", names
    )
    channels: tuple[str, ...] = setting(
        "CHANNELS", ",".join(CHANNELS), "what delivers notifications, besides the app", channel_names
    )
    public_url: str = setting(
        "PUBLIC_URL", "", "where `web` is reached from outside: for links in mails, and what delivery is live for", web
    )
    notification_days: int = setting("NOTIFICATION_DAYS", "90", "days for which notifications are kept", days)
    trigger_days: int = setting(
        "TRIGGER_DAYS", "365", "days for which firings of alerts and their inputs are kept", days
    )
    operator_email: str = setting(
        "OPERATOR_EMAIL", "operator@localhost", "whose alerts are those that the command adds without --user", address
    )

    # orders
    matching_engine_url: str = setting(
        "MATCHING_ENGINE_URL", "", "the served app's matching engine; empty: it matches in the database", web
    )
    matching_engine_token: str = setting(
        "MATCHING_ENGINE_TOKEN", "", "sent to the matching engine as a bearer token", plain, secret=True
    )

    # cadences: any JOB_NAME_INTERVAL, see `nightdesk schedule`
    intervals: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Settings(…)"  # holds secrets: never in a log or a traceback


def variables() -> list[Field[Any]]:
    """The fields that have a variable, in the order of the class."""
    return [f for f in fields(Settings) if "variable" in f.metadata]


def load(environ: Mapping[str, str]) -> Settings:
    """Settings from `environ`. Raises WrongSetting with the variable's name and what would be right."""
    values: dict[str, Any] = {}
    for f in variables():
        text = environ.get(f.metadata["variable"], "").strip() or f.metadata["default"]
        values[f.name] = parsed(f.metadata["variable"], text, f.metadata["parse"], f.metadata["secret"])
    values["code_version"] = values["code_version"] or next(
        (environ[name][:12] for name in ("RENDER_GIT_COMMIT", "HEROKU_SLUG_COMMIT") if environ.get(name)), "dev"
    )
    if values["redis_url"].startswith("rediss:") and not values["redis_tls_verify"]:
        values["redis_url"] += f"{'&' if '?' in values['redis_url'] else '?'}ssl_cert_reqs=none"
    values["public_url"] = values["public_url"] or environ.get("RENDER_EXTERNAL_URL", "")
    values["intervals"] = {  # read by the entry that a name is of: others' are none of ours
        name: text.strip() for name, text in environ.items() if name.endswith("_INTERVAL") and text.strip()
    }
    return Settings(**values)


def parsed(variable: str, text: str, parse: Callable[[str], Any], secret: bool = False) -> Any:
    """A variable's value. Raises WrongSetting with its name and what would be right."""
    try:
        return parse(text)
    except ValueError as wrong:
        shown = "its value" if secret else repr(text)
        raise WrongSetting(f"{variable}: {shown} is not {wrong}") from None


DOTENV = re.compile(r"""(?:export\s+)?(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|(.*?))\s*(?:(?<=\s)\#.*)?""")


def dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines of a file; ` #` outside of quotes begins a comment; a missing file is empty."""
    try:
        text = path.read_text("utf-8-sig") if path.is_file() else ""
    except PermissionError:
        raise WrongSetting(f"{path} cannot be read by this user: run as its owner") from None
    except UnicodeDecodeError:
        raise WrongSetting(f"{path} is not in UTF-8: save it again with that encoding") from None
    found = (DOTENV.fullmatch(line.strip()) for line in text.splitlines())
    return {line[1]: line[2] or line[3] or line[4] or "" for line in found if line}


def environment() -> dict[str, str]:
    """The merged environment that `settings` and child processes are made from."""
    stronger = {**dotenv(ROOT / ".env"), **os.environ}
    try:
        return {**dotenv(STATE / "local.env"), **stronger}
    except WrongSetting as closed:  # another user's servers: no matter to who has named others
        if stronger.get("DATABASE_URL") and stronger.get("REDIS_URL"):
            return stronger
        raise WrongSetting(f"{closed}, or set DATABASE_URL and REDIS_URL") from None


def given() -> dict[str, str]:
    """What the operator has set; not what an earlier run left in local.env. Empty is not set."""
    return {name: value for name, value in {**dotenv(ROOT / ".env"), **os.environ}.items() if value}


settings = load(environment())


def redact(text: str) -> str:
    """`text` without the password of any of our settings: for logs, exceptions, pages and run history."""
    for f in variables():
        value = str(getattr(settings, f.name))
        if f.metadata["secret"] and value:
            text = text.replace(value, f"<{f.metadata['variable']}>")
            for password in {urlsplit(value).password, unquote(urlsplit(value).password or "")}:
                text = text.replace(password, "***") if password else text
    return text
