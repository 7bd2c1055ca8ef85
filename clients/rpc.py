"""JSON-RPC over HTTP, in batches. An error under HTTP 200 is an error.

Codes are told apart, messages never: they differ from node to node (EIP-1474, Bitcoin Core's protocol.h,
Solana's rpc-custom-error).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from json import dumps
from typing import Any, TypeAlias

from clients import fields, http
from clients.providers import Provider
from domain.failures import Rejected, Unavailable

Call: TypeAlias = "tuple[str, Sequence[Any]]"  # method, parameters
NOT_THERE = -32000  # geth: the state or the header is not there (yet)
LATER = {  # a later call may succeed
    -28,  # Bitcoin Core is warming up
    NOT_THERE,
    -32002, -32004, -32005, -32014, -32016,  # limit exceeded; Solana: behind, unhealthy, block not there yet
    -32603,  # internal error
    429,
}  # fmt: skip


class Problem(Rejected):
    """The node's error for one call, by its code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fetch_results(
    provider: Provider,
    calls: Sequence[Call],
    *,
    headers: Mapping[str, str] | None = None,
    later: Collection[int] = LATER,
) -> list[Any]:
    """The results of calls in their order, asked in one batch; in place of a result a Problem where there is one.

    Raises Unavailable where a call may succeed `later`, and Rejected for an answer that is none.
    """
    if not calls:
        return []
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        for number, (method, parameters) in enumerate(calls)
    ]
    sent = {"Content-Type": "application/json", **(headers or {})}
    answer = http.post(provider, "", dumps(batch).encode(), headers=sent, cost=len(calls))
    return parse_results(provider.name, answer.body, len(calls), later)


def parse_results(name: str, body: bytes | str, count: int, later: Collection[int] = LATER) -> list[Any]:
    """`[{"id": 0, "result": …}, {"id": 1, "error": {"code": -32602, "message": "…"}}, …]` in any order.

    One object with an error in place of the list is the error of all.
    """
    answer = fields.document(name, body)
    if isinstance(answer, dict) and answer.get("error"):
        raise _problem(name, answer["error"], LATER)
    if not isinstance(answer, list):
        raise Rejected(f"{name}: the answer is {answer!r:.60}, not a batch")
    found: dict[int, Any] = {}
    for member in answer:
        number = fields.field(name, member, "id")
        if isinstance(number, int) and not isinstance(number, bool):
            found[number] = _result(name, member, later)
    if missing := [number for number in range(count) if number not in found]:
        raise Rejected(f"{name}: no answer to call {missing[0]} of {count}")
    return [found[number] for number in range(count)]


def _result(name: str, member: Any, later: Collection[int]) -> Any:
    if member.get("error"):
        problem = _problem(name, member["error"], later)
        if isinstance(problem, Unavailable):
            raise problem
        return problem
    return fields.field(name, member, "result")


def _problem(name: str, error: Any, later: Collection[int]) -> Unavailable | Problem:
    code = fields.field(name, error, "code")
    if not isinstance(code, int) or isinstance(code, bool):
        raise Rejected(f"{name}: error.code is {code!r:.60}, not a number")
    words = f"{name}: error {code}: {str(error.get('message', '')).splitlines()[:1]!r:.120}"
    return Unavailable(words) if code in later else Problem(words, code)


def good(result: Any) -> Any:
    """A result that is no Problem; raises the Problem that it is, or Unavailable where that may pass."""
    if isinstance(result, Problem):
        raise Unavailable(str(result)) if result.code in LATER else result
    return result
