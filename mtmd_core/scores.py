"""What an exam's scores are, and from them a site's summary and a run's, in the spirit of nnU-Net's `summary.json`.

Every dictionary made here can be written as JSON as it is: an undefined value is None (null), never NaN.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import stdev
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError


class Scores(NamedTuple):
    """The six 3D metrics of one structure in one exam; NaN where one is undefined."""

    dice: float
    sensitivity: float
    specificity: float
    mssd_mm: float
    assd_mm: float
    ravd: float


class SliceScores(NamedTuple):
    """2D metrics of an exam's slices whose ground truth holds a structure; all arrays [slices]."""

    index: NDArray[np.int64]  # position along the slice axis
    dice: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]


METRICS_3D = Scores._fields
METRICS_2D = ("dice_2d", "sensitivity_2d", "specificity_2d")

Release = Literal["none", "mean", "structure"]
Values = dict[str, float | None]  # metric -> value; None where it is undefined


def summarise_site(
    exam_scores: Mapping[str, Sequence[Scores]],
    structures: Sequence[str],
    slice_scores: Mapping[str, SliceScores] | None = None,
    foreign_share: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The full summary of one site, for the site itself.

    Undefined values are left out of every mean. A mean in 3D is taken per structure over exams, and
    `foreground_mean` over those, as nnU-Net does. A slice's 2D score covers all its structures (method
    section 7), so 2D values appear per exam, over its slices, and in `foreground_mean`, over all slices of
    the site.

    Args:
        exam_scores: exam -> its scores, one per structure in the order of `structures`.
        structures: names of the structures, label 1 first.
        slice_scores: exam -> its 2D scores, if there are any.
        foreign_share: exam -> share of voxels that were predicted as another site's class (method section 4).

    Returns:
        `foreground_mean`: metric -> value; `mean`: structure -> metric -> value; `metric_per_case`: a list,
        in order of exam names, of `case`, `metrics` (structure -> metric -> value) and, where given, `slices`
        (2D metric -> value) and `foreign_share`; `undefined`: metric -> how many values were left out.

    Raises:
        ConfigurationError: an exam without exactly one score per structure, structures of the same name, or
            2D scores or shares of exams that have no 3D scores.
    """
    slice_scores, foreign_share = slice_scores or {}, foreign_share or {}
    _check_exams(exam_scores, structures, slice_scores, foreign_share)
    exams = sorted(exam_scores)
    mean = {
        structure: _mean_values([exam_scores[exam][place]._asdict() for exam in exams], METRICS_3D)
        for place, structure in enumerate(structures)
    }
    foreground_mean = _mean_values(mean.values(), METRICS_3D)
    values = {
        metric: [getattr(scores, metric) for exam in exams for scores in exam_scores[exam]] for metric in METRICS_3D
    }
    if slice_scores:
        values |= _slice_values(slice_scores.values())
        foreground_mean |= {metric: _mean(values[metric]) for metric in METRICS_2D}
    return {
        "foreground_mean": foreground_mean,
        "mean": mean,
        "metric_per_case": [
            _case(exam, exam_scores[exam], structures, slice_scores.get(exam), foreign_share.get(exam))
            for exam in exams
        ],
        "undefined": {metric: sum(map(_undefined, found)) for metric, found in values.items()},
    }


def summarise_run(per_site: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a run over its sites: what each let out, their mean and the worst of them.

    Args:
        per_site: site -> its summary from `summarise_site`, or what `released` left of it (even nothing).

    Returns:
        `mean`: metric -> mean over sites of their `foreground_mean`, every site counting alike; `deviation`: the
        sample standard deviation over sites (n − 1), None for fewer than two; `undefined`: metric -> how many
        sites have no such value; `worst_site`: `name` and `foreground_mean` of the site
        with the lowest Dice, the first by name if several have it, None if no site has a Dice; `sites`:
        `per_site` itself.
    """
    means = {site: per_site[site].get("foreground_mean", {}) for site in sorted(per_site)}
    metrics = [metric for metric in (*METRICS_3D, *METRICS_2D) if any(metric in values for values in means.values())]
    with_dice = [site for site, values in means.items() if not _undefined(values.get("dice"))]
    worst = min(with_dice, key=lambda site: means[site]["dice"], default=None)
    return {
        "mean": _mean_values(means.values(), metrics),
        "deviation": {metric: _deviation(values.get(metric) for values in means.values()) for metric in metrics},
        "undefined": {metric: sum(_undefined(values.get(metric)) for values in means.values()) for metric in metrics},
        "worst_site": None if worst is None else {"name": worst, "foreground_mean": dict(means[worst])},
        "sites": {site: dict(per_site[site]) for site in sorted(per_site)},
    }


