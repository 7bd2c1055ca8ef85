"""The campaign of reorgs, at about one percent of its size."""

import json
import subprocess
import sys

import pytest

from bench import anvil
from config import ROOT


@pytest.mark.skipif(anvil.program() is None, reason=anvil.MISSING)
def test_the_ledger_has_what_a_real_chain_has_whatever_it_replaces():
    command = [sys.executable, "-m", "bench.chaos_reorgs", "--runs", "1", "--rounds", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
