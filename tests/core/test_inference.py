import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtmd_core.data.site_data import CutExam, SiteData
from mtmd_core.data.slices import cut_image, cut_labels, slice_grid
from mtmd_core.evaluation import evaluate_exams
from mtmd_core.inference import SLICES_AT_ONCE, predict_exam, predict_probabilities
from mtmd_core.networks.output import NetworkOutput
from mtmd_core.strategies import LabelSpace

KNEE = LabelSpace("knee", offset=0, structures=2, classes=3)


class Levels(nn.Module):
    """A network that reads an image's grey level as its class: level c belongs to class ``classes[c]``."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.arange(len(classes), dtype=torch.float32))
        self.classes = classes

    def forward(self, images: Tensor, shares: dict[str, int]) -> NetworkOutput:
        distances = -20 * (images - self.centres[None, :, None, None]).abs()
        logits = torch.full((len(images), max(self.classes) + 1, *images.shape[2:]), -100.0)
        for level, label in enumerate(self.classes):
            logits[:, label] = torch.maximum(logits[:, label], distances[:, level])
        return NetworkOutput(dict.fromkeys(shares, logits), [])


def exam(axis: int = 2, size: int = 64) -> CutExam:
    """Two boxes of grey levels 1 and 2; 21 planes, more than are predicted at once."""
    truth = np.zeros((21, 24, 21) if axis == 0 else (24, 20, 21), np.uint8)
    truth[4:12, 5:11, 5:15] = 1
    truth[14:18, 6:15, 4:17] = 2
    assert truth.shape[axis] > SLICES_AT_ONCE
    spacing = tuple(2.0 if each == axis else 0.5 for each in range(3))
    grid = slice_grid(truth.shape, spacing, axis, size)
    # Nearest, as labels are: between levels there is no other level.
    images = cut_labels(truth, grid).astype(np.float32)
    return CutExam("a", images, cut_labels(truth, grid), truth, grid, spacing, {})


@pytest.mark.parametrize("axis", [0, 2])
def test_a_perfect_network_gives_the_exams_own_label_map(axis):
    case = exam(axis)
    prediction = predict_exam(Levels([0, 1, 2]).eval(), KNEE, case.images, case.grid)
    assert prediction.labels.dtype == np.uint8
    np.testing.assert_array_equal(prediction.labels, case.truth)
    assert prediction.foreign_share == 0


def test_in_a_union_the_sites_own_classes_count_and_others_are_background():
    """Structures 1 and 2 are classes 4 and 5 of 7; level 2 is answered with class 2, which is another site's."""
    space = LabelSpace("every_site", offset=3, structures=2, classes=7)
    case = exam()
    own = predict_exam(Levels([0, 4, 5]).eval(), space, case.images, case.grid)
    np.testing.assert_array_equal(own.labels, case.truth)
    assert own.foreign_share == 0
    for stranger in (2, 3, 6):
        foreign = predict_exam(Levels([0, 4, stranger]).eval(), space, case.images, case.grid)
        np.testing.assert_array_equal(foreign.labels, np.where(case.truth == 1, 1, 0))
        assert foreign.foreign_share == pytest.approx((case.truth == 2).mean())


def test_structures_keep_their_largest_component_only():
    case = exam()
    images = case.images.copy()
    images[0, 30:33, 30:33] = 1  # a crumb far from the box
    prediction = predict_exam(Levels([0, 1, 2]).eval(), KNEE, images, case.grid)
    np.testing.assert_array_equal(prediction.labels, case.truth)


def test_probabilities_are_the_softmax_of_the_domains_logits():
    images = np.float32([[[0.0, 1.0]]])
    images.flags.writeable = False  # as those from a memory-mapped file
    result = predict_probabilities(Levels([0, 1]).eval(), "knee", images)
    odds = np.exp([[0, -20], [-20, 0]])
    expected = odds / odds.sum(axis=0)
    np.testing.assert_allclose(result.numpy()[0, :, 0], expected, rtol=1e-6)
    assert not result.requires_grad


def test_scores_of_exams_are_summarised_without_their_names_leaving():
    case = exam()
    data = SiteData("knee", ("femur", "patella"), 2, {"a": case})
    network = Levels([0, 1, 0])  # never answers structure 2
    scores = evaluate_exams(network, KNEE, data, ["a"])
    assert not network.training
    assert scores.dice == pytest.approx(0.5)
    metrics = scores.metrics("test")
    assert metrics["test/foreground_mean/dice"] == pytest.approx(0.5)
    assert metrics["test/mean/structure_1/dice"] == 1
    assert metrics["test/mean/structure_2/dice"] == 0
    assert all(isinstance(value, float) for value in metrics.values())
    assert not any(word in name for name in metrics for word in ("femur", "patella", "/a/"))
    assert scores.summary["mean"].keys() == {"femur", "patella"}


def test_an_image_goes_the_way_of_its_labels():
    """Linear images and nearest labels lie on the same grid: thresholding the one gives the other but for edges."""
    case = exam()
    images = cut_image((case.truth > 0).astype(np.float32), case.grid)
    disagree = (images > 0.5) != (case.labels > 0)
    assert disagree.mean() < 0.01
