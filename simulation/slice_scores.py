"""The 2D scores that finished runs leave, slice by slice, pooled over exams, sites and folds."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .runs import SLICE_SCORES, SUMMARY

METRICS = ("dice", "sensitivity", "specificity")

SliceScores = dict[str, NDArray[np.float64]]  # 2D metric → scores in percent, [slices]; NaN where undefined
FoldScores = dict[int, SliceScores]  # fold → scores of all its sites


def read_slices(place: Path) -> dict[str, SliceScores]:
    """Site → scores of all slices of its test exams; nothing where the run in this folder is not finished."""
    if not (place / SUMMARY).is_file() or not (place / SLICE_SCORES).is_file():
        return {}
    content = json.loads((place / SLICE_SCORES).read_text(encoding="utf-8"))
    return {
        site: together(
            {metric: 100 * np.asarray(scores[metric], np.float64) for metric in METRICS}  # null becomes NaN
            for _, scores in sorted(exams.items())
        )
        for site, exams in content.items()
    }


def together(parts: Iterable[SliceScores]) -> SliceScores:
    """Several samples as one; an empty one where there is none."""
    parts = list(parts)
    return {metric: np.concatenate([np.empty(0), *(part[metric] for part in parts)]) for metric in METRICS}