def released(site_summary: Mapping[str, Any], level: Release) -> dict[str, Any]:
    """What a site's policy lets out of its summary: never an exam and never a structure's name.

    Args:
        site_summary: from `summarise_site`.
        level: `none`: nothing; `mean`: `foreground_mean`; `structure`: that and `mean`, its structures
            numbered by their labels (`structure_1`, ...).

    Raises:
        ConfigurationError: another level.
    """
    if level not in get_args(Release):
        raise ConfigurationError(f"The release level is {level!r}; expected one of {', '.join(get_args(Release))}.")
    if level == "none":
        return {}
    # Known metrics only: a summary with more in it does not let more out.
    out: dict[str, Any] = {"foreground_mean": _known(site_summary["foreground_mean"])}
    if level == "structure":
        numbered = enumerate(site_summary["mean"].values(), start=1)
        out["mean"] = {f"structure_{label}": _known(values) for label, values in numbered}
    return out


def _check_exams(
    exam_scores: Mapping[str, Sequence[Scores]],
    structures: Sequence[str],
    slice_scores: Mapping[str, SliceScores],
    foreign_share: Mapping[str, float],
) -> None:
    if len(set(structures)) != len(structures):
        raise ConfigurationError(f"The structures {list(structures)} do not all have names of their own.")
    for exam, scores in exam_scores.items():
        if len(scores) != len(structures):
            raise ConfigurationError(
                f"Exam {exam} has {len(scores)} scores, expected one for each of {list(structures)}."
            )
    strangers = (slice_scores.keys() | foreign_share.keys()) - exam_scores.keys()
    if strangers:
        raise ConfigurationError(f"There are 2D scores or foreign shares, but no 3D scores, of {sorted(strangers)}.")


def _case(
    exam: str,
    scores: Sequence[Scores],
    structures: Sequence[str],
    slices: SliceScores | None,
    foreign_share: float | None,
) -> dict[str, Any]:
    metrics = {
        structure: {metric: _defined(value) for metric, value in own._asdict().items()}
        for structure, own in zip(structures, scores, strict=True)
    }
    case: dict[str, Any] = {"case": exam, "metrics": metrics}
    if slices is not None:
        case["slices"] = {metric: _mean(values) for metric, values in _slice_values([slices]).items()}
    if foreign_share is not None:
        case["foreign_share"] = _defined(foreign_share)
    return case


def _slice_values(slices: Iterable[SliceScores]) -> dict[str, list[float]]:
    """2D metric -> its values in all slices."""
    exams = list(slices)
    columns = ("dice", "sensitivity", "specificity")
    return {
        metric: np.concatenate([getattr(exam, column) for exam in exams]).tolist()
        for metric, column in zip(METRICS_2D, columns, strict=True)
    }


def _mean_values(rows: Iterable[Mapping[str, float | None]], metrics: Iterable[str]) -> Values:
    rows = list(rows)
    return {metric: _mean(row.get(metric) for row in rows) for metric in metrics}


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, None if there is none; `fsum` makes it independent of their order."""
    defined = [float(value) for value in values if not _undefined(value)]
    return math.fsum(defined) / len(defined) if defined else None


def _deviation(values: Iterable[float | None]) -> float | None:
    """Sample standard deviation of the defined values, whatever their order; None for fewer than two."""
    defined = [float(value) for value in values if not _undefined(value)]
    return stdev(defined) if len(defined) > 1 else None


def _known(values: Mapping[str, float | None]) -> Values:
    return {metric: _defined(values[metric]) for metric in (*METRICS_3D, *METRICS_2D) if metric in values}


def _defined(value: float | None) -> float | None:
    return None if _undefined(value) else float(value)


def _undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def dice_of_exams(summary: Mapping[str, Any]) -> dict[str, float]:
    """Exam → mean Dice over its structures, from a site's summary; exams for which none is defined are left out."""
    dice = {}
    for case in summary.get("metric_per_case", []):
        values = [own["dice"] for own in case["metrics"].values() if own["dice"] is not None]
        if values:
            dice[case["case"]] = sum(values) / len(values)
    return dice
