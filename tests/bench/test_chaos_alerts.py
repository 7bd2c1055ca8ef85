"""The campaign from alert to delivery, at about one percent of its size."""

import json
import subprocess
import sys

from config import ROOT


def test_nothing_is_lost_and_little_repeated_when_whoever_checks_and_delivers_is_killed():
    command = [sys.executable, "-m", "bench.chaos_alerts", "--kills", "2", "--count", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
