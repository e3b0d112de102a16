"""The coordinator's settings: shipped defaults, then its own file, then the command line."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mtmd_core.errors import ConfigurationError
from mtmd_core.settings import file_layer, keep, shipped_layer, unkept

OWN_FILE = "server.yaml"
"""What the coordinator keeps its settings in, in its own folder."""


@dataclass(frozen=True)
class ServerSettings:
    """How the coordinator's command runs; what the federation computes is the run's configuration, not this.

    The meaning and the default of each is stated in ``configs/server.yaml``.

    Raises:
        ConfigurationError: for a value that cannot be used, naming the key, what was given and what is possible.
    """

    state: Path
    sites: int | Sequence[str] | None = None
    listen: str = "0.0.0.0"
    port: int = 9092
    page_port: int = 9093
    insecure: bool = False
    start_timeout_seconds: float = 60
    grace_seconds: float = 15
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise ConfigurationError(f"port is {self.port!r}; it must be a whole number from 1 to 65535.")
        if isinstance(self.page_port, bool) or not isinstance(self.page_port, int) or not 0 <= self.page_port <= 65535:
            raise ConfigurationError(
                f"page_port is {self.page_port!r}; it must be a whole number from 1 to 65535, or 0 for no page."
            )
        if not _is_address(self.listen):
            raise ConfigurationError(
                f"listen is {self.listen!r}; it must be an IP address of this machine, or 0.0.0.0 for all."
            )
        if not isinstance(self.insecure, bool):
            raise ConfigurationError(f"insecure is {self.insecure!r}; it must be true or false.")
        for word in ("start_timeout_seconds", "grace_seconds"):
            value = getattr(self, word)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigurationError(f"{word} is {value!r}; it must be a finite number of seconds above 0.")
        _check_texts("overrides", self.overrides)
        if self.sites is not None:
            _check_sites(self.sites)

    def run_overrides(self) -> list[str]:
        """Words for the run's configuration; those named on the command line come last and win."""
        if self.sites is None:
            return list(self.overrides)
        if isinstance(self.sites, int):
            return [f"federation.expected_sites={self.sites}", *self.overrides]
        names = f"federation.site_names=[{','.join(self.sites)}]"
        return [f"federation.expected_sites={len(self.sites)}", names, *self.overrides]


def load_settings(given: Mapping[str, Any]) -> ServerSettings:
    """Lay ``given`` over the coordinator's own file over the shipped defaults.

    ``given`` holds fields of :class:`ServerSettings`; those that are None count as not given. ``given["state"]`` is the
    coordinator's own folder, by default ``federation``. ``overrides`` add up over the layers, the later ones winning.

    Raises:
        ConfigurationError: for an unknown key or a value that cannot be used.
    """
    explicit = {key: value for key, value in given.items() if value is not None}
    state = Path(explicit.pop("state", "federation")).expanduser().absolute()
    layers = [shipped_layer("server"), _own_layer(state), explicit]
    for layer in layers:
        _check_texts("overrides", layer.get("overrides") or [])
    words = [word for layer in layers for word in layer.get("overrides") or []]
    overrides = [word for place, word in enumerate(words) if word not in words[place + 1 :]]
    return ServerSettings(**{**layers[0], **layers[1], **layers[2], "overrides": tuple(overrides), "state": state})


def remember(settings: ServerSettings, given: Mapping[str, Any]) -> Path | None:
    """Write what was given into the coordinator's own file if it has none yet, so that ``mtmd-server`` is enough next time.

    Returns the file that was written, or None.
    """
    own_file = settings.state / OWN_FILE
    return own_file if keep(own_file, "server", _chosen(given)) else None


def differing(settings: ServerSettings, given: Mapping[str, Any]) -> str:
    """A line that names what was given and is not what the own file keeps; empty if all is, or without a file."""
    own_file = settings.state / OWN_FILE
    if not own_file.exists():
        return ""
    kept = shipped_layer("server") | _own_layer(settings.state)
    return unkept(own_file, _by_word(_chosen(given)), _by_word(kept))


def parse_sites(text: str) -> int | list[str]:
    """``3`` is a number of sites, ``ankle,knee,shoulder`` are their names.

    Raises:
        ConfigurationError: if it is neither.
    """
    sites = int(text) if text.isascii() and text.isdigit() else [name.strip() for name in text.split(",")]
    _check_sites(sites)
    return sites


def _own_layer(state: Path) -> dict[str, Any]:
    return file_layer(state / OWN_FILE, [entry.name for entry in fields(ServerSettings) if entry.name != "state"])


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``given`` belongs into the coordinator's own file."""
    return {key: value for key, value in given.items() if value not in (None, []) and key != "state"}


def _by_word(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with each word of the run's configuration as an entry of its own; the last of several counts."""
    words = dict(word.partition("=")[::2] for word in settings.get("overrides") or [])
    return {key: value for key, value in settings.items() if key != "overrides"} | words


def _check_sites(sites: object) -> None:
    numbered = isinstance(sites, int) and not isinstance(sites, bool) and sites >= 1
    named = isinstance(sites, list | tuple) and sites and all(isinstance(name, str) and name for name in sites)
    if not numbered and not (named and len(set(sites)) == len(sites)):
        raise ConfigurationError(
            f"sites is {sites!r}; it must be a number of at least 1, or different names: 3, or ankle,knee,shoulder."
        )


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _check_texts(word: str, value: object) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise ConfigurationError(f"{word} is {value!r}; it must be a list of words such as federation.rounds=20.")
