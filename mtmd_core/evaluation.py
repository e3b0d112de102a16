"""A network on whole exams: predictions in the exams' own grids, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mtmd_core.data.site_data import SiteData
from mtmd_core.inference import predict_exam
from mtmd_core.metrics import score_exam, score_slices
from mtmd_core.scores import summarise_site
from mtmd_core.strategies import LabelSpace


@dataclass(frozen=True)
class SiteScores:
    """A site's full summary (see :func:`mtmd_core.scores.summarise_site`)."""

    summary: dict

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
    """Segment and score some exams of a site.

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
    return SiteScores(summarise_site(scores, data.structures, slices, foreign))
