"""The servers of our own: they start anywhere, hide behind a password, survive crashes and touch nothing else."""

import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path

import psycopg2
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from cli import processes, servers
from tests.waiting import until


@pytest.fixture
def postgres_server(tmp_path):
    server = servers.postgres(tmp_path / "state", fsync=False)
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def valkey_server(tmp_path):
    server = servers.valkey(tmp_path / "state")
    yield server
    server.stop()


def query(url, sql):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def test_postgres_starts_stops_and_keeps_its_data(postgres_server, tmp_path):
    with postgres_server as url:
        query(url, "create table kept as select 42 as answer")
    assert not postgres_server.alive()
    with servers.postgres(tmp_path / "state") as url:
        assert query(url, "select answer from kept") == [(42,)]
        assert query(url, "select upper('é')") == [("É",)] or query(url, "show server_version_num") < [("170000",)]


def test_postgres_refuses_who_does_not_know_the_password(postgres_server):
    with postgres_server as url:
        with pytest.raises(psycopg2.OperationalError, match="authentication"):
            query(url.replace(postgres_server.password, "guess"), "select 1")
        assert postgres_server.password not in command_line(postgres_server.process.pid)


def test_as_root_no_folder_above_the_data_changes_its_permissions(tmp_path):
    above = [tmp_path, *tmp_path.parents, Path("/var/tmp"), Path("/var"), Path(servers.__file__).parent]
    before = {folder: mode_and_owner(folder) for folder in above}
    server = servers.postgres(tmp_path / "state", fsync=False)
    try:
        with server as url:
            assert query(url, "select 1") == [(1,)]
            assert os.stat(f"/proc/{server.process.pid}").st_uid != 0 or os.geteuid() != 0
    finally:
        server.remove()
    assert {folder: mode_and_owner(folder) for folder in above} == before
    assert not server.home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step aside")
def test_as_root_the_data_belongs_to_an_unprivileged_user_and_nobody_else_reads_it(postgres_server):
    with postgres_server:
        assert postgres_server.home.parent == Path("/var/tmp")
        assert stat.S_IMODE(postgres_server.home.stat().st_mode) == 0o700
    assert {path.owner() for path in postgres_server.home.rglob("*")} == {"nobody"}


def test_a_copied_project_does_not_share_the_data_of_the_original(postgres_server, tmp_path):
    with postgres_server as url:
        query(url, "create table original ()")
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "postgres.json").write_text((tmp_path / "state/postgres.json").read_text())
        second = servers.postgres(copy, fsync=False)
        with second as other:
            assert query(other, "select to_regclass('original')") == [(None,)]
        second.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data is elsewhere")
def test_data_of_a_folder_that_was_deleted_is_named_and_that_of_others_is_not(tmp_path):
    first, other = servers.postgres(tmp_path / "state"), servers.postgres(tmp_path / "state-2")
    shutil.rmtree(first.folder)
    again = servers.postgres(tmp_path / "state")
    try:
        assert again.left() == [first.home]
        assert other.left() == []
    finally:
        for server in (first, other, again):
            server.remove()


def test_postgres_starts_again_after_a_crash(postgres_server, tmp_path):
    postgres_server.start()
    query(postgres_server.url, "create table kept ()")
    crashed = postgres_server.process
    processes.signal_group(crashed.pid, signal.SIGKILL)
    crashed.wait()
    again = servers.postgres(tmp_path / "state")
    with again as url:
        assert query(url, "select to_regclass('kept')::text") == [("kept",)]


def test_a_lock_that_names_another_program_is_not_waited_for(postgres_server):
    with postgres_server:
        data = next(postgres_server.home.glob("postgres-*"))
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    with postgres_server as url:
        assert query(url, "select 1") == [(1,)]


def test_a_server_that_cannot_start_says_why(postgres_server, tmp_path):
    with postgres_server:
        data = next(postgres_server.home.glob("postgres-*"))
    (data / "postgresql.conf").write_text("no_such_setting = 1")
    with pytest.raises(RuntimeError, match="no_such_setting"):
        postgres_server.start()
    assert not postgres_server.alive()


def test_valkey_keeps_its_data_and_evicts_nothing(valkey_server, tmp_path):
    with valkey_server as url, Redis.from_url(url) as redis:
        redis.set("kept", 42)
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with servers.valkey(tmp_path / "state") as url, Redis.from_url(url) as redis:
        assert redis.get("kept") == b"42"


def test_a_server_that_was_stopped_keeps_its_port_for_its_next_start(valkey_server):
    valkey_server.start()
    valkey_server.stop()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", valkey_server.port))
    with valkey_server as url, Redis.from_url(url) as redis:
        assert redis.ping()


def test_valkey_refuses_who_does_not_know_the_password(valkey_server):
    with valkey_server, Redis(port=valkey_server.port, password="guess", retry=Retry(NoBackoff(), 0)) as redis:
        with pytest.raises(AuthenticationError):
            redis.ping()
        assert valkey_server.password not in command_line(valkey_server.process.pid)


def test_what_a_crashed_run_left_behind_is_stopped(valkey_server, tmp_path):
    valkey_server.start()
    assert processes.stop_leftovers(tmp_path / "state") == ["valkey"]
    assert not valkey_server.alive()
    assert processes.stop_leftovers(tmp_path / "state") == []


def test_a_process_that_only_has_the_noted_id_is_left_alone(start, tmp_path):
    innocent = start("sleep", "60")
    (tmp_path / "worker.pid").write_text(f"{innocent.pid} another-boot 123")
    assert processes.stop_leftovers(tmp_path) == []
    assert innocent.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it as a zombie")
def test_a_process_whose_main_thread_has_ended_still_runs(start):
    ends_first = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
    half = start(sys.executable, "-c", ends_first + "ctypes.CDLL(None).pthread_exit(None)")
    until(lambda: ") Z " in Path(f"/proc/{half.pid}/stat").read_text())
    assert half.poll() is None
    assert processes.identity(half.pid)
    half.kill()
    half.wait()
    assert not processes.identity(half.pid)


def mode_and_owner(folder):
    status = folder.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()
