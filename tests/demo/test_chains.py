"""The demo's chains, and the app that uses them by the contract."""

import json
import os
from itertools import pairwise
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import db
from cli.migrate import grant
from demo import app
from demo.journal import Journal
from demo.server import running
from demo.worlds.chains import BEFORE, FIRST, KINDS, Chain, simulate


def blocks(chain, now=0.0):
    return [chain.block(number) for number in range(FIRST, chain.tip(now) + 1)]


def test_a_chain_grows_by_the_clock_and_pays_its_users_once_somebody_knows_them():
    chain = Chain("ethereum", KINDS["ethereum"], seed=3)
    assert chain.head(1000.0) == FIRST + BEFORE
    assert chain.paid(5000.0) == []
    chain.live(BEFORE + 2000, opens=True)
    assert chain.head(5000.0) == FIRST + BEFORE + 2000
    assert 200 < len(chain.paid(9000.0)) < 330  # one in 15 seconds
    assert chain.head(3000.0) == FIRST + BEFORE + 1000  # a frozen node
    assert [block.at for block in blocks(chain, 9000.0)[BEFORE:][::1000]] == [1000.0, 3000.0, 5000.0, 7000.0, 9000.0]


def test_a_reorg_replaces_the_newest_blocks_and_keeps_or_drops_what_was_in_them():
    chain = Chain("ethereum", KINDS["ethereum"], seed=3)
    chain.clock = False
    chain.mine(5), chain.pay("0xab", 7), chain.mine(3)
    old = blocks(chain)
    chain.reorg(3)
    new = blocks(chain)
    assert new[:-4] == old[:-3]
    assert all(now.hash != was.hash for now, was in zip(new[-4:], old[-3:], strict=False))
    assert all(block.parent == before.hash for before, block in pairwise(new))
    assert chain.held("0xab", "", chain.head(0), 0) == 7
    chain.reorg(4, drop=True)
    assert chain.held("0xab", "", chain.head(0), 0) == 0


def test_a_node_is_asked_for_a_block_by_its_hash_until_a_reorg_has_replaced_it():
    chain = Chain("bitcoin", KINDS["bitcoin"], seed=3)
    chain.clock = False
    chain.mine(5)
    block = chain.block(FIRST + 4)
    assert chain.named(block.hash, 0) == block
    chain.reorg(3)
    assert chain.named(block.hash, 0) is None
    assert chain.named("f" * 64, 0) is None


def lived(path, now, *, upto):
    """Chains that go on with a journal, as a process that starts at `now` and is killed at `upto`."""
    chains = simulate(3)
    chains.keep(Journal(path, "a world"), now)
    chains.shown(now)
    for chain in chains.values():
        chain.tip(upto)
    os.utime(path, (upto, upto))
    return chains


def test_a_new_process_goes_on_with_the_chains_of_the_one_before_it_where_that_was_killed(tmp_path):
    path = tmp_path / "world.jsonl"
    first = lived(path, 1000.0, upto=1301.0)
    first.act("ethereum", 1301.0, reorg=3, drop=True, user=1, units="5")
    first.act("bitcoin", 1301.0, reorg=2)
    for chain in first.values():
        chain.tip(1421.5)
    os.utime(path, (1421.5, 1421.5))
    second = lived(path, 90_000.0, upto=90_060.0)
    third = lived(path, 500_000.0, upto=500_000.0)
    for name, chain in first.items():
        before = blocks(chain, 1421.5)
        assert sum(len(block.payments) for block in before) > 10
        again, then = blocks(second[name], 90_000.0), blocks(second[name], 90_060.0)
        assert again == before == then[: len(before)]
        assert len(then) == len(before) + 60 // chain.kind.block_time
        assert blocks(third[name], 500_000.0) == then
    assert second["ethereum"].held(second["ethereum"].address(1), "", 10**6, 90_000.0) >= 5


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
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{demo.url}/control/chains", b'{"chain": "etherium", "reorg": 2}'))
        assert "no chain 'etherium': one of ethereum, bitcoin, solana" in refused.value.read().decode()
