"""Which round's model is the run's result: the best mean of the validation Dice that sites released, else the last."""

from collections.abc import Mapping
from dataclasses import dataclass

VALIDATION_DICE = "validation/foreground_mean/dice"


@dataclass(frozen=True)
class Overlooked:
    """A later round than the best one that was no worse where it was measured, and was measured at fewer sites."""

    round: int
    sites: tuple[str, ...]


class ModelChoice:
    """Keeps each round's validation scores. ``overlooked`` is the last round that the rule on fewer sites passed over.

    Args:
        apart: whether every site has a model of its own (nothing is shared), and so a best round of its own.
    """

    def __init__(self, apart: bool) -> None:
        self.overlooked: Overlooked | None = None
        self._apart = apart
        self._best: dict[
            str, tuple[dict[str, float], int]
        ] = {}  # what sites released of the best round, and which it is

    def note(self, round_: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """Note what sites measured of a round; returns whether it is the best so far.

        A round that more sites measured is better than one that fewer did, for a mean without the hardest site would win.
        Of equals the later round, which was trained longer.
        """
        scores = _scores(metrics)
        if not scores or round_ < 1:
            return False
        noted = {site: {site: score} for site, score in scores.items()} if self._apart else {"": scores}
        better = {
            key: (own, round_)
            for key, own in noted.items()
            if key not in self._best or _worth(own) >= _worth(self._best[key][0])
        }
        self._best |= better
        if better:
            self.overlooked = None
        else:
            self.pass_over(round_, metrics)
        return bool(better)

    def pass_over(self, round_: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Note a round that cannot be the best one, be it because fewer sites measured it or because it was not kept."""
        scores, best = _scores(metrics), self._best.get("", ({}, 0))[0]
        both = sorted(scores.keys() & best.keys())
        if both and _worth({site: scores[site] for site in both}) >= _worth({site: best[site] for site in both}):
            self.overlooked = Overlooked(round_, tuple(sorted(scores)))

    def leave_out(self, site: str) -> None:
        """Count a site no more: later rounds, which it does not measure, are compared with the best one over the others."""
        for scores, _ in self._best.values():
            scores.pop(site, None)

    def best_round(self, site: str) -> int:
        """The best round so far as far as a site is concerned; 0 if no site released a score."""
        return self._best.get(site if self._apart else "", ({}, 0))[1]


def _scores(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {site: values[VALIDATION_DICE] for site, values in metrics.items() if VALIDATION_DICE in values}


def _worth(scores: Mapping[str, float]) -> tuple[int, float]:
    return len(scores), sum(scores.values()) / max(len(scores), 1)
