"""A run's words, the versions that it ran with, and when it was made."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from .html import Html, element

PACKAGES = ("mtmd", "torch", "flwr", "timm", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Package → its version here; python's too."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def words(configuration: Mapping[str, Any], defaults: Mapping[str, Any]) -> Html:
    """Every word of a configuration; those that differ from the defaults are bold."""
    if not configuration:
        return Html()
    lines = (
        element(
            "div",
            element("dt", word),
            element("dd", _spelt(value)),
            class_="changed" if word in defaults and defaults[word] != value else None,
        )
        for word, value in configuration.items()
    )
    note = element("p", "Bold: not the shipped default.", class_="note") if defaults else ""
    return Html(f"{note}{element('dl', *lines, class_='words')}")


def versions_table(found: Mapping[str, str]) -> Html:
    """Versions in one line each."""
    lines = (element("div", element("dt", package), element("dd", number)) for package, number in found.items())
    return element("dl", *lines, class_="words") if found else Html()


def _spelt(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_spelt(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_spelt, value)) or "none"
    return str(value)
