"""`python -m demo` as `nightdesk up` starts it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest

from demo.recorded import RecordedMarket
from tests.waiting import stopwatch, until

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def ready(process, file):
    """The settings that the demo wrote."""
    until(lambda: file.exists() or process.poll() is not None)
    assert process.poll() is None, process.stdout.read()
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def price(settings):
    url = f"{settings['BINANCE_URL']}/api/v3/ticker/price?symbol=BTCUSDT"
    with urlopen(url) as answer:
        return float(json.load(answer)["price"])


def test_it_writes_its_addresses_when_it_is_ready_and_ends_at_once(start, tmp_path):
    file = tmp_path / "demo.env"
    process = start("python", "-m", "demo", "--env-file", file, "--mail", tmp_path / "mail")
    settings = ready(process, file)
    assert {"BINANCE_URL", "FRANKFURTER_URL", "GOLD_API_URL", "YAHOO_URL", "SMTP_URL", "DEMO_URL"} <= set(settings)
    assert settings["PRIVATE_TARGETS"] == "on"
    assert price(settings) > 0
    with stopwatch() as took:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert took.seconds < 2
    assert not file.exists()


def test_it_takes_less_than_40_megabytes(start, tmp_path):
    file = tmp_path / "demo.env"
    process = start("python", "-m", "demo", "--env-file", file, "--mail", tmp_path / "mail")
    settings = ready(process, file)
    for _ in range(20):
        price(settings)
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    kilobytes = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert kilobytes < 40_000


def test_a_replay_serves_the_record_and_does_not_know_the_rest(start, tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"no recorded data in {DATA}")
    file = tmp_path / "demo.env"
    options = ["--replay", DATA, "--speed", "20", "--mail", tmp_path / "mail"]
    settings = ready(start("python", "-m", "demo", "--env-file", file, *options), file)
    series = RecordedMarket(DATA).series["BTCUSD"]
    recorded = {round(price, series.digits) for price in series.prices}
    seen = set()

    def moved():
        seen.add(price(settings))
        return len(seen) > 5

    until(moved)
    assert seen <= recorded
    with urlopen(f"{settings['FRANKFURTER_URL']}/latest") as answer:
        assert list(json.load(answer)["rates"]) == ["USD"]


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--replay", "/nowhere"], "not a folder"), (["--speed", "0"], "above 0"), (["--start", "noon"], "invalid")],
)
def test_a_wrong_option_stops_the_start(start, options, words):
    process = start("python", "-m", "demo", *options)
    assert process.wait(60) == 2
    assert words in process.stdout.read()
