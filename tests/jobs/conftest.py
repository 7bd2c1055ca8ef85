"""Chains of the demo world, for whoever tests deposits. Nothing here may import `config` before the tests begin."""

from __future__ import annotations

from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def chain_servers():
    from demo.server import running

    with running(seed=5) as demo:
        yield demo


@pytest.fixture
def on(chain_servers, database, redis, monkeypatch):
    """`on("bitcoin")`: that chain with two users, its node a stand-in; `on("bitcoin", own_node=True)`: bitcoind."""
    import config
    from tests.chains import World

    urls = {n.lower(): url for n, url in chain_servers.environment.items() if hasattr(config.settings, n.lower())}
    nowhere = dict.fromkeys(("bsc_rpc_url", "polygon_rpc_url"), "http://127.0.0.1:9")
    monkeypatch.setattr(config, "settings", replace(config.settings, **urls, **nowhere))

    def chain(name="ethereum", own_node=False):
        if own_node:
            url = f"{chain_servers.url}/bitcoind"
            monkeypatch.setattr(config, "settings", replace(config.settings, bitcoind_url=url, bitcoind_login="a:b"))
        return World(chain_servers, name)

    return chain


@pytest.fixture
def world(on):
    """Ethereum."""
    return on()
