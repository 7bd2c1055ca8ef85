"""The campaign of expiries, at about one percent of its size."""

import json
import subprocess
import sys

from config import ROOT


def test_each_order_ends_once_whoever_races_and_whoever_is_killed():
    command = [sys.executable, "-m", "bench.chaos_expiry", "--races", "100", "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True


def test_the_proof_holds_after_a_day():
    command = [sys.executable, "-m", "bench.day", "--orders", "3000", "--rate", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert '"bench": "day"' in done.stdout, done.stdout + done.stderr
    assert "; 0 wrong of 3,000 orders" in json.loads(done.stdout.splitlines()[-1])["unit"]
