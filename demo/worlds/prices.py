"""Prices that somebody could have paid: simulated, or recorded.

The simulated price is a function of seed and time, so that any instant can be asked, in any order, by
any process: the logarithm is a sum of smooth noises with periods from two seconds to some weeks, whose
amplitudes grow with the square root of the period as those of a random walk do; the fast ones swell and
calm down with a noise of their own.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

YEAR = 365 * 86_400.0
PERIODS = tuple(2.0 * 4**k for k in range(11))  # 2 s … 24 days
CALM, STORM = 3 * 3600.0, 600.0  # how slowly volatility changes, and the periods that it governs
MASK = (1 << 64) - 1

# What one unit cost in US dollars, and by how much that moves in a year (standard deviation of the logarithm).
ASSETS = {
    "USD": (1.0, 0.0), "EUR": (1.1568, 0.07), "GBP": (1.3105, 0.08), "JPY": (0.0063945, 0.09),
    "AUD": (0.6512, 0.10), "BGN": (0.5915, 0.07), "BRL": (0.1871, 0.15), "CAD": (0.7121, 0.06),
    "CHF": (1.2417, 0.08), "CNY": (0.1406, 0.04), "CZK": (0.0477, 0.09), "DKK": (0.1549, 0.07),
    "HKD": (0.1285, 0.01), "HUF": (0.00302, 0.11), "IDR": (0.0000599, 0.07), "ILS": (0.3062, 0.10),
    "INR": (0.01127, 0.05), "ISK": (0.00788, 0.09), "KRW": (0.000681, 0.09), "MXN": (0.0541, 0.12),
    "MYR": (0.2413, 0.06), "NOK": (0.0981, 0.11), "NZD": (0.5612, 0.10), "PHP": (0.01697, 0.05),
    "PLN": (0.2732, 0.10), "RON": (0.2273, 0.07), "SEK": (0.1049, 0.10), "SGD": (0.7658, 0.04),
    "THB": (0.03085, 0.07), "TRY": (0.02356, 0.15), "ZAR": (0.0578, 0.14),
    "XAU": (4165.2, 0.16), "XAG": (51.23, 0.30), "XPT": (1548.0, 0.28), "XPD": (1402.0, 0.35), "HG": (5.02, 0.25),
    "BTC": (91_250.0, 0.50), "ETH": (3012.0, 0.65), "SOL": (138.2, 0.80), "BNB": (871.0, 0.55), "XRP": (2.04, 0.75),
    "ADA": (0.4312, 0.80), "DOGE": (0.1478, 0.85),
    "AAPL": (268.5, 0.27), "MSFT": (489.1, 0.24), "NVDA": (181.6, 0.45), "AMZN": (222.3, 0.32), "GOOG": (291.4, 0.30),
    "TSLA": (401.7, 0.60), "SPY": (662.9, 0.16), "QQQ": (598.2, 0.20),
    # in the currency of their market
    "7203.T": (3105.0, 0.25), "0700.HK": (612.5, 0.32), "PTT.BK": (31.75, 0.20), "VOD.L": (0.9134, 0.22),
}  # fmt: skip
FIAT = tuple(ASSETS)[:31]
CRYPTO = ("BTC", "ETH", "SOL", "BNB", "XRP", "ADA", "DOGE")
STOCKS = ("AAPL", "MSFT", "NVDA", "AMZN", "GOOG", "TSLA", "SPY", "QQQ", "7203.T", "0700.HK", "PTT.BK", "VOD.L")


@dataclass(frozen=True)
class Tick:
    """A price and the world's time at which it was made."""

    price: Decimal
    at: float


class Market:
    """Instruments by our symbols: pairs such as BTCUSD, EURUSD, XAUUSD, and stocks."""

    def price(self, symbol: str, at: float) -> Tick | None:
        """The newest price at a time of the world; None for an instrument that this world does not have."""
        raise NotImplementedError


def pair(symbol: str) -> tuple[str, str] | None:
    """BTCUSD as (BTC, USD) where both are known assets."""
    splits = ((symbol[:n], symbol[n:]) for n in (3, 4, 2))
    return next(((base, quote) for base, quote in splits if base in ASSETS and quote in ASSETS), None)


class SimulatedMarket(Market):
    """Every pair of known assets, without arbitrage between them; always open."""

    def __init__(self, seed: int) -> None:
        self._seeds = {name: _mixed(seed * 2654435761 + zlib.crc32(name.encode())) for name in ASSETS}

    def price(self, symbol: str, at: float) -> Tick | None:
        if symbol in STOCKS:
            return Tick(rounded(self._dollars(symbol, at)), at)
        assets = pair(symbol)
        return Tick(rounded(self._dollars(assets[0], at) / self._dollars(assets[1], at)), at) if assets else None

    def _dollars(self, asset: str, at: float) -> float:
        start, volatility = ASSETS[asset]
        seed = self._seeds[asset]
        weather = math.exp(0.7 * _noise(seed ^ MASK, at / CALM))
        walk = sum(
            math.sqrt(period / YEAR) * (weather if period < STORM else 1) * _noise(seed + k, at / period)
            for k, period in enumerate(PERIODS)
        )
        return start * math.exp(volatility * walk)


def rounded(price: float) -> Decimal:
    """As markets quote: 91250.17, 51.234, 1.15683, 0.00001234."""
    digits = 2 if price >= 500 else 3 if price >= 10 else 5 if price >= 0.01 else 8
    return Decimal(f"{price:.{digits}f}")


def _noise(seed: int, x: float) -> float:
    """Smooth noise from -1 to 1 with a fresh value at each whole x."""
    n = math.floor(x)
    share = x - n
    left, right = (_mixed(seed + 0x9E3779B97F4A7C15 * m) / 2.0**63 - 1 for m in (n, n + 1))
    return left + (right - left) * share * share * (3 - 2 * share)


def _mixed(number: int) -> int:
    """64 bits without a pattern (the finalizer of splitmix64)."""
    number &= MASK
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
    return number ^ (number >> 31)


PART = Market


def simulate(seed: int) -> Market:
    """A market that is a function of the seed."""
    return SimulatedMarket(seed)


def replay(folder: Path) -> Market:
    """The market that a folder of recorded prices holds."""
    from demo.recorded import RecordedMarket

    return RecordedMarket(folder)
