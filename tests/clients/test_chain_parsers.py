"""Whatever a node sends, a parser gives blocks and payments or says whose answer is wrong, and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import bitcoind, esplora, evm, fields, rpc, solana
from domain.chains import COIN, Block, Payment
from domain.failures import Rejected, Unavailable

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "api"
recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded answers (../shared/data) are not here")

HASH, OTHER, ADDRESS = "0x" + "ab" * 32, "0x" + "cd" * 32, "0x" + "12" * 20
BLOCK = Block(54, HASH, OTHER)
BITCOIN = Block(7, "ab" * 32, "cd" * 32)
LOG = {
    "address": ADDRESS, "topics": [evm.TRANSFER, "0x" + "0" * 64, "0x" + "34" * 32], "data": "0x" + f"{5:064x}",
    "blockHash": HASH, "transactionHash": OTHER, "logIndex": "0x3", "removed": False,
}  # fmt: skip
STATUS = {"confirmed": True, "block_height": 7, "block_hash": "ab" * 32}
PARSERS = {
    "evm block": lambda v: evm.parse_coins("node", v),
    "evm logs": lambda v: evm.parse_tokens("node", v, BLOCK),
    "evm receipt": lambda v: evm.parse_receipt("node", v, Payment(OTHER, COIN, 54, HASH, ADDRESS, 1)),
    "esplora transactions": lambda v: esplora.parse_transactions(json.dumps(v), "bc1q"),
    "esplora block": lambda v: esplora.parse_block(json.dumps(v), BITCOIN),
    "esplora balance": lambda v: esplora.parse_balance(json.dumps(v)),
    "bitcoind block": lambda v: bitcoind.parse_block(fields.document("bitcoind", json.dumps(v)), BITCOIN),
    "solana block": lambda v: solana.parse_block(9, v),
    "solana signatures": solana.parse_signatures,
    "solana transaction": lambda v: solana.parse_transaction(v, "sig", "ann"),
    "batch": lambda v: rpc.parse_results("node", json.dumps(v), 2),
}
GOOD = {
    "evm block": {
        "number": "0x36", "hash": HASH, "parentHash": OTHER,
        "transactions": [{"hash": OTHER, "to": ADDRESS, "value": "0xde0b6b3a7640000"}],
    },
    "evm logs": [LOG],
    "evm receipt": {"status": "0x1", "blockHash": HASH},
    "esplora transactions": [
        {"txid": "ef" * 32, "vout": [{"scriptpubkey_address": "bc1q", "value": 5}], "status": STATUS},
    ],
    "esplora block": {"id": "ab" * 32, "height": 7, "previousblockhash": "cd" * 32},
    "esplora balance": {"chain_stats": {"funded_txo_sum": 9, "spent_txo_sum": 4}},
    "bitcoind block": {
        "hash": "ab" * 32, "height": 7, "previousblockhash": "cd" * 32,
        "tx": [{"txid": "ef" * 32, "vout": [{"n": 0, "value": 0.5, "scriptPubKey": {"address": "bc1q"}}]}],
    },
    "solana block": {"blockhash": "abc", "previousBlockhash": "xyz", "parentSlot": 8},
    "solana signatures": [{"signature": "abc", "slot": 9, "err": None}],
    "solana transaction": {
        "slot": 9,
        "meta": {
            "err": None, "preBalances": [9, 1], "postBalances": [5, 4], "preTokenBalances": [],
            "postTokenBalances": [
                {"accountIndex": 0, "mint": "USDC", "owner": "ann", "uiTokenAmount": {"amount": "7", "decimals": 6}}
            ],
        },
        "transaction": {"message": {"accountKeys": ["bob", {"pubkey": "ann"}]}},
    },
    "batch": [{"id": 1, "result": "0x2"}, {"id": 0, "error": {"code": -32602, "message": "no"}}],
}  # fmt: skip
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("9" * 100), st.just("0x"), st.just(-1),
    st.just("0x" + "f" * 64), st.just(10**40), st.just(1.5), st.just([]), st.just({}), st.just([[]]), st.just("\ud800"),
)  # fmt: skip


def paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", PARSERS)
def test_the_documented_shape_is_read(name):
    assert PARSERS[name](GOOD[name])


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_no_single_wrong_field_breaks_a_parser(name, data):
    path = data.draw(st.sampled_from(list(paths(GOOD[name]))))
    words = "node:"
    try:
        PARSERS[name](changed(GOOD[name], path, data.draw(odd)))
    except (Rejected, Unavailable) as wrong:
        words = str(wrong)
    assert len(words) < 300
    assert words.split(":")[0] in ("node", "esplora", "bitcoind", "solana")


@given(st.binary(max_size=60))
def test_no_bytes_break_a_batch(body):
    with pytest.raises((Rejected, Unavailable)):
        rpc.parse_results("node", body, 1)


@pytest.mark.parametrize(
    ("name", "path", "new", "words"),
    [
        ("evm block", ("number",), "54", "node: number is '54', not a quantity"),
        ("evm block", ("hash",), "0x12", "node: hash is '0x12', not 64 hex digits"),
        ("evm block", ("transactions",), None, "node: transactions is None, not a list"),
        ("evm logs", (0, "blockHash"), OTHER, "node: blockHash is 0xcd.*were asked for"),
        ("evm receipt", ("blockHash",), OTHER, "the chain has moved"),
        ("evm receipt", (), None, "has no receipt: the chain has moved"),
        ("esplora transactions", (0, "vout", 0, "value"), -5, "esplora: value is -5, not a whole number"),
        ("esplora block", ("id",), "ef" * 32, "esplora: id is ef"),
        ("bitcoind block", ("tx", 0, "vout", 0, "value"), 21_000_001, "bitcoind: value is 21000001, not an amount"),
        ("bitcoind block", ("tx", 0, "vout", 0, "value"), 1e-9, "bitcoind: value is .*, not an amount"),
        ("solana transaction", ("slot",), "9", "solana: slot is '9', not a whole number"),
        ("solana transaction", ("meta", "postBalances"), [1], "solana: no 1 in the answer"),
        ("batch", (), {"error": {"code": -32005, "message": "slow down"}}, "node: error -32005"),
        ("batch", (1,), {"id": 7, "result": 1}, "node: no answer to call 0 of 2"),
        ("batch", (), {"error": {"message": "slow down"}}, "node: no code in the answer"),
    ],
)
def test_a_refusal_names_the_provider_and_the_field(name, path, new, words):
    with pytest.raises((Rejected, Unavailable), match=words):
        PARSERS[name](changed(GOOD[name], path, new))


def test_errors_that_may_pass_are_unavailable_and_others_are_told_by_their_code():
    for code, kind in ((-32005, Unavailable), (-32000, Unavailable), (-28, Unavailable), (-32601, rpc.Problem)):
        with pytest.raises(kind):
            rpc.good(rpc.parse_results("node", json.dumps([{"id": 0, "error": {"code": code, "message": "x"}}]), 1)[0])


def test_payments_are_what_the_documented_shapes_say():
    (coin,) = PARSERS["evm block"](GOOD["evm block"])
    assert coin == Payment(OTHER, COIN, 54, HASH, ADDRESS, 10**18)
    (token,) = PARSERS["evm logs"](GOOD["evm logs"])
    assert token == Payment(OTHER, 3, 54, HASH, "0x" + "34" * 20, 5, ADDRESS)
    (removed,) = PARSERS["evm logs"]([{**LOG, "removed": True, "blockHash": OTHER}])
    assert removed.outcome == "removed"
    assert PARSERS["evm logs"]([{**LOG, "topics": [*LOG["topics"], HASH]}, {**LOG, "data": "0x"}]) == []  # an NFT
    assert PARSERS["evm receipt"]({"status": "0x0", "blockHash": HASH}) == "failed"
    block, (output,) = PARSERS["bitcoind block"](GOOD["bitcoind block"])
    assert (block.parent, output.units, output.output) == ("cd" * 32, 50_000_000, 0)
    tokens, coins = PARSERS["solana transaction"](GOOD["solana transaction"])
    assert (tokens.contract, tokens.units, tokens.output) == ("USDC", 7, solana.TOKENS)
    assert (coins.contract, coins.units, coins.output) == ("", 3, 1)


def answer(name):
    """The `result` of a recorded exchange of ethereum/execution-apis."""
    path = RECORDED / "ethereum_rpc" / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    said = json.loads(next(line for line in text.splitlines() if line.startswith("<<"))[3:])
    return said["result"] if "result" in said else said["error"]


def file(*parts):
    path = RECORDED.joinpath(*parts)
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


@recorded
def test_recorded_ethereum_blocks_of_every_fork_are_read():
    names = [path.name for path in (RECORDED / "ethereum_rpc").glob("eth_getBlockByNumber__*")]
    blocks = [(evm.parse_block("node", answer(name)), answer(name)) for name in names]
    assert len(blocks) >= 8
    assert all(block.number == int(said["number"], 16) and block.parent == said["parentHash"] for block, said in blocks)


@recorded
def test_recorded_ethereum_errors_nothings_and_balances_are_what_they_are():
    assert evm.quantity("node", answer("eth_getBalance__get-balance.io"), "x") == 0x76
    assert evm.parse_block("node", answer("eth_getBlockByHash__get-block-by-empty-hash.io")) is None
    error = answer("eth_getLogs__filter-error-reversed-block-range.io")
    with pytest.raises(rpc.Problem, match="-32602"):
        rpc.good(rpc.parse_results("node", json.dumps([{"id": 0, "error": error}]), 1)[0])
    receipt = answer("eth_getTransactionReceipt__get-legacy-receipt.io")
    payment = Payment(receipt["transactionHash"], COIN, 3, receipt["blockHash"], receipt["to"], 1)
    assert evm.parse_receipt("node", receipt, payment) == "paid"
    logs = answer("eth_getLogs__contract-addr.io")
    assert evm.parse_tokens("node", logs[:1], Block(2, logs[0]["blockHash"], "")) == []  # another event


@recorded
def test_recorded_mainnet_payments_are_those_that_an_exporter_found():
    folder = "ethereum_mainnet"
    whole = json.loads(
        file(folder, "test_stream__blocks_1755634_1755635__web3_response.eth_getBlockByNumber_0x1ac9f3_true.json")
    )
    expected = [
        json.loads(line)
        for line in file(folder, "test_stream__blocks_1755634_1755635__expected_transactions.jsonl").splitlines()
    ]
    coins = evm.parse_coins("ethereum", whole.get("result", whole))
    assert {(p.tx, p.address, p.units) for p in coins} == {
        (t["hash"], t["to_address"], int(t["value"]))
        for t in expected
        if int(t["value"]) and t["block_number"] == 0x1AC9F3
    }
    logs = json.loads(
        file(folder, "test_export_token_transfers_job__block_with_transfers__web3_response.eth_getFilterLogs_0x0.json")
    )["result"]
    tokens = evm.parse_tokens("ethereum", logs, Block(0x76250, logs[0]["blockHash"], ""))
    assert [(p.output, p.units) for p in tokens] == [
        (int(log["logIndex"], 16), int(log["data"], 16)) for log in logs if int(log["data"], 16)
    ]


@recorded
def test_recorded_bitcoin_blocks_have_the_outputs_that_an_exporter_found():
    for block in ("000000001c920d495e1eeef2452b6d1c6c229a919b28196c103ecffebabee141_2.json.gz",
                  "000000002066d7f9b134c30b5005b7bf5fbfa52f279883f1fde793dcdc964266_2.json"):  # fmt: skip
        name = f"test_export_blocks_job__bitcoin__block_with_transactions__rpc_response_getblock_{block}"
        value = fields.document("bitcoind", file("bitcoin_rpc", name))
        _, payments = bitcoind.parse_block(value, Block(value["height"], value["hash"], ""))
        expected = file(
            "bitcoin_rpc", "test_export_blocks_job__bitcoin__block_with_transactions__expected_transactions.jsonl.gz"
        )
        outputs = {
            (t["hash"], o["index"]): (o["addresses"], o["value"])
            for t in map(json.loads, expected.splitlines())
            if t["block_number"] == value["height"]
            for o in t["outputs"]
        }
        assert {(p.tx, p.output): ([p.address], p.units) for p in payments} == {
            key: value
            for key, value in outputs.items()
            if len(value[0]) == 1 and not value[0][0].startswith("nonstandard")
        }


@recorded
def test_a_recorded_esplora_transaction_pays_whom_it_paid():
    value = json.loads(file("esplora", "tx02_api_tx.json"))
    address = next(o["scriptpubkey_address"] for o in value["vout"] if "scriptpubkey_address" in o)
    assert esplora.parse_transactions(json.dumps([value]), address) == []  # it is in no block
    (transaction,) = esplora.parse_transactions(json.dumps([{**value, "status": STATUS}]), address)
    assert transaction.tx == value["txid"]
    assert [(p.output, p.units) for p in transaction.payments] == [
        (n, o["value"]) for n, o in enumerate(value["vout"]) if o.get("scriptpubkey_address") == address
    ]


@recorded
def test_recorded_solana_answers_and_errors_are_told_apart():
    said = json.loads(file("solana_rpc_responses.json.gz"))
    behind = said["test_get_health_additional_info_11"]
    with pytest.raises(Unavailable, match="solana: error -32005"):
        rpc.parse_results("solana", json.dumps(behind), 1)
    assert solana.parse_holding("", [said["test_get_balance_1"]["result"]]) == 0
    token = said["test_get_token_account_balance_33"]["result"]
    nobody = rpc.Problem("solana: no such account", -32602)
    assert solana.parse_holding("mint", [nobody, token]) == 9864
