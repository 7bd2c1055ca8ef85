"""`nightdesk up` in a copy of the project with a small Procfile: from nothing to work, and back to nothing."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Timer

import psycopg2
import pytest
from click.testing import CliRunner

import config
import db
from cli import processes, servers
from cli.up import up as command
from config import dotenv
from demo.journal import Journal, world_of
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
PROCFILE = "release: ./nightdesk migrate\nlines: sh -c 'echo up $TZ $REDIS_URL; exec sleep 1000'\n"
NOTHING_SET = {"DATABASE_URL": "", "REDIS_URL": "", "PRIVATE_TARGETS": ""}


@pytest.fixture
def project(tmp_path):
    """A clone of the project whose Procfile is small."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "bench"))
    (folder / "Procfile").write_text(PROCFILE)
    yield folder
    processes.stop_leftovers(folder / ".nightdesk")
    if (folder / ".nightdesk/postgres.json").exists():
        servers.postgres(folder / ".nightdesk").remove()


@pytest.fixture
def up(project, start):  # in this order: what runs ends before its folder goes
    """`up("--workers", "2", NAME="value")` starts it."""

    def run(*options, demo=False, **environment):
        world = () if demo else ("--no-demo",)
        return start("python", project / "nightdesk", "up", *world, *options, **{**NOTHING_SET, **environment})

    return run


def read_until(process, text):
    lines = []
    limit = Timer(120, process.kill)  # what never comes fails its own test and holds up no other
    limit.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return lines
    finally:
        limit.cancel()
    raise AssertionError("".join(lines))


def ended(process, signal_number):
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=60)
    return output


def is_well(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=60) as answer:
        return answer.status == 200


def tables(url):
    connection = psycopg2.connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute("select count(*) from information_schema.tables where table_schema = 'public'")
        return cursor.fetchone()[0]
    finally:
        connection.close()


def running(pids):
    return [pid for pid in pids if processes.identity(pid)]


def noted(project):
    return [int(note.read_text().split()[0]) for note in (project / ".nightdesk").glob("*.pid")]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_servers_migrates_runs_the_procfile_and_clears_up_at_a_signal(up, project, signal_number):
    process = up()
    said = "".join(read_until(process, "local.env"))
    assert "release         | applied 0001_engine" in said
    addresses = project / ".nightdesk/local.env"
    assert stat.S_IMODE(addresses.stat().st_mode) == 0o600
    assert tables(dotenv(addresses)["DATABASE_URL"]) > 5
    said += "".join(read_until(process, "up UTC"))
    assert f"lines           | up UTC {dotenv(addresses)['REDIS_URL']}" in said
    pids = noted(project)
    assert len(pids) == 3
    ended(process, signal_number)
    assert process.returncode == 0
    assert not addresses.exists()
    assert running(pids) == []
    assert noted(project) == []


def test_a_second_one_in_the_same_project_refuses(up):
    first = up()
    read_until(first, "at work")
    second = up()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "runs here already" in output
    assert first.poll() is None


def test_killed_with_kill_9_nothing_survives_and_the_next_start_keeps_the_data(up, project):
    first = up()
    read_until(first, "up UTC")
    pids = noted(project)
    first.kill()
    until(lambda: not running(pids))
    second = up()
    assert "release         | the database is up to date" in "".join(read_until(second, "at work"))
    ended(second, signal.SIGINT)


def test_a_server_that_dies_is_started_again(up, project):
    process = up()
    read_until(process, "up UTC")
    os.kill(int((project / ".nightdesk/valkey.pid").read_text().split()[0]), signal.SIGKILL)
    read_until(process, "valkey          | has died: starting it again")
    ended(process, signal.SIGINT)
    assert process.returncode == 0


def test_servers_that_are_set_are_used_and_none_is_started(up, project, postgres, valkey):
    process = up(DATABASE_URL=postgres.url, REDIS_URL=valkey.url)
    said = read_until(process, "up UTC")
    assert said[0] == f"DATABASE_URL is set: using the server at 127.0.0.1:{postgres.port}\n"
    assert said[1] == f"REDIS_URL is set: using the server at 127.0.0.1:{valkey.port}\n"
    assert valkey.url in said[-1]
    assert not list((project / ".nightdesk").glob("postgres*"))
    ended(process, signal.SIGINT)
    assert postgres.alive()
    assert valkey.alive()


def test_settings_in_dotenv_reach_the_programs_and_the_environment_goes_before_them(up, project):
    (project / "Procfile").write_text("lines: sh -c 'echo up $CONTACT $MAIL_FROM; exec sleep 1000'\n")
    (project / ".env").write_text("CONTACT=file@example.org\nMAIL_FROM=file@example.org\n")
    process = up(MAIL_FROM="environment@example.org")
    assert "up file@example.org environment@example.org" in read_until(process, "lines           |")[-1]
    ended(process, signal.SIGINT)


