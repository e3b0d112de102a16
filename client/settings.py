"""A site's settings: shipped defaults, then the site's own file, then the command line.

Reading them is quick: neither PyTorch nor Flower is imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.minimum import MINIMUM
from mtmd_core.settings import address, check_keys, file_layer, keep, require_loopback, shipped_layer, unkept
from mtmd_core.sites import check_site_name
from mtmd_core.strategies import FEDERATED_STRATEGIES
from mtmd_core.words import DEVICES, RELEASES, nearest

OWN_FILE = "site.yaml"
"""What a site keeps its settings in, in its own folder."""
_LIMITS: dict[str, float | None] = {
    "max_local_steps": 100_000,
    "max_batch_size": 256,
    "max_slice_size": 1024,
    "max_parameters": 500_000_000,
    "max_memory_mb": None,
    "max_round_seconds": 43_200,
    "max_sites": 100,
    "max_learning_rate": 1,
    "max_proximal_mu": 1,
    "min_round_slices": MINIMUM.slices,
}
_NO_COUNTS = ("max_learning_rate", "max_proximal_mu")
"""Limits that need not be whole numbers."""


@dataclass(frozen=True)
class SiteSettings:
    """What a site decides for itself; nothing that the server sends can change it.

    The meaning and the default of each is stated in ``configs/client.yaml``. ``state`` is the site's own folder, ``data``
    its exams, ``server`` is HOST:PORT.

    Raises:
        ConfigurationError: for a value that cannot be used, naming the key, what was given and what is possible.
    """

    site: str
    state: Path
    data: Path | None = None
    server: str | None = None
    insecure: bool = False
    device: str = "auto"
    threads: int | None = None
    connect_timeout_seconds: float = 300
    message_timeout_seconds: float = 86400
    step_timeout_seconds: float = 1800
    poll_seconds: float = 0.1
    server_poll_seconds: float = 0.25
    release: str = "mean"
    strategies: Sequence[str] = ("individual", "dsl")
    minimum_exams: int = MINIMUM.exams
    minimum_slices: int = MINIMUM.slices
    slices_per_exam: int | None = None
    noise_multiplier: float = 0
    delta: float = 1e-5
    max_epsilon: float | None = None
    limits: Mapping[str, float | None] = field(default_factory=lambda: dict(_LIMITS))

    @property
    def authority_file(self) -> Path:
        """The certificate that alone can vouch for the server; a copy of what the coordinator handed out."""
        return self.state / "authority.pem"

    @property
    def key_file(self) -> Path:
        """The site's own private key, made here."""
        return self.state / "site.key"

    def __post_init__(self) -> None:
        check_site_name(self.site)
        if self.server is not None:
            address(str(self.server))
        if not isinstance(self.insecure, bool):
            raise ConfigurationError(f"insecure is {self.insecure!r}; it must be true or false.")
        for word, value, known in (("device", self.device, DEVICES), ("release", self.release, RELEASES)):
            if value not in known:
                raise ConfigurationError(f"{word} is '{value}'; it must be one of {', '.join(known)}.")
        _check_strategies(self.strategies)
        object.__setattr__(self, "strategies", tuple(self.strategies))  # YAML and JSON know lists only
        for word in ("threads", "slices_per_exam"):
            if getattr(self, word) is not None:
                _check_count(word, getattr(self, word))
        for word, least in (("minimum_exams", MINIMUM.exams), ("minimum_slices", MINIMUM.slices)):
            _check_count(word, getattr(self, word), least)
        for word in (
            "connect_timeout_seconds",
            "message_timeout_seconds",
            "step_timeout_seconds",
            "poll_seconds",
            "server_poll_seconds",
        ):
            _check_number(word, getattr(self, word), "finite number of seconds")
        _check_number("noise_multiplier", self.noise_multiplier, zero=True)
        _check_number("delta", self.delta, below=1)
        if self.max_epsilon is not None:
            _check_number("max_epsilon", self.max_epsilon)
        if self.max_epsilon is not None and not self.noise_multiplier:
            raise ConfigurationError(
                f"max_epsilon is {self.max_epsilon}, but without noise_multiplier no epsilon is finite: set both, or neither."
            )
        if not isinstance(self.limits, Mapping):
            raise ConfigurationError(f"limits is {self.limits!r}; it must hold lines of the form 'key: number'.")
        check_keys(self.limits, tuple(_LIMITS), "limits")
        for word, value in self.limits.items():
            if word in _NO_COUNTS:
                _check_number(f"limits.{word}", value)
            elif value is not None or _LIMITS[word] is not None:
                _check_count(f"limits.{word}", value)


