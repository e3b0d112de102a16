"""``mtmd-server admit``, ``revoke`` and ``sites``: who may take part. A running server heeds each at once."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mtmd_core.arguments import CommandParser

from .settings import load_settings


def admit(words: Sequence[str]) -> int:
    """Let a site take part; the exit code."""
    parser = _parser("admit", "Let a site take part: show its key's fingerprint and admit it. No restart is needed.")
    parser.add_argument(
        "card", type=Path, metavar="FILE", help="the card that `mtmd-client enroll` wrote at the hospital"
    )
    given = parser.parse(words)

    from mtmd_core.site_card import read_card

    card = read_card(given.card)
    former = _admission(given.state).admit(card, datetime.now(UTC))
    print(f"site         {card.site}\nfingerprint  {card.fingerprint}")
    if former is not None and former.revoked is None:
        print(f"{card.site} was admitted with this key already; nothing has changed")
        return 0
    again = f" again (it was revoked on {former.revoked})" if former is not None else ""
    place = f" --state {given.state}" if given.state is not None else ""
    print(
        f"{card.site} is admitted{again}\n"
        f"Compare the fingerprint with the one that the hospital reads out; if they differ: "
        f"`mtmd-server revoke{place} {card.site}`"
    )
    return 0


def revoke(words: Sequence[str]) -> int:
    """Take back a site's leave; the exit code."""
    parser = _parser("revoke", "Refuse a site from now on, also in a run that goes on. Other sites are not touched.")
    parser.add_argument("site", metavar="NAME", help="the site's name")
    given = parser.parse(words)
    former = _admission(given.state).revoke(given.site, datetime.now(UTC))
    if former.revoked is not None:
        print(f"{given.site} was revoked on {former.revoked} already; nothing has changed")
    else:
        print(f"{given.site} is revoked: its key is refused from now on, and a run that goes on no longer waits for it")
    return 0


def sites(words: Sequence[str]) -> int:
    """List the sites that were ever admitted, and their keys; the exit code."""
    parser = _parser("sites", "List the sites that were admitted, with their keys' fingerprints.")
    given = parser.parse(words)
    admission = _admission(given.state)
    entries = admission.entries()
    for site, entry in entries.items():
        print(f"{site}  {'admitted' if entry.revoked is None else 'revoked'}  {entry.revoked or entry.admitted}")
        print(f"  fingerprint  {entry.card.fingerprint}")
        for fingerprint, former in admission.replaced().items():
            if former.card.site == site:
                print(f"  former key   {fingerprint}, revoked {former.revoked}")
    if not entries:
        print("no site is admitted yet: `mtmd-server admit FILE` admits one")
    return 0


def _parser(command: str, description: str) -> CommandParser:
    parser = CommandParser(prog=f"mtmd-server {command}", description=description)
    parser.add_argument("--state", type=Path, metavar="DIR", help="the coordinator's own folder (default: federation)")
    return parser


def _admission(state: Path | None):
    from .admission import Admission

    return Admission(load_settings({"state": state}).state)
