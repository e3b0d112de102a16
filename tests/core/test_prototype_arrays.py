"""Prototypes in a message: their size, their way there and back, and what is wrong with those that are none."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtmd_core.config import NetworkConfig
from mtmd_core.domain_mixture import log_push, mix, most_log_push, side_by_side
from mtmd_core.losses.prototype_contrast import contrast_parts
from mtmd_core.minimum import LOCAL, Minimum
from mtmd_core.networks.build import count_parameters
from mtmd_core.prototype_arrays import Fault, array_shapes, fault_of, from_arrays, refusal, to_arrays
from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import Prototype
from mtmd_core.wire import array_shape, misfit

ATT_UNET = [32, 64, 128, 256, 512, 256, 128, 64, 32]
"""Numbers of an embedding at the nine scales of Att-UNet at full width."""
SIZES = [4, 16, 24]


def prototypes(sizes: list[int] = SIZES, count: int = 120) -> list[Prototype]:
    random = torch.Generator().manual_seed(0)
    made = []
    for size in sizes:
        centres = torch.randn(2, size, generator=random).repeat_interleave(count // 2, dim=0)
        embeddings = F.normalize(3 * centres + torch.randn(count, size, generator=random), dim=1)
        made.append(summarise(embeddings, torch.arange(count) % 4))
    return made


def test_they_come_back_as_they_were():
    sent = prototypes()
    arrays = to_arrays(sent)
    assert misfit(array_shapes(SIZES), {name: array_shape(array) for name, array in arrays.items()}) is None
    for ours, theirs in zip(from_arrays(arrays, SIZES), sent, strict=True):
        assert (ours.slices, ours.exams) == (theirs.slices, theirs.exams) == (120, 4)
        for name, tensor in theirs.tensors().items():
            torch.testing.assert_close(ours.tensors()[name], tensor, rtol=1e-6, atol=1e-9, msg=name)
    assert all((array == to_arrays(from_arrays(arrays, SIZES))[name]).all() for name, array in arrays.items())
    assert refusal(arrays, SIZES) is None


def test_nine_scales_are_a_hundredth_of_the_parameters_both_ways():
    """A site sends its own and gets all three of a federation like the paper's."""
    shapes = array_shapes(ATT_UNET)
    numbers = sum(int(np.prod(shape)) for _, shape in shapes.values())
    assert 15_000 < numbers < 17_000
    assert {dtype for dtype, _ in shapes.values()} == {"float32"}
    assert 4 * (1 + 3) * numbers < 0.01 * 4 * count_parameters(NetworkConfig(width=32))


def test_a_far_cluster_does_not_make_it_longer():
    few, many = prototypes([16], 60), prototypes([16], 1200)
    assert int((few[0].shares > 0).sum()) < int((many[0].shares > 0).sum())
    assert {n: a.shape for n, a in to_arrays(few).items()} == {n: a.shape for n, a in to_arrays(many).items()}


def changed(name: str, change) -> Prototype:
    own = prototypes([16])[0]
    value = change(getattr(own, name).clone() if isinstance(getattr(own, name), Tensor) else getattr(own, name))
    return replace(own, **{name: value})


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("mean", lambda x: x * torch.nan, Fault.NOT_FINITE),
        ("log_nu", lambda x: x + torch.inf, Fault.NOT_FINITE),
        ("covariances", lambda x: x * torch.inf, Fault.NOT_FINITE),
        ("slices", lambda _: 49, Fault.TOO_FEW),
        ("slices", lambda _: -1, Fault.TOO_FEW),
        ("exams", lambda _: 2, Fault.TOO_FEW),
        ("exams", lambda _: 121, Fault.TOO_FEW),
        ("mean", lambda x: 1.1 * F.normalize(x, dim=0), Fault.MEAN_TOO_LONG),
        ("residual", lambda x: x - 0.1, Fault.NEGATIVE_VARIANCE),
        ("covariances", lambda x: -x, Fault.NEGATIVE_VARIANCE),
        ("covariances", lambda x: x + 3 * torch.eye(8), Fault.TOO_SPREAD),
        ("centres", lambda x: x + 3, Fault.TOO_SPREAD),
        ("weighted_centres", lambda x: x - 3, Fault.TOO_SPREAD),
        ("directions", lambda x: 2 * x, Fault.NOT_ORTHONORMAL),
        ("directions", lambda x: x[[0, 0, 2, 3, 4, 5, 6, 7]], Fault.NOT_ORTHONORMAL),
        ("shares", lambda x: x + 0.1, Fault.NOT_SHARES),
        ("weighted_shares", lambda x: x - torch.tensor([1.5, -1.5, 0, 0]), Fault.NOT_SHARES),
        ("mean", lambda x: 0.5 * x, Fault.NOT_UNIT_NORM),
        ("residual", lambda x: x + 0.1, Fault.NOT_UNIT_NORM),
        ("log_nu", lambda x: x + 10, Fault.IMPOSSIBLE_NU),
        ("log_nu", lambda x: x - 10, Fault.IMPOSSIBLE_NU),
        ("site_slices", lambda _: 1_000_001, Fault.TOO_MANY),
        ("site_slices", lambda _: 119, Fault.TOO_MANY),
    ],
)
def test_what_is_no_prototype_is_told_by_name(name, change, fault):
    wrong = changed(name, change)
    assert fault_of(wrong) is fault
    sound = prototypes([16])[0]
    if name not in ("slices", "exams", "site_slices"):
        wrong = replace(wrong, slices=sound.slices, exams=sound.exams, site_slices=sound.site_slices)
        assert refusal(to_arrays([sound, wrong]), [16, 16]) == f"{fault}: s2"


