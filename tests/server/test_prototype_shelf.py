"""Which prototypes the server keeps, for how long, and what it takes for one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mtmd_core.config import NetworkConfig, RunConfig
from mtmd_core.config_files import compose
from mtmd_core.prototype_arrays import to_arrays
from mtmd_core.prototype_summary import summarise
from mtmd_core.wire import array_shape, misfit
from server.checkpoints import Shelved
from server.phases import autoencoder_phase, segmentation_phase
from server.prototype_shelf import PrototypeShelf

SIZES = [4, 8, 16, 32, 64, 32, 16, 8, 4]


def config(*words: str) -> RunConfig:
    return compose("federation", ["network.width=4", "autoencoder.width=4", *words])


def shelf(strategy: str = "dsl_msc", *words: str) -> PrototypeShelf:
    phase = segmentation_phase(config(f"strategy={strategy}", *words))
    return PrototypeShelf(phase.network, phase.contrast, 2, {})


def arrays(seed: int = 0, sizes: list[int] = SIZES, count: int = 60) -> dict[str, np.ndarray]:
    random = torch.Generator().manual_seed(seed)
    scales = [F.normalize(1 + torch.randn(count, size, generator=random), dim=1) for size in sizes]
    return to_arrays([summarise(scale, torch.arange(count) % 4) for scale in scales])


def test_a_site_is_given_the_last_of_all_others_in_the_order_of_their_names():
    own = shelf()
    assert own.others("ankle", 1) == []
    for place, site in enumerate(("shoulder", "knee", "ankle")):
        own.put(site, 1, arrays(place))
    own.put("knee", 2, arrays(7))
    given = own.others("ankle", 3)
    assert [float(each["s1/mean"][0]) for each in given] == [
        float(arrays(seed)["s1/mean"][0]) for seed in (7, 0)
    ]  # knee, shoulder


def test_what_is_too_old_is_not_handed_on():
    own = shelf()
    own.put("knee", 3, arrays())
    assert [len(own.others("ankle", round_)) for round_ in (4, 5, 6)] == [1, 1, 0]
    own.put("knee", 6, arrays())
    assert len(own.others("ankle", 7)) == 1


def test_a_run_that_goes_on_finds_its_shelf_as_it_was():
    phase = segmentation_phase(config("strategy=dsl_msc"))
    again = PrototypeShelf(phase.network, phase.contrast, 5, {"knee": Shelved(4, arrays())})
    assert len(again.others("ankle", 5)) == 1


def test_the_scales_are_those_of_the_strategy_and_the_network():
    given = {name: array_shape(array) for name, array in arrays().items()}
    assert misfit(shelf().expected, given) is None
    assert shelf("dsl_ssc").sizes == [64]
    phase = autoencoder_phase(config("strategy=dsl_msc_mjap"))
    assert PrototypeShelf(phase.network, phase.contrast, 5, {}).sizes == SIZES
    assert phase.network == NetworkConfig("autoencoder", 4)
    assert phase.contrast.weight == 0.05
    assert autoencoder_phase(config("strategy=dsl_mjap")).contrast is None
    assert autoencoder_phase(config("strategy=dsl_msc")) is None


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("s3/mean", lambda x: x * np.nan, "not finite: s3"),
        ("s1/mean", lambda x: 3 * x, "a mean longer than any embedding: s1"),
        ("s9/residual", lambda x: x - 1, "a negative variance: s9"),
        ("counts", lambda _: np.float32([49, 4, 60]), "too few exams or slices: s1"),
        ("s2/directions", lambda x: 2 * x, "directions that are not orthonormal: s2"),
    ],
)
def test_what_can_be_no_prototype_is_refused_by_name(name, change, reason):
    sound = arrays()
    assert shelf().refusal(sound) is None
    assert shelf().refusal(sound | {name: change(sound[name]).astype(np.float32)}) == reason


def test_a_coordinator_may_ask_for_more_exams_and_slices():
    assert shelf("dsl_msc", "prototypes.minimum_exams=5").refusal(arrays()) == "too few exams or slices: s1"
    assert shelf("dsl_msc", "prototypes.minimum_slices=61").refusal(arrays()) == "too few exams or slices: s1"
