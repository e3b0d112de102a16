"""Which sites may take part: one file a site in the coordinator's folder, read by a running server whenever it changes.

A site that is revoked keeps its file, so that its key is known and stays refused under any other name. Once the site has made
another key and that is admitted, the old key's entry lies in a folder of revoked keys for ever, and is refused under any name.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import exclusive
from mtmd_core.site_card import SiteCard

FOLDER = "admission"
"""Inside the coordinator's own folder."""
REVOKED_KEYS = "revoked"
"""Inside that: an entry of each key that was revoked and gave way to another, named by its fingerprint."""


@dataclass(frozen=True)
class Entry:
    """A site that was admitted, and when (UTC, ISO 8601); ``revoked`` is None while it may take part."""

    card: SiteCard
    admitted: str
    revoked: str | None = None


class Admission:
    """The entries of one federation.

    Args:
        state: the coordinator's own folder.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._stamp: object = None
        self._entries: dict[str, Entry] = {}
        self._replaced: dict[str, Entry] = {}

    def entries(self) -> Mapping[str, Entry]:
        """Every entry by its site's name, as the files are now; unchanged files are not read again.

        Raises:
            ConfigurationError: if a file cannot be read.
        """
        self._read_again()
        return self._entries

    def replaced(self) -> Mapping[str, Entry]:
        """The entries of keys that were revoked and gave way to others, by fingerprint: none is ever admitted again.

        Raises:
            ConfigurationError: if a file cannot be read.
        """
        self._read_again()
        return self._replaced

    def of_key(self, fingerprint: str) -> Entry | None:
        """The entry of a key, be it admitted or revoked, also if its site has another key since; None if it is unknown."""
        entries = (*self.entries().values(), *self.replaced().values())
        return next((entry for entry in entries if entry.card.fingerprint == fingerprint), None)

    def is_admitted(self, site: str) -> bool:
        """Whether a site may take part now."""
        entry = self.entries().get(site)
        return entry is not None and entry.revoked is None

    def is_revoked(self, site: str) -> bool:
        """Whether a site was admitted once and may not take part any more."""
        entry = self.entries().get(site)
        return entry is not None and entry.revoked is not None

    def admit(self, card: SiteCard, now: datetime) -> Entry | None:
        """Let a site take part, or again; its former entry, or None if there was none.

        Raises:
            ConfigurationError: if another key is admitted under this name, or the key belongs to another name or was revoked
                before another took its place.
        """
        with exclusive(self._folder, "mtmd-server admit or revoke"):
            former, owner = self.entries().get(card.site), self.of_key(card.fingerprint)
            if card.fingerprint in self.replaced():
                raise ConfigurationError(
                    f"this key was revoked as {owner.card.site} on {owner.revoked} and another took its place: it stays refused "
                    "under any name. Ask the hospital for the card of its new key, which `mtmd-client enroll --new-key` makes."
                )
            if owner is not None and owner.card.site != card.site:
                state = "admitted" if owner.revoked is None else "revoked"
                raise ConfigurationError(
                    f"this key is {state} as {owner.card.site} and cannot be {card.site} as well: each site makes a key of its "
                    "own with `mtmd-client enroll`."
                )
            if former is not None and former.revoked is None and former.card.fingerprint != card.fingerprint:
                raise ConfigurationError(
                    f"{card.site} is admitted already with another key (fingerprint {former.card.fingerprint}): ask the "
                    f"hospital. If it has made a new key, run `mtmd-server revoke {card.site}` first and admit this file then; "
                    "if it has not, this file is not theirs."
                )
            if former is None or former.revoked is not None:
                if former is not None and former.card.fingerprint != card.fingerprint:
                    self._keep_for_ever(former)  # first: whatever happens in between, the key stays known
                self._write(Entry(card, _stamped(now)))
            return former

    def revoke(self, site: str, now: datetime) -> Entry:
        """Take back a site's leave; its entry as it was.

        Raises:
            ConfigurationError: if no site of this name was admitted.
        """
        with exclusive(self._folder, "mtmd-server admit or revoke"):
            entry = self.entries().get(site)
            if entry is None:
                known = ", ".join(self.entries()) or "none"
                raise ConfigurationError(f"no site '{site}' was admitted here; known are: {known}.")
            if entry.revoked is None:
                self._write(replace(entry, revoked=_stamped(now)))
            return entry

    def _read_again(self) -> None:
        current, kept = _entry_files(self._folder), _entry_files(self._folder / REVOKED_KEYS)
        # each change is a new file renamed into place, so it has another inode or another time
        stamp = [
            (str(path), status.st_ino, status.st_mtime_ns) for path in (*current, *kept) if (status := path.stat())
        ]
        if stamp != self._stamp:
            self._entries = {entry.card.site: entry for entry in map(_read, current)}
            self._replaced = {entry.card.fingerprint: entry for entry in map(_read_revoked, kept)}
            self._stamp = stamp

    def _keep_for_ever(self, entry: Entry) -> None:
        write_json(self._folder / REVOKED_KEYS / f"{entry.card.fingerprint.replace(' ', '')}.json", asdict(entry))

    def _write(self, entry: Entry) -> None:
        write_json(self._folder / f"{entry.card.site}.json", asdict(entry))


def _entry_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


_REMEDY = "put it back from a copy; without one, only if that site was not revoked, remove it and admit the site again"


def _read(path: Path, remedy: str = _REMEDY) -> Entry:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Entry(SiteCard(**content["card"]), content["admitted"], content["revoked"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as a site's entry ({type(error).__name__}): {remedy}."
        ) from None


def _read_revoked(path: Path) -> Entry:
    return _read(path, "put it back from a copy, for without it the revoked key that it names could be admitted again")


def _stamped(now: datetime) -> str:
    return now.isoformat(timespec="seconds")
