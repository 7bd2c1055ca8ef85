"""The candles campaign, at about one percent of its size."""

import json
import subprocess
import sys

from config import ROOT


def test_candles_and_tickers_are_right_when_trades_come_anyhow_and_who_builds_is_killed():
    small = ("--trades", "6000", "--kills", "1", "--seconds", "5", "--no-tape")
    command = [sys.executable, "-m", "bench.chaos_candles", *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
