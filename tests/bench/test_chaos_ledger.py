"""The ledger's campaign, at about one percent of its size."""

import json
import subprocess
import sys

from config import ROOT


def test_everything_adds_up_when_whoever_moves_money_is_killed():
    command = [sys.executable, "-m", "bench.chaos_ledger", "--operations", "6400", "--kills", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
