"""A network on whole exams: predictions in the exams' own grids, and their scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from mtmd_core.data.site_data import SiteData
from mtmd_core.inference import SLICES_AT_ONCE, predict_exam
from mtmd_core.metrics import score_exam, score_slices
from mtmd_core.networks.autoencoder import Autoencoder, one_hot
from mtmd_core.scores import SliceScores, summarise_site
from mtmd_core.strategies import LabelSpace


@dataclass(frozen=True)
class SiteScores:
    """A site's full summary (see :func:`mtmd_core.scores.summarise_site`), and its 2D scores slice by slice.

    ``slices``: exam → ``index`` (along the slice axis), ``dice``, ``sensitivity``, ``specificity`` → a value for each slice
    whose ground truth has a structure, None where it is undefined; as JSON holds it.
    """

    summary: dict
    slices: Mapping[str, Mapping[str, list]] = field(default_factory=dict)

    @property
    def dice(self) -> float:
        """Mean Dice over structures."""
        return self.summary["foreground_mean"]["dice"]

    def metrics(self, part: str) -> dict[str, float]:
        """Defined values by name, ``<part>/foreground_mean/<metric>`` and ``<part>/mean/structure_<n>/<metric>``.

        Structures are numbered by their label value; names stay in the summary.
        """
        groups = {"foreground_mean": self.summary["foreground_mean"]} | {
            f"mean/structure_{label}": values for label, values in enumerate(self.summary["mean"].values(), start=1)
        }
        return {
            f"{part}/{group}/{metric}": value
            for group, values in groups.items()
            for metric, value in values.items()
            if value is not None
        }


def evaluate_exams(network: nn.Module, space: LabelSpace, data: SiteData, exams: Sequence[str]) -> SiteScores:
    """Segment and score some exams of a site, in the network's own precision however it was trained.

    Args:
        network: any mode; it is left in evaluation mode.
        space: where the site's structures lie among the network's classes.
        exams: names of exams of ``data``.
    """
    network.eval()
    scores, slices, foreign = {}, {}, {}
    for name in exams:
        exam = data.exams[name]
        prediction = predict_exam(network, space, exam.images, exam.grid)
        scores[name] = score_exam(exam.truth, prediction.labels, space.structures, exam.spacing_mm)
        slices[name] = score_slices(exam.truth, prediction.labels, space.structures, data.axis)
        foreign[name] = prediction.foreign_share
    return SiteScores(summarise_site(scores, data.structures, slices, foreign), _plain(slices))


def _plain(slices: Mapping[str, SliceScores]) -> dict[str, dict[str, list]]:
    return {
        exam: {
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in scores._asdict().items()
        }
        for exam, scores in slices.items()
    }


@torch.inference_mode()
def reconstruction_dice(autoencoder: Autoencoder, space: LabelSpace, exams: Sequence[np.ndarray]) -> float:
    """Mean Dice over structures between label maps and what an auto-encoder makes of them.

    Args:
        autoencoder: any mode; it is left in evaluation mode.
        space: where the site's structures lie among the auto-encoder's classes.
        exams: label slices [S, H, W] of each exam, background 0.

    Returns:
        The mean over exams of the mean over the structures of the whole stack; 1 for a structure absent from both.
    """
    autoencoder.eval()
    device = next(autoencoder.parameters()).device
    scores = []
    for labels in exams:
        truth = torch.from_numpy(np.array(labels)).to(device)
        truth = torch.where(truth > 0, truth.int() + space.offset, 0)
        found = [
            autoencoder(one_hot({space.domain: part}, {space.domain: space.classes})).logits[space.domain].argmax(dim=1)
            for part in truth.split(SLICES_AT_ONCE)
        ]
        predicted = torch.cat(found)
        for structure in range(space.offset + 1, space.offset + space.structures + 1):
            one, other = truth == structure, predicted == structure
            total = int(one.sum()) + int(other.sum())
            scores.append(2 * int((one & other).sum()) / total if total else 1.0)
    return float(np.mean(scores))
