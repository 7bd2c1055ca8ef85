"""The demo's chains, and the app that uses them by the contract."""

import json
from urllib.request import Request, urlopen

import pytest

import db
from cli.migrate import grant
from demo import app
from demo.server import running
from demo.worlds.chains import FIRST, KEPT, KINDS, Chain


def test_a_chain_grows_by_the_clock_and_pays_its_users_once_somebody_knows_them():
    chain = Chain("ethereum", KINDS["ethereum"], seed=3)
    assert chain.head(1000.0) == FIRST + 40
    assert not [paid for block in chain.upto(5000.0) for paid in block.payments]
    chain.open = True
    assert chain.head(5000.0) == FIRST + 2040
    assert len([paid for block in chain.upto(9000.0) for paid in block.payments]) > 100
    assert chain.head(3000.0) == FIRST + 1040  # a frozen node


def test_a_reorg_replaces_the_newest_blocks_and_keeps_or_drops_what_was_in_them():
    chain = Chain("ethereum", KINDS["ethereum"], seed=3)
    chain.clock = False
    chain.mine(5), chain.pay("0xab", 7), chain.mine(3)
    old = list(chain.blocks)
    chain.reorg(3)
    assert chain.blocks[:-4] == old[:-3]
    assert all(new.hash != was.hash for new, was in zip(chain.blocks[-4:], old[-3:], strict=False))
    assert chain.held("0xab", "", chain.head(0), 0) == 7
    chain.reorg(4, drop=True)
    assert chain.held("0xab", "", chain.head(0), 0) == 0


def test_a_long_chain_forgets_its_oldest_blocks_and_no_balance():
    chain = Chain("ethereum", KINDS["ethereum"], seed=3)
    chain.pay("0xab", 7)
    assert chain.head(0.0) == FIRST + 40
    end = 2.0 * (KEPT + 500)
    assert chain.head(end) == FIRST + 40 + KEPT + 500
    assert chain.find(chain.head(end), end).number == chain.head(end)
    assert chain.find(FIRST + 1, end) is None
    assert chain.held("0xab", "", chain.head(end), end) == 7


@pytest.mark.usefixtures("database")
def test_the_app_opens_its_exchange_by_the_contract_and_twice_is_once(monkeypatch):
    grant()
    with running(seed=4) as demo:
        monkeypatch.setenv("DEMO_URL", demo.url)
        app.main(), app.main()
        db.database.connect(reuse_if_open=True)
        assert db.rows("select chain, count(*) from chain_address group by 1 order by 1") == [
            ("bitcoin", 20), ("ethereum", 20), ("solana", 20)
        ]  # fmt: skip
        body = json.dumps({"chain": "ethereum", "reorg": 2, "user": 1, "units": "5"}).encode()
        with urlopen(Request(f"{demo.url}/control/chains", body)) as answer:
            assert json.load(answer)["ethereum"]["head"] > FIRST