def load_settings(site: str, given: Mapping[str, Any]) -> SiteSettings:
    """Lay ``given`` over the site's own file over the shipped defaults.

    ``given`` holds fields of :class:`SiteSettings`; those that are None count as not given. ``given["state"]`` is the
    site's own folder, by default ``sites/<site>``. A relative data folder is relative to where it was named: to the site's
    own folder in its file, else to the current folder.

    Raises:
        ConfigurationError: for an unknown key or a value that cannot be used, or if the folder is another site's.
    """
    check_site_name(site)
    explicit = {key: value for key, value in given.items() if value is not None}
    state = Path(explicit.pop("state", Path("sites") / site)).expanduser().absolute()
    _place_data(explicit, Path.cwd())
    layers = (shipped_layer("client"), _own_layer(site, state), explicit)
    merged = {key: value for layer in layers for key, value in layer.items()}
    limits = [layer["limits"] for layer in layers if layer.get("limits") is not None]
    if all(isinstance(entry, Mapping) for entry in limits):  # one limit of one's own keeps the others as shipped
        merged["limits"] = {key: value for entry in limits for key, value in entry.items()}
    return SiteSettings(**{**merged, "site": site, "state": state})


def remember(settings: SiteSettings, given: Mapping[str, Any]) -> Path | None:
    """Write what was given into the site's own file if it has none yet, so that ``--site`` alone is enough next time.

    Returns the file that was written, or None.
    """
    chosen = _chosen(settings, given)
    own_file = settings.state / OWN_FILE
    return own_file if chosen and keep(own_file, "client", {"site": settings.site, **chosen}) else None


def differing(settings: SiteSettings, given: Mapping[str, Any]) -> str:
    """A line that names what was given and is not what the site's own file keeps; empty if all is, or without a file."""
    own_file = settings.state / OWN_FILE
    if not own_file.exists():
        return ""
    kept = shipped_layer("client") | _own_layer(settings.site, settings.state)
    return unkept(own_file, _chosen(settings, given), kept)


def to_plain(settings: SiteSettings) -> dict[str, Any]:
    """The settings as JSON can hold them."""
    plain = asdict(settings)
    return {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}


def from_plain(plain: Mapping[str, Any]) -> SiteSettings:
    """Undo :func:`to_plain`."""
    paths = {key: Path(plain[key]) for key in ("state", "data") if plain[key] is not None}
    return SiteSettings(**{**plain, **paths})


def require_data_folder(settings: SiteSettings) -> Path:
    """The folder of exams, if it looks like one; the worker reads it properly.

    Raises:
        ConfigurationError: if no folder is set.
        DataError: if it has no ``dataset.json``.
    """
    if settings.data is None:
        raise ConfigurationError(
            f"no data folder is set for {settings.site}: give --data DIR once, or add 'data:' to "
            f"{settings.state / OWN_FILE}."
        )
    if not (settings.data / "dataset.json").is_file():
        raise DataError(
            f"{settings.data} has no dataset.json; expected an nnU-Net raw folder (dataset.json, imagesTr, labelsTr)."
        )
    return settings.data


def require_server(settings: SiteSettings) -> tuple[str, int]:
    """The server's host and port, if this site may talk to it.

    Raises:
        ConfigurationError: if no server is set, the site is not enrolled, or plain HTTP would go to another machine.
    """
    if settings.server is None:
        raise ConfigurationError(
            f"no server is set for {settings.site}: give --server HOST:PORT once, or add 'server:' to "
            f"{settings.state / OWN_FILE}."
        )
    host, port = address(settings.server)
    if settings.insecure:
        require_loopback(host)
    elif not (settings.authority_file.exists() and settings.key_file.exists()):
        raise ConfigurationError(
            f"{settings.site} is not enrolled: {settings.state} holds no key and no authority's certificate. Run `mtmd-client "
            f"enroll --site {settings.site} --server {settings.server} --authority FILE` with the file that the coordinator "
            "handed out, or give --insecure for plain HTTP on loopback."
        )
    return host, port


def _own_layer(site: str, state: Path) -> dict[str, Any]:
    """What the site's own file says.

    Raises:
        ConfigurationError: if it cannot be used, or belongs to another site.
    """
    own_file = state / OWN_FILE
    own = file_layer(own_file, [entry.name for entry in fields(SiteSettings) if entry.name != "state"])
    if own.get("site", site) != site:
        raise ConfigurationError(
            f"{own_file} belongs to the site '{own['site']}', not '{site}': check --site, or give another --state folder."
        )
    _place_data(own, state)
    return own


def _place_data(layer: dict[str, Any], folder: Path) -> None:
    if layer.get("data") is not None:
        layer["data"] = folder / Path(str(layer["data"])).expanduser()


def _chosen(settings: SiteSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``given`` belongs into the site's own file."""
    return {
        key: getattr(settings, key)
        for key, value in given.items()
        if value is not None and key not in ("site", "state")
    }


def _check_strategies(value: object) -> None:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigurationError(f"strategies is {value!r}; it must be a list such as [individual, dsl].")
    for name in value:
        if name not in FEDERATED_STRATEGIES:
            raise ConfigurationError(f"strategies names '{name}'; {nearest(str(name), FEDERATED_STRATEGIES)}")


def _check_count(word: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{word} is {value!r}; it must be a whole number of at least {least}.")


def _check_number(
    word: str, value: object, what: str = "finite number", below: float = float("inf"), zero: bool = False
) -> None:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 <= value < below or (value == 0 and not zero):
        bound = "" if below == float("inf") else f" and below {below:g}"
        raise ConfigurationError(
            f"{word} is {value!r}; it must be a {what} {'of at least' if zero else 'above'} 0{bound}."
        )
