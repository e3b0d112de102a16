"""Which round's model is the run's result: the best mean of the validation Dice that sites released, else the last."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

VALIDATION_DICE = "validation/foreground_mean/dice"


@dataclass(frozen=True)
class Overlooked:
    """A later round than the best one that was no worse where it was measured, and was measured at fewer sites."""

    round: int
    sites: tuple[str, ...]


class ModelChoice:
    """Keeps the validation scores of the best round. ``overlooked`` is the last round that the rule on fewer sites passed over.

    ``left_out`` are sites that measure nothing now, being revoked or set aside: rounds are compared over the others.

    Args:
        apart: whether every site has a model of its own (nothing is shared), and so a best round of its own.
    """

    def __init__(self, apart: bool) -> None:
        self.overlooked: Overlooked | None = None
        self.left_out: Collection[str] = ()
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
            if key not in self._best or self._worth(own) >= self._worth(self._best[key][0])
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
        both = sorted(scores.keys() & best.keys() - set(self.left_out))
        if both and _worth({site: scores[site] for site in both}) >= _worth({site: best[site] for site in both}):
            self.overlooked = Overlooked(round_, tuple(sorted(scores)))

    def best_round(self, site: str) -> int:
        """The best round so far as far as a site is concerned; 0 if no site released a score."""
        return self._best.get(site if self._apart else "", ({}, 0))[1]

    def state(self) -> dict[str, Any]:
        """What makes the best round the best, as JSON holds it."""
        return {key: {"scores": scores, "round": round_} for key, (scores, round_) in self._best.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._best = {key: (dict(own["scores"]), own["round"]) for key, own in state.items()}

    def _worth(self, scores: Mapping[str, float]) -> tuple[int, float]:
        return _worth({site: score for site, score in scores.items() if site not in self.left_out})


def _scores(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {site: values[VALIDATION_DICE] for site, values in metrics.items() if VALIDATION_DICE in values}


def _worth(scores: Mapping[str, float]) -> tuple[int, float]:
    return len(scores), sum(scores.values()) / max(len(scores), 1)
