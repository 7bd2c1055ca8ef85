"""Who may import whom: imports point inward, and this is law."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# folder or module -> which of ours it may import
MAY: dict[str, set[str]] = {
    "config": set(),
    "domain": set(),
    "db": {"config"},
    "models": {"db", "domain"},
    "events": {"models", "db"},
    "clients": {"db", "domain", "config", "models"},
    "notify": {"db", "domain", "config", "models", "clients"},
    "engine": {"queues", "events", "models", "db", "domain", "config"},
    "queues": {"engine", "events", "models", "db", "domain", "config", "jobs"},
    "jobs": {"queues", "events", "notify", "clients", "models", "db", "domain", "config"},
    "scheduler": {"jobs", "engine", "queues", "events", "models", "db", "domain", "config"},
    "web": {"scheduler", "engine", "queues", "events", "notify", "clients", "models", "db", "domain", "config"},
}
FREE = {"cli", "demo", "bench", "tests", "migrations"}  # may import anything; nobody else imports them
INPUT_OUTPUT = {
    "os", "socket", "subprocess", "requests", "redis", "rq", "peewee", "psycopg2", "logging", "urllib", "http", "time",
    "threading", "pathlib", "random",
}  # fmt: skip
HEAVY = {"exchange_calendars", "requests", "urllib3", "feedparser", "numpy", "smtplib", "flask", "rq_dashboard"}


def place(path: Path) -> str:
    """The folder, or the module at top level, that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path, *, at_load: bool = False) -> set[str]:
    """Top names and dotted names that a file imports; `at_load`: outside functions and TYPE_CHECKING only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in FREE and not path.relative_to(ROOT).parts[0].startswith(".")
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_place_may(path: Path) -> None:
    ours = {p.name if p.is_dir() else p.stem for p in ROOT.iterdir() if p.is_dir() or p.suffix == ".py"}
    here = place(path)
    reached = {name.split(".")[0] for name in imports(path)} & ours - {here}
    assert reached <= MAY[here], f"{here} must not import {', '.join(sorted(reached - MAY[here]))}"


@pytest.mark.parametrize("path", [p for p in FILES if place(p) == "domain"], ids=lambda p: p.stem)
def test_domain_does_no_input_or_output(path: Path) -> None:
    reached = {name.split(".")[0] for name in imports(path)} & INPUT_OUTPUT
    assert not reached, f"domain must not import {', '.join(sorted(reached))}"


@pytest.mark.parametrize("path", [p for p in FILES if place(p) == "jobs"], ids=lambda p: p.stem)
def test_a_job_never_imports_another_areas_jobs(path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith("jobs.")}


@pytest.mark.parametrize("path", [p for p in FILES if place(p) == "notify"], ids=lambda p: p.stem)
def test_notify_reaches_out_through_the_one_door(path: Path) -> None:
    reached = {name for name in imports(path) if name.startswith("clients.")}
    assert all(name.startswith("clients.http") for name in reached)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_inside_the_functions_that_use_them(path: Path) -> None:
    if path.name == "connections.py":
        return  # it subclasses urllib3, and is itself imported when somebody asks
    assert not {name.split(".")[0] for name in imports(path, at_load=True)} & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_config_reads_the_environment(path: Path) -> None:
    if path.stem != "config":
        assert "os.environ" not in path.read_text()
        assert "getenv" not in path.read_text()