def test_a_policy_may_ask_for_more_and_a_site_for_less():
    own = prototypes([16])[0]
    assert fault_of(own) is None
    assert fault_of(own, minimum=Minimum(exams=5)) is Fault.TOO_FEW
    assert fault_of(own, minimum=Minimum(slices=200)) is Fault.TOO_FEW
    assert fault_of(replace(own, exams=1), minimum=LOCAL) is None


def test_no_more_slices_than_the_site_has():
    own = prototypes([16])[0]
    assert fault_of(own, most_slices=120) is None
    assert fault_of(own, most_slices=119) is Fault.TOO_MANY
    assert refusal(to_arrays([own]), [16], most_slices=119) == f"{Fault.TOO_MANY}: s1"


@pytest.mark.parametrize("slices", [10**4, 10**6])
def test_a_slice_count_buys_no_inverse_denominator_that_the_moments_contradict(slices):
    """All else as an honest site sends it."""
    own = prototypes([16])[0]
    forged = replace(own, slices=slices, site_slices=slices, log_nu=torch.tensor(math.log(slices) - 10))
    assert fault_of(forged) is Fault.CONTRADICTED_NU
    assert fault_of(replace(own, slices=slices, site_slices=slices)) is None


def test_weighted_centres_outside_the_sphere_buy_no_push():
    """Similarities to them can exceed 1."""
    own = prototypes([16])[0]
    away = replace(own, weighted_centres=own.weighted_centres + 1.3 * F.one_hot(torch.tensor(0), 8))
    assert fault_of(away) is Fault.CONTRADICTED_NU


def test_what_is_admitted_pushes_other_sites_no_harder_than_the_bound_says():
    """The gradient at other embeddings of the unit sphere, wherever they lie."""
    own = prototypes([16])[0]
    room = most_log_push(0.1) - log_push(own)
    largest = replace(own, slices=10**6, site_slices=10**6, log_nu=own.log_nu + room)
    assert fault_of(largest) is None
    mixture = mix({"a": prototypes([16, 16])[1:], "b": [largest]})
    z = F.normalize(torch.randn(500, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    z = torch.cat([z, F.normalize(own.mean + own.weighted_centres @ own.directions, dim=1)]).requires_grad_()
    negative = contrast_parts([z], mixture, "a", 0.1).negative
    assert float(negative.detach().max()) < 1.2 * math.exp(most_log_push(0.1))
    (gradient,) = torch.autograd.grad(negative.sum(), z)
    assert float(gradient.norm(dim=1).max()) < 1.2 * math.exp(most_log_push(0.1)) / 0.1


def test_over_its_own_slices_the_push_is_one_in_the_mean():
    """``mean_b ν Ẽ(z_b) = 1``, and its maximum near the slices."""
    random = torch.Generator().manual_seed(5)
    z = F.normalize(torch.ones(16) + 0.1 * torch.randn(300, 16, generator=random), dim=1)
    own = summarise(z, torch.arange(300) % 4)
    _, weighted = side_by_side({"": [own]}).log_mean_exponentials([z], 0.1)
    push = own.log_nu + weighted[0, 0]
    assert float(push.exp().mean()) == pytest.approx(1, abs=0.01)
    assert float(push.max()) < log_push(own) + 0.05 < 0.5


def test_counts_have_no_size_at_which_they_cannot_be_looked_at():
    for slices in (2.0**64, 3e38):
        arrays = to_arrays(prototypes()) | {"counts": np.float32([slices, 4, slices])}
        assert refusal(arrays, SIZES) == f"{Fault.TOO_MANY}: s1"


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_sound_prototypes_pass_at_every_temperature(temperature):
    random = torch.Generator().manual_seed(1)
    for spread in (0.0, 0.01, 0.3, 3.0):
        points = torch.ones(16) + spread * torch.randn(90, 16, generator=random)
        own = summarise(F.normalize(points, dim=1), torch.arange(90) % 4, temperature)
        assert fault_of(own, temperature) is None


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.9])
def test_embeddings_on_a_ring_pass_although_they_push_hardest_where_none_is(temperature, similarity):
    around = torch.randn(400, 63, generator=torch.Generator().manual_seed(3))
    across = math.sqrt(1 - similarity**2) * F.normalize(around, dim=1)
    embeddings = torch.cat([torch.full((400, 1), similarity), across], dim=1)
    for ring in (embeddings, torch.cat([embeddings, -embeddings])):
        own = summarise(ring, torch.arange(len(ring)) % 4, temperature)
        assert fault_of(own, temperature) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"s1/mean": None}, "missing s1/mean"),
        ({"s4/mean": np.zeros(4, np.float32)}, "unknown s4/mean"),
        ({"s2/mean": np.zeros(17, np.float32)}, "s2/mean is float32[17], expected float32[16]"),
        ({"s2/mean": np.zeros(16)}, "s2/mean is float64[16]"),
        ({"counts": np.array([np.nan, 3, 120], np.float32)}, "not finite: counts"),
        ({"counts": np.array([120.5, 3, 121], np.float32)}, "no whole numbers: counts"),
        ({"counts": np.array([120, -3, 120], np.float32)}, "no whole numbers: counts"),
    ],
)
def test_arrays_of_another_kind_are_refused(change, reason):
    arrays = {name: array for name, array in (to_arrays(prototypes()) | change).items() if array is not None}
    assert reason in refusal(arrays, SIZES)
    with pytest.raises(ValueError):
        from_arrays(arrays, SIZES)
