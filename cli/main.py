"""`nightdesk COMMAND`: each command is a module, imported when it is called."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import click

# A new command is a line here: its name, and where its function is. The help is that function's docstring.
COMMANDS = {
    "up": "cli.up:up",
    "migrate": "cli.migrate:migrate",
    "restore": "cli.restore:restore",
    "status": "cli.status:status",
    "schedule": "cli.schedule:schedule",
    "run": "cli.schedule:run",
    "pause": "cli.schedule:pause",
    "resume": "cli.schedule:resume",
    "cadence": "cli.schedule:cadence_",
    "simulate": "cli.schedule:simulate",
    "prices": "cli.prices:prices",
    "stocks": "cli.stocks:stocks",
    "sessions": "cli.sessions:sessions",
    "candles": "cli.candles:candles",
    "tickers": "cli.tickers:tickers",
    "alerts": "cli.alerts:alerts",
    "orders": "cli.orders:orders",
    "ledger": "cli.ledger:ledger",
    "deposits": "cli.deposits:deposits",
    "notifications": "cli.notifications:notifications",
    "dead": "cli.dead:dead",
    "budget": "cli.budget:budget",
    "operators": "cli.operators:operators",
    "tokens": "cli.operators:tokens",
    "doctor": "cli.doctor:doctor",
    "docs": "cli.docs:docs",
}


class Commands(click.Group):
    """A group that knows its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(place)) for name, place in COMMANDS.items()])


def summary(place: str) -> str:
    """The first line of the docstring of `module:function`, read without running the module."""
    module, function = place.split(":")
    source = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").split("\n", 1)[0]
    return ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def nightdesk(context: click.Context) -> None:
    """The background desk of a market, betting, exchange or prediction app."""
    import db

    context.with_resource(db.in_haste())


def main() -> None:
    """Run the command; a wrong setting, or a server that is away or empty, is one line, not a traceback."""
    try:
        nightdesk(prog_name="nightdesk")
    except SystemExit as end:
        if isinstance(end.code, str):  # config.WrongSetting, raised before config can be imported
            _fail(end.code, 2)
        raise
    except Exception as error:
        if _is_unmigrated(error):
            _fail(f"{str(error).splitlines()[0]} in the database: run `nightdesk migrate`", 1)
        if _is_out_of_range(error):
            _fail(f"a value is out of range: {str(error).splitlines()[0]}", 2)
        if not _is_outage(error):
            raise
        _fail(f"{' '.join(str(error).split())} ({_question(error)})", 1)


def _question(error: Exception) -> str:
    """What to look at when a server is away."""
    import config

    variable = "REDIS_URL" if _library(error) == "redis" else "DATABASE_URL"
    return f"is {variable} right, and its server up?" if variable in config.given() else "is `./nightdesk up` running?"


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _is_outage(error: Exception) -> bool:
    return _library(error) in {"peewee", "psycopg2", "redis"} and type(error).__name__ in {
        "OperationalError",
        "InterfaceError",
        "ConnectionError",
        "TimeoutError",
        "AuthenticationError",
    }


def _is_unmigrated(error: Exception) -> bool:
    from engine.outcome import sqlstate

    return sqlstate(error) == "42P01"  # a table is missing


def _is_out_of_range(error: Exception) -> bool:
    from engine.outcome import sqlstate

    return isinstance(error, OverflowError) or sqlstate(error)[:2] == "22"  # PostgreSQL's class of bad values


def _fail(message: str, code: int) -> None:
    click.echo(f"nightdesk: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
