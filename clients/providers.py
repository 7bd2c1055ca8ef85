"""What an outside service is to us: where it lives, what it grants, how it wants to be asked."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field

import config
from domain.budget import Window


@dataclass(frozen=True)
class Provider:
    """One outside service. Its base URL is a setting, so that a stand-in can take its place."""

    name: str  # "binance": the source of its prices, the name in messages and keys
    url: str  # the setting that holds the base URL, as a field of Settings
    doc: str  # what it gives, for the status page
    needs: str = ""  # the setting without which it is off: a key, or a switch
    unofficial: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()
    reserve: float = 0.1  # the share of a day or month that is kept for urgent calls
    min_age: float = 0  # seconds for which an answer is served again instead of asking
    heeds_cache_control: bool = False  # … and for as long as the answer itself says, up to five minutes
    penalty: float = 30  # seconds of silence after a 429 that does not say how long
    longest_wait: float = 900  # seconds for which it is left alone while it does not answer
    counters: tuple[str, ...] = ()  # headers in which it tells what we have used
    tries: int = 3  # of a GET, while the waits between them stay under `patience`
    patience: float = 3  # seconds
    connect_timeout: float = 3
    read_timeout: float = 10
    deadline: float = 20  # seconds for the whole answer
    max_bytes: int = 2_000_000  # after decompression

    @property
    def base_url(self) -> str:
        """The base URL, without a slash at its end."""
        return str(getattr(config.settings, self.url)).rstrip("/")

    @property
    def off(self) -> str | None:
        """Why it is not used, in words; None when it is on."""
        if not self.base_url:
            return f"{variable(self.url)} is empty"
        if self.needs and not (value := getattr(config.settings, self.needs)):
            return f"{variable(self.needs)} is {'off' if value is False else 'not set'}"
        return None


def variable(setting: str) -> str:
    """The environment variable of a field of Settings."""
    return str(config.Settings.__dataclass_fields__[setting].metadata["variable"])


registry: dict[str, Provider] = {}


def provider(**description: object) -> Provider:
    """A Provider that the status page and `nightdesk budget` know."""
    made = Provider(**description)  # type: ignore[arg-type]
    registry[made.name] = made
    return made


def load() -> dict[str, Provider]:
    """The registry after importing every module of `clients/`."""
    import clients

    for module in pkgutil.iter_modules(clients.__path__, "clients."):
        if module.name != "clients.connections":  # needs urllib3, which only asking needs
            importlib.import_module(module.name)
    return registry
