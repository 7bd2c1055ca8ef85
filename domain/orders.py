"""Orders: what one holds, and whether the matching engine's answer lets it end."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal, localcontext

PATIENCE = timedelta(minutes=1)  # for fills that the engine made before it let go of an order
DIGITS = 200  # more than any product of a price, a quantity and a rate has


def reserve(side: str, quantity: Decimal, price: Decimal, fee_rate: Decimal, scale: int) -> Decimal:
    """What an order holds for so much of it: a seller the quantity; a buyer its cost and its fee at the limit, each
    rounded up to the `scale` of the quote asset.

    >>> reserve("buy", Decimal("0.3"), Decimal("100.01"), Decimal("0.001"), 2)
    Decimal('30.05')
    """
    if side == "sell":
        return quantity
    with localcontext(prec=DIGITS, rounding=ROUND_CEILING):
        unit = Decimal(1).scaleb(-scale)
        cost = quantity * price
        return cost.quantize(unit) + (cost * fee_rate).quantize(unit)


def trouble(filled: Decimal, answer: Decimal | str | None, age: timedelta) -> str | None:
    """Why an order that is `expiring` for `age` cannot end yet, in words for an operator; None if nothing is wrong.

    `filled` is what we know of, `answer` how much of it the engine had filled when it let go of it for good, or the
    words why it cannot say. While its last fills are on their way it waits, for PATIENCE without a word.
    """
    if answer is None:
        return "the engine said nothing of it"
    if isinstance(answer, str):
        return answer
    if answer < filled:
        return "the engine knows of fewer fills than we do"
    return "its last fills have not come" if answer > filled and age > PATIENCE else None
