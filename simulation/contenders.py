"""Methods side by side in numbers: means and deviations over folds, paired differences, statistics of slices, curves.

A *contender* is what finished runs of one method left: the same words, one run a fold. Everything here can be written as JSON.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtmd_core.config_files import decisive
from mtmd_core.page.numbers import METRICS
from mtmd_core.page.rounds import VALIDATION_DICE
from mtmd_core.statistics import (
    Difference,
    mean_and_deviation,
    normality_p,
    paired_difference,
    same_distribution_p,
    significant,
    spread,
)

from .comparison import REFERENCE, empty_if_undefined
from .images import images_a_site
from .slice_scores import METRICS as SLICE_METRICS
from .slice_scores import read_slices, together
from .tested_exams import finished_run, same_exams

MEAN = "mean of sites"
Spread = dict[str, dict[str, float | None]]  # metric → "mean" and "deviation"


@dataclass(frozen=True)
class Contender:
    """A method: its title, and fold → the folder and the content (summary, or what an unfinished run tells) of a run."""

    title: str
    runs: Mapping[int, tuple[Path, Mapping[str, Any]]]

    @property
    def about(self) -> Mapping[str, Any]:
        """What any of its runs says of itself: mode, strategy, network."""
        return next(iter(self.runs.values()))[1]

    @property
    def finished(self) -> dict[int, Mapping[str, Any]]:
        """Fold → content of the runs that have test scores."""
        return {fold: content for fold, (_, content) in sorted(self.runs.items()) if "sites" in content}

    @property
    def sites(self) -> list[str]:
        """The sites that it is tested on."""
        return sorted({site for content in self.finished.values() for site in content["sites"]})

    def over_folds(self, value: Callable[[Mapping[str, Any]], float | None]) -> dict[str, float | None]:
        """Mean and sample standard deviation over folds of what ``value`` finds in a summary."""
        mean, deviation = mean_and_deviation([value(content) for content in self.finished.values()])
        return {"mean": empty_if_undefined(mean, 6), "deviation": empty_if_undefined(deviation, 6)}

    def dice(self, site: str) -> dict[int, float | None]:
        """Fold → Dice of a site, or of ``MEAN``: of all sites."""
        return {fold: _score(content, site, "dice") for fold, content in self.finished.items()}


def compare(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Everything that a page on several methods shows.

    Returns:
        ``methods``: a list, in the order given, of each one's facts and of its scores as fractions and mm;
        ``differences`` of Dice in percentage points to the method that ``reference_of`` names, paired over the folds that
        both tested on the same exams, or over sites where there is one such fold, and ``other_exams``, the folds that they did
        not; ``slice_statistics``: those of Table 4 of the paper; ``curves``: title → points of
        training steps and mean validation Dice; ``similarities`` of embeddings within and between sites at every scale.
    """
    return {
        "methods": [_method(each) for each in contenders],
        "differences": [line for each in contenders for line in _differences(each, reference_of(each, contenders))],
        "slice_statistics": [line for each in contenders for line in _slices(each, reference_of(each, contenders))],
        "curves": {each.title: curve(each) for each in contenders},
        "similarities": [line for each in contenders for line in _similarities(each)],
    }


def reference_of(contender: Contender, contenders: Sequence[Contender]) -> Contender | None:
    """What a method is compared with: the same network on each site alone, else the first one; None for itself.

    Of several that are alone, the one that was trained by the most of the method's own words.
    """
    alone = [
        each
        for each in contenders
        if each.about["strategy"] == REFERENCE and each.about["network"] == contender.about["network"]
    ]

    own = decisive(contender.about["configuration"]).items()
    if contender.about["strategy"] != REFERENCE:
        alone.sort(key=lambda each: -len(own & decisive(each.about["configuration"]).items()))
    reference = alone[0] if alone else contenders[0]
    return None if reference is contender else reference


