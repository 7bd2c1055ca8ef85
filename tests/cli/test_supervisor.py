"""Programs are kept running, end in good order, and leave nothing behind."""

import asyncio
import os
import sys

import pytest

from cli import supervisor
from cli.processes import identity
from cli.supervisor import Program, Supervisor, procfile
from tests.waiting import async_until, stopwatch

SLEEP = f"{sys.executable} -c 'import time; time.sleep(60)'"
IGNORE = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
STUBBORN = f"{sys.executable} -c '{IGNORE}'"
LONG = "import time; print(chr(120) * 100000); print(chr(121), flush=True); time.sleep(60)"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """`watched(lines, scenario)` runs programs during an async scenario and returns what was said."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.05)

    def run(lines, scenario, grace=5):
        said = []

        async def main():
            desk = Supervisor(tmp_path, tmp_path / "notes", os.environ, grace)
            desk.say = lambda name, text: said.append((name, text))
            desk.add([Program(name, line) for name, line in lines.items()])
            try:
                await scenario(desk, said)
            finally:
                await desk.ended()

        asyncio.run(main())
        return said

    return run


def test_each_line_of_a_program_carries_its_name(watched):
    async def scenario(desk, said):
        await async_until(lambda: len(said) >= 3)

    said = watched(
        {"hello": "sh -c 'echo one; echo two >&2; exec sleep 60'", "other": "sh -c 'echo x; exec sleep 60'"}, scenario
    )
    assert {("hello", "one"), ("hello", "two"), ("other", "x")} <= set(said)


def test_a_program_that_ends_is_started_again_and_it_says_so(watched):
    async def scenario(desk, said):
        await async_until(lambda: [text for _, text in said].count("here") == 3)

    said = watched({"short": "sh -c 'echo here; exit 3'"}, scenario)
    assert ("short", "ended with code 3: again in 0.05 s") in said
    assert ("short", "ended with code 3: again in 0.1 s") in said


def test_a_killed_program_is_named_with_its_signal(watched):
    async def scenario(desk, said):
        await async_until(lambda: desk.programs and desk.programs[0].process)
        os.kill(desk.programs[0].process.pid, 9)
        await async_until(lambda: said)

    assert watched({"victim": SLEEP}, scenario)[0] == ("victim", "ended with SIGKILL: again in 0.05 s")


def test_ending_is_quick_when_programs_obey(watched):
    async def scenario(desk, said):
        await async_until(lambda: len(desk.programs) == 2 and all(program.process for program in desk.programs))

    with stopwatch() as took:
        assert watched({"one": SLEEP, "two": SLEEP}, scenario) == []
    assert took.seconds < 3


def test_a_program_that_does_not_obey_is_killed_after_the_grace(watched):
    async def scenario(desk, said):
        await async_until(lambda: said)

    assert watched({"stubborn": STUBBORN}, scenario, grace=0.2)[1:] == [("stubborn", "killed")]


def test_asked_twice_it_kills_at_once(watched):
    async def scenario(desk, said):
        await async_until(lambda: said)
        desk.end()
        desk.end()

    with stopwatch() as took:
        watched({"stubborn": STUBBORN}, scenario, grace=30)
    assert took.seconds < 5


def test_what_a_program_leaves_behind_dies_before_it_starts_again(watched, tmp_path):
    async def scenario(desk, said):
        await async_until(lambda: any("again" in text for _, text in said))
        child = int((tmp_path / "children").read_text().split()[0])
        await async_until(lambda: identity(child) == "")

    watched({"parent": "sh -c 'sleep 60 & echo $! >> children'"}, scenario)


def test_a_line_longer_than_the_memory_for_it_does_not_stop_the_rest(watched, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_LINE", 1000)

    async def scenario(desk, said):
        await async_until(lambda: ("long", "y") in said)

    watched({"long": f"{sys.executable} -c '{LONG}'"}, scenario)


def test_a_procfile_is_names_and_lines(tmp_path):
    (tmp_path / "Procfile").write_text(
        "# comment\nrelease: ./nightdesk migrate\n\nworker: rq worker -u redis://x:1 low\n"
    )
    assert procfile(tmp_path / "Procfile") == {
        "release": "./nightdesk migrate",
        "worker": "rq worker -u redis://x:1 low",
    }
