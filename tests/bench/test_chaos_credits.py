"""The campaign of crediting, at a few percent of its size."""

import json
import subprocess
import sys

from config import ROOT


def test_every_deposit_is_credited_once_when_whoever_credits_it_is_killed():
    command = [sys.executable, "-m", "bench.chaos_credits", "--kills", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