def test_the_demo_world_takes_the_place_of_the_services_that_are_not_set(up, project):
    (project / "Procfile").write_text("lines: sh -c 'echo at $BINANCE_URL and $YAHOO_URL; exec sleep 1000'\n")
    process = up("--seed", "7", demo=True, YAHOO_URL="https://mine.example.org")
    said = read_until(process, " and http")[-1]
    known = dotenv(project / ".nightdesk/local.env")
    assert f"at {known['BINANCE_URL']} and https://mine.example.org" in said
    assert known["SMTP_URL"].startswith("smtp://127.0.0.1:")
    ended(process, signal.SIGINT)
    assert world_of(None, 7) in (project / ".nightdesk/world.jsonl").read_text()
    assert running(noted(project)) == []


def test_a_demo_world_that_died_comes_back_and_the_programs_find_it(up, project):
    (project / "Procfile").write_text("lines: sh -c 'echo at $BINANCE_URL; exec sleep 1000'\n")
    process = up(demo=True)
    before = read_until(process, "| at http")[-1]
    os.kill(int((project / ".nightdesk/demo.pid").read_text().split()[0]), signal.SIGKILL)
    after = read_until(process, "| at http")[-1]
    assert after != before
    assert dotenv(project / ".nightdesk/local.env")["BINANCE_URL"] in after
    ended(process, signal.SIGINT)


def test_the_first_operator_is_told_once_and_the_page_answers_on_a_free_port(up, project):
    web = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web:")]
    (project / "Procfile").write_text("\n".join(["release: ./nightdesk migrate", *web]))
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind(("0.0.0.0", 8000))
            taken.listen()
        process = up(demo=True, PORT="", WEB_HOST="")
        said = "".join(read_until(process, "at work"))
    assert "operator may log in as operator; password, shown this once: " in said
    known = dotenv(project / ".nightdesk/local.env")
    assert known["PORT"] != "8000"
    assert f"the operator's page: http://127.0.0.1:{known['PORT']}" in said
    until(lambda: is_well(f"http://127.0.0.1:{known['PORT']}/healthz"), every=0.1)
    ended(process, signal.SIGINT)
    again = up()
    assert "password" not in "".join(read_until(again, "at work"))
    ended(again, signal.SIGINT)


def test_a_release_step_that_fails_starts_nothing(up, project):
    (project / "Procfile").write_text("release: false\nlines: echo started\n")
    process = up()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failed with code 1: nothing was started" in output
    assert "started\n" not in output.replace("nothing was started", "")


def test_several_workers_are_told_apart(up, project):
    (project / "Procfile").write_text("worker: sh -c 'echo hello; exec sleep 1000'\n")
    process = up("--workers", "2")
    said = "".join(read_until(process, "hello") + read_until(process, "hello"))
    assert "worker.1        | hello" in said
    assert "worker.2        | hello" in said
    ended(process, signal.SIGINT)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--speed", "nan"], "nan is not above 0"),
        (["--speed", "0"], "0 is not above 0"),
        (["--speed", "-1"], "-1 is not above 0"),
        (["--speed", "inf"], "inf is not above 0 and at most 100,000"),
        (["--replay", "docs"], "docs has no recorded prices"),
        (["--no-demo", "--speed", "3"], "--speed is for the demo world"),
    ],
)
def test_options_that_no_demo_world_takes_are_refused_before_anything_starts(monkeypatch, options, says):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize("options", [["--replay", "docs"], ["--seed", "7"]])
def test_data_of_one_world_are_not_gone_on_with_in_another(monkeypatch, tmp_path, options):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("cli.up.STATE", tmp_path)
    monkeypatch.setattr("cli.up.JOURNAL", tmp_path / "world.jsonl")
    monkeypatch.setattr("cli.up.recordings", Path)
    Journal(tmp_path / "world.jsonl", world_of(None, None)).add({})
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 1
    assert f"{tmp_path} has the data of the simulated world of seed 1, not of the " in result.output
    assert f"`rm -rf {tmp_path}` begins anew" in result.output


def test_a_wrong_setting_stops_the_start_with_its_name(up):
    process = up(QUOTE_TTL="soon")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.startswith("nightdesk: QUOTE_TTL: 'soon' is not a duration of at least a millisecond")
    assert "Traceback" not in output


def test_the_help_lists_every_command_without_importing_it(nightdesk):
    from cli.main import COMMANDS, summary

    shown = nightdesk("--help")
    assert shown.returncode == 0
    for name, place in COMMANDS.items():
        assert name in shown.stdout
        assert summary(place)
    code = "import sys; from cli.main import main\ntry: main()\nfinally: sys.exit('peewee' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True).returncode == 0


def test_a_database_that_is_away_is_one_line(nightdesk):
    done = nightdesk("migrate", DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert done.returncode == 1
    assert done.stderr.startswith("nightdesk: ")
    assert done.stderr.endswith("(is DATABASE_URL right, and its server up?)\n")
    assert "Traceback" not in done.stderr


def test_a_database_without_our_tables_is_one_line_that_names_the_command(nightdesk, database):
    db.rows("create database bare")
    try:
        url = config.settings.database_url.rpartition("/")[0] + "/bare"
        for command in ("restore", "status"):
            done = nightdesk(command, DATABASE_URL=url)
            assert done.returncode == 1
            assert done.stderr.endswith("does not exist in the database: run `nightdesk migrate`\n")
            assert "Traceback" not in done.stderr
    finally:
        db.rows("drop database bare")