def _method(contender: Contender) -> dict[str, Any]:
    about, summaries = contender.about, list(contender.finished.values())
    metrics = [
        name for name in METRICS if any(name in _values(each, site) for each in summaries for site in each["sites"])
    ]
    return {
        "title": contender.title,
        **{word: about[word] for word in ("mode", "strategy", "network")},
        "folds": list(contender.finished),
        "unfinished": len(contender.runs) - len(summaries),
        "images_a_site": images_a_site(each.get("images", {}) for each in summaries),
        "seconds": sum(each.get("seconds", 0) for each in summaries) if summaries else None,
        "bytes": sum(_bytes(each) for each in summaries) if about["mode"] == "federated" else None,
        "sites": {site: _spreads(contender, site, metrics) for site in contender.sites},
        "mean": _spreads(contender, MEAN, metrics),
        "structures": _structures(contender, metrics),
        "worst_site": _worst(contender),
    }


def _spreads(contender: Contender, site: str, metrics: Iterable[str]) -> Spread:
    return {
        metric: contender.over_folds(lambda content, metric=metric: _score(content, site, metric)) for metric in metrics
    }


def _structures(contender: Contender, metrics: Sequence[str]) -> dict[str, dict[str, Spread]]:
    """Site → structure → metric → mean and deviation over folds."""
    known: dict[str, dict[str, Spread]] = {}
    for site in contender.sites:
        names = dict.fromkeys(
            name for content in contender.finished.values() for name in content["sites"].get(site, {}).get("mean", {})
        )
        for name in names:
            known.setdefault(site, {})[name] = {
                metric: contender.over_folds(
                    lambda content, place=(site, name, metric): _structure_score(content, *place)
                )
                for metric in metrics
                if not metric.endswith("_2d")
            }
    return known


def _worst(contender: Contender) -> dict[str, Any] | None:
    means = {site: contender.over_folds(lambda content, s=site: _score(content, s, "dice")) for site in contender.sites}
    known = {site: found["mean"] for site, found in means.items() if found["mean"] is not None}
    worst = min(known, key=known.get, default=None)
    return None if worst is None else {"name": worst, "dice": known[worst]}


def _differences(contender: Contender, reference: Contender | None) -> list[dict[str, Any]]:
    if reference is None:
        return []
    sites = [site for site in contender.sites if site in reference.sites]
    lines = [_difference(contender, reference, site) for site in sites]
    if sites == contender.sites == reference.sites:
        lines.append(_difference(contender, reference, MEAN))
    return [line for line in lines if line["mean"] is not None or line["other_exams"]]


def _difference(contender: Contender, reference: Contender, site: str) -> dict[str, Any]:
    own, other = contender.dice(site), reference.dice(site)
    both = sorted(own.keys() & other.keys())
    folds = [fold for fold in both if _same_tests(contender, reference, fold, site)]
    pairs, over = ([own[fold] for fold in folds], [other[fold] for fold in folds]), "folds"
    if len(folds) == 1 and site == MEAN:
        pairs = tuple([each.dice(name)[folds[0]] for name in contender.sites] for each in (contender, reference))
        over = "sites"
    found: Difference = paired_difference(*([None if v is None else 100 * v for v in values] for values in pairs))
    return {
        "method": contender.title,
        "reference": reference.title,
        "site": site,
        "mean": empty_if_undefined(found.mean),
        "low": empty_if_undefined(found.low),
        "high": empty_if_undefined(found.high),
        "pairs": found.count,
        "over": over,
        "other_exams": [fold for fold in both if fold not in folds],
    }


def _same_tests(contender: Contender, reference: Contender, fold: int, site: str) -> bool:
    """Whether two methods' test exams of a site, or of every site, are the same ones in a fold."""
    sites = contender.sites if site == MEAN else [site]
    one, other = (finished_run(each.finished[fold], each.runs[fold][0]) for each in (contender, reference))
    return same_exams(one, other, sites)


def _slices(contender: Contender, reference: Contender | None) -> list[dict[str, Any]]:
    """A line a 2D metric over the slices of all sites and folds; against the reference over the exams that both have."""
    own = {fold: read_slices(contender.runs[fold][0]) for fold in contender.finished}
    other = {} if reference is None else {f: read_slices(reference.runs[f][0]) for f in reference.finished if f in own}
    pooled = together(each for sites in own.values() for each in sites.values())
    both = [(fold, site) for fold, sites in other.items() for site in sites if site in own[fold]]
    common = [(fold, site) for fold, site in both if _same_tests(contender, reference, fold, site)]
    lines = []
    for metric in SLICE_METRICS:
        found = spread(pooled[metric])
        if found.count:
            p = same_distribution_p(*(together(each[f][s] for f, s in common)[metric] for each in (own, other)))
            lines.append(
                {
                    "method": contender.title,
                    "metric": metric,
                    "slices": found.count,
                    "mean": empty_if_undefined(found.mean),
                    "up": empty_if_undefined(found.up),
                    "down": empty_if_undefined(found.down),
                    "normality_p": _p_value(normality_p(pooled[metric])),
                    "reference": None if reference is None else reference.title,
                    "same_distribution_p": _p_value(p),
                    "significant": significant(p),
                }
            )
    return lines


