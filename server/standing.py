"""How each site stands in a run: whose replies were left out, how often in a row, and who is set aside.

A site that was refused ``federation.refusals_before_set_aside`` times in a row is asked no more, until a person has looked at it
and readmits it. Replies to TRAIN count alone. Silence is no refusal: a site that was away comes back by itself.

Kept in ``standing.json`` in the run's folder, whole at any moment. A refusal names its round, so that a round which comes again
after a crash counts once.
"""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.refusals import Reason
from mtmd_core.wire import Notice

log = logging.getLogger(__name__)

FILE = "standing.json"
REQUESTS = "readmit"
"""Folder of requests: an empty file with a site's name readmits it at the beginning of a round."""


@dataclass(frozen=True)
class SiteStanding:
    """One site's standing.

    ``in_a_row``: the visits, ``<run>:<round>``, whose replies were left out since one was used; ``refusals``: how many ever
    were. ``run``, ``round``, ``reason`` and ``detail`` are of the last one (empty if there was none).
    """

    in_a_row: tuple[str, ...] = ()
    refusals: int = 0
    run: str = ""
    round: int = 0
    reason: str = ""
    detail: str = ""
    set_aside: bool = False


class Standing:
    """All sites' standing in one run, on disk.

    Args:
        folder: of the run.
        patience: refusals in a row after which a site is set aside.
    """

    def __init__(self, folder: Path, patience: int) -> None:
        self._folder = folder
        self._patience = patience
        try:
            self.sites = read_standing(folder)
        except ConfigurationError:
            log.warning("%s is damaged and begun anew: sites that were set aside are asked again", FILE)
            self.sites = {}

    def begin(self) -> None:
        """Forget what an older run in this folder left."""
        (self._folder / FILE).unlink(missing_ok=True)
        for request in self._requests():
            request.unlink(missing_ok=True)
        self.sites = {}

    def of(self, site: str) -> SiteStanding:
        """A site's standing; a clean one if nothing was ever refused."""
        return self.sites.get(site, SiteStanding())

    def set_aside(self) -> list[str]:
        """The sites that are asked no more, in the order of their names."""
        return sorted(site for site, own in self.sites.items() if own.set_aside)

    def admitted(self, sites: Collection[str]) -> None:
        """The replies of these sites were used."""
        changed = {
            site: replace(own, in_a_row=()) for site, own in self.sites.items() if site in sites and own.in_a_row
        }
        if changed:
            self._save(changed)

    def refused(self, site: str, run: str, round_: int, reason: Reason, detail: str) -> bool:
        """A site's reply to TRAIN was left out; whether it is set aside now, and was not before."""
        before, visit = self.of(site), f"{run}:{round_}"
        again = visit in before.in_a_row
        in_a_row = before.in_a_row if again else (*before.in_a_row, visit)
        now = SiteStanding(
            in_a_row=in_a_row,
            refusals=before.refusals + (not again),
            run=run,
            round=round_,
            reason=reason.value,
            detail=detail,
            set_aside=len(in_a_row) >= self._patience,
        )
        self._save({site: now})
        return now.set_aside and not before.set_aside

    def notice(self, site: str) -> Notice | None:
        """What the site is to be told; None if its last reply was used, or it was readmitted since."""
        own = self.of(site)
        return Notice(own.run, own.round, own.reason, len(own.in_a_row), own.set_aside) if own.in_a_row else None

    def readmit(self, here: Collection[str]) -> list[str]:
        """Take sites back that the coordinator asks for, if they are here; their names. The others' requests stay."""
        readmitted = []
        for request in self._requests():
            site = request.name
            if self.of(site).set_aside:
                if site not in here:
                    continue
                self._save({site: replace(self.of(site), in_a_row=(), set_aside=False)})
                readmitted.append(site)
            request.unlink(missing_ok=True)
        return readmitted

    def _requests(self) -> list[Path]:
        return sorted((self._folder / REQUESTS).glob("[a-z]*"))

    def _save(self, changed: Mapping[str, SiteStanding]) -> None:
        self.sites = {**self.sites, **changed}
        write_json(self._folder / FILE, {site: asdict(own) for site, own in sorted(self.sites.items())})


def read_standing(folder: Path) -> dict[str, SiteStanding]:
    """The standing of the sites of which something is known, from the run's folder; nothing if there is no such file.

    Raises:
        ConfigurationError: if it cannot be understood.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {site: SiteStanding(**{**own, "in_a_row": tuple(own["in_a_row"])}) for site, own in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigurationError(
            f"{folder / FILE} is damaged: put it back from a copy, or start mtmd-server, which begins it anew and asks sites "
            "that were set aside again."
        ) from None
