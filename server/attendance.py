"""Which of a run's sites are asked in a round, and whether they are enough to go on."""

from collections.abc import Sequence

from mtmd_core.errors import RunFailedError

from .fleet import Fleet
from .standing import Standing


class Attendance:
    """The sites of a run that may be asked now.

    A site that is revoked, or set aside, stays a site of the run: it is asked again as soon as it may take part again and has
    come.

    Args:
        sites: all of the run.
        quorum: how many of them the run needs; None for all of them, apart from those that were set aside.
        standing: who is set aside.
        fleet: who is revoked, and who has come since this server started.
    """

    def __init__(self, sites: Sequence[str], quorum: int | None, standing: Standing, fleet: Fleet) -> None:
        self._sites = sites
        self._quorum = quorum
        self._standing = standing
        self._fleet = fleet

    def present(self) -> list[str]:
        """The sites to ask, in the order of all.

        Raises:
            RunFailedError: if they are fewer than the quorum; the text says who is missing, why, and what to do.
        """
        aside, revoked = self._standing.set_aside(), self._fleet.revoked(self._sites)
        left = [site for site in self._sites if site not in aside and site not in revoked]
        present = [site for site in left if site in self._fleet.sites]
        quorum = self._quorum or max(1, len(set(self._sites) - set(aside)))
        if len(present) < quorum:
            away = [site for site in left if site not in present]
            raise RunFailedError(self._too_few(aside, revoked, away, len(present), quorum))
        return present

    def _too_few(
        self, aside: Sequence[str], revoked: Sequence[str], away: Sequence[str], count: int, quorum: int
    ) -> str:
        reasons = {
            "were refused too often and are set aside": aside,
            "were revoked": revoked,
            "have not come since this server started": away,
        }
        why = "; ".join(f"{', '.join(sites)} {reason}" for reason, sites in reasons.items() if sites)
        remedies = ["see `mtmd-server status`"]
        if aside:
            remedies.append("mend what is wrong there and give `mtmd-server readmit SITE`")
        if revoked:
            remedies.append("let a site that was revoked in again with `mtmd-server admit FILE`")
        if count:
            remedies.append(f"or go on with fewer by federation.quorum={count}")
        return (
            f"{why}, so that {count} of {len(self._sites)} sites are left and the quorum is {quorum}: {', '.join(remedies)}; "
            "then give the same command again."
        )
