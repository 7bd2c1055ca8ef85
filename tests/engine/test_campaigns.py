"""The campaigns of `bench/chaos_*` at about one percent: seeded, with servers of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def campaign(name, *arguments):
    """Run it to its end; returns its verdict and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *arguments],
        cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    shown = done.stdout[-6000:] + done.stderr[-3000:]
    assert done.stdout.strip(), shown
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, verdict["ok"]) == (0, True), shown
    return verdict, done.stdout


def test_workers_are_killed_in_four_ways_and_no_run_is_lost_or_run_twice_at_once():
    verdict, _ = campaign("chaos_workers", "--count", "12", "--kills", "4", "--workers", "5", "--seed", "7")
    assert verdict["value"] <= 15


def test_schedulers_and_workers_are_killed_and_no_due_time_is_doubled_missing_or_late():
    verdict, shown = campaign("chaos_schedulers", "--minutes", "0.2", "--entries", "10", "--seed", "7")
    assert "due times enqueued twice: 0" in shown
    assert verdict["value"] <= 300


def test_servers_go_and_come_back_and_every_due_time_is_run_or_recorded():
    outages = "redis_emptied,redis_stopped_5_s,redis_memory_full,postgresql_restarted"
    campaign("chaos_outages", "--only", outages, "--scale", "0.2")
