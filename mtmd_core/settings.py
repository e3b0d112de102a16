"""Settings of a command in layers: what the package ships, then a YAML file of the user's own, then the command line.

Light on purpose: reading them must not wait for PyTorch.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.words import nearest


def shipped_layer(name: str) -> dict[str, Any]:
    """The defaults in ``configs/<name>.yaml``."""
    return yaml.safe_load((files("configs") / f"{name}.yaml").read_text(encoding="utf-8"))


def file_layer(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """What a settings file says; nothing if there is none.

    Raises:
        ConfigurationError: if it is not YAML, not a mapping, or has a key that is not in ``known`` (the text names the
            nearest one that is).
    """
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds {type(content).__name__}; it must hold lines of the form 'key: value'.")
    check_keys(content, known, str(path))
    return content


def check_keys(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Raise if ``given`` has a key that is not known, naming the nearest one.

    Raises:
        ConfigurationError: naming ``where`` and the key.
    """
    for key in given:
        if key not in known:
            raise ConfigurationError(f"{where} has no key '{key}'; {nearest(str(key), known)}")


def keep(path: Path, command: str, given: Mapping[str, Any]) -> bool:
    """Write what was given into a settings file if there is none yet; whether it was written."""
    if path.exists() or not given:
        return False
    heading = f"# Own settings of mtmd-{command}; all keys and their meaning: configs/{command}.yaml of mtmd.\n"
    write_text(path, heading + yaml.safe_dump(_plain(given), sort_keys=False))
    return True


def unkept(path: Path, given: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """A line that names the given words of which a settings file keeps another value; empty if there are none."""
    words = [
        f"{word} {_shown(value)} (kept: {_shown(kept.get(word))})"
        for word, value in given.items()
        if _plain(value) != _plain(kept.get(word))
    ]
    return f"for this run only: {', '.join(words)}; to change what is kept, edit {path}" if words else ""


def address(text: str, word: str = "server") -> tuple[str, int]:
    """Split ``HOST:PORT`` (an IPv6 host in brackets).

    Raises:
        ConfigurationError: if it is not of that form, or the port is not from 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    well_formed = bare and "/" not in bare and (":" not in bare or bracketed)
    if not well_formed or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"{word} is '{text}'; it must be HOST:PORT, for example 127.0.0.1:9092.")
    return bare, int(port)


def require_loopback(host: str) -> None:
    """Refuse plain HTTP to any other machine.

    Raises:
        ConfigurationError: if ``host`` is not a loopback address.
    """
    if host not in ("localhost", "::1") and not _is_loopback(host):
        raise ConfigurationError(
            f"'{host}' is another machine, and --insecure sends everything in the clear: it works on loopback only "
            "(127.0.0.1). Leave it out, and enrol with the certificate that the coordinator hands out (`mtmd-client enroll`)."
        )


def _is_loopback(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isascii() and part.isdigit() for part in parts)


def _plain(value: Any) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