def _similarities(contender: Contender) -> list[dict[str, Any]]:
    """A line a scale: mean cosine similarity within sites and between them, over sites or pairs of them, then over folds."""
    known: dict[str, dict[bool, list[float]]] = {}
    for content in contender.finished.values():
        for line in content.get("similarities", ()):
            between = line["domain"] != line["other_domain"]
            known.setdefault(line["scale"], {}).setdefault(between, []).append(line["mean"])
    return [
        {"method": contender.title, "scale": scale}
        | {name: _mean(means.get(between)) for name, between in (("within", False), ("between", True))}
        for scale, means in known.items()
    ]


def _mean(values: Sequence[float] | None) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def curve(contender: Contender) -> list[tuple[float, float]]:
    """Steps that a site has been trained for and the validation Dice then: validation by validation, means over sites and folds.

    What not as many folds have measured as any other validation is left out.
    """
    known: dict[int, list[tuple[float, float]]] = {}
    for _, content in contender.runs.values():
        for number, point in _validations(content.get("round_metrics", [])).items():
            known.setdefault(number, []).append(point)
    most = max(map(len, known.values()), default=0)
    whole = [points for _, points in sorted(known.items()) if len(points) == most]
    return [tuple(sum(values) / most for values in zip(*points, strict=True)) for points in whole]


def validation_curve(lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Training steps of a site (their mean over sites, where these differ) and mean validation Dice of all sites.

    In a federation's lines, a Dice belongs to the round before; a point that not all sites have measured is left out.
    """
    return list(_validations(lines).values())


def _validations(lines: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """The points of :func:`validation_curve` by what they have in common with other folds': the round; of pooled training, whose
    folds may take other steps, which validation it is."""
    sites, points = {line["site"] for line in lines}, {}
    pooled = any("step" in line for line in lines)
    for number, place in enumerate(sorted({_place(line) for line in lines if VALIDATION_DICE in line})):
        measured = {line["site"]: line[VALIDATION_DICE] for line in lines if _measured(line, place)}
        steps = place
        if not pooled:
            steps = sum(line.get("steps", 0) for line in lines if line["round"] <= place) / len(sites)
        if measured.keys() == sites:
            points[number if pooled else place] = (steps, sum(measured.values()) / len(sites))
    return points


def _place(line: Mapping[str, Any]) -> int:
    return line.get("step", line.get("validated_round", line["round"]))


def _measured(line: Mapping[str, Any], place: int) -> bool:
    return VALIDATION_DICE in line and _place(line) == place


def _values(content: Mapping[str, Any], site: str) -> Mapping[str, float | None]:
    return content["sites"].get(site, {}).get("foreground_mean") or {}


def _score(content: Mapping[str, Any], site: str, metric: str) -> float | None:
    if site != MEAN:
        return _values(content, site).get(metric)
    values = [_values(content, each).get(metric) for each in content["sites"]]
    return None if None in values or not values else sum(values) / len(values)


def _structure_score(content: Mapping[str, Any], site: str, structure: str, metric: str) -> float | None:
    return content["sites"].get(site, {}).get("mean", {}).get(structure, {}).get(metric)


def _bytes(content: Mapping[str, Any]) -> int:
    sums = [
        *content.get("round_metrics_totals", {}).values(),
        *content.get("autoencoder_round_metrics_totals", {}).values(),
    ]
    return sum(own.get("bytes_to_site", 0) + own.get("bytes_from_site", 0) for own in sums)


def _p_value(p: float) -> float | None:
    """Three significant digits, None for NaN."""
    return None if p != p else float(f"{p:.3g}")
