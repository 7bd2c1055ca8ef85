"""The bad-tick campaign at a fiftieth of its size."""

from __future__ import annotations

import pytest

from bench import bad_ticks


def test_the_guard_catches_faults_and_leaves_clean_prices_alone():
    if not bad_ticks.FOLDER.is_dir():
        pytest.skip("no recorded days here")
    scores = bad_ticks.campaign(bad_ticks.FOLDER, 0.02)
    assert scores[bad_ticks.ORDER].faults == scores[bad_ticks.ORDER].caught == 1
    for name in ("as they come", "in their history"):
        assert scores[name].faults > 10
        assert scores[name].caught >= bad_ticks.CAUGHT * scores[name].faults
    assert sum(score.doubted for name, score in scores.items() if name != "peer") == 0
