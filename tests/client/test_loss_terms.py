"""What a site reports of its loss's terms, and that measuring their gradients changes nothing."""

from dataclasses import replace

import pytest
import torch
from asked import CONTRAST, PLAN, shared
from made_prototypes import prototype_arrays
from tiny_sites import write_sites

from client.learner import Learner
from client.site_state import MemoryState
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.objectives import CONTRAST as CONTRAST_TERM
from mtmd_core.objectives import CROSS_ENTROPY, PRIOR, PROXIMAL
from mtmd_core.training import optimiser_tensors
from mtmd_core.wire import METRIC_NAMES, Terms

TERMS = Terms(contrast=CONTRAST, others=(prototype_arrays(),))
PLANS = {
    "contrast": replace(PLAN, strategy="dsl_msc", slice_size=32, local_steps=3, proximal_mu=0.1),
    "lockstep": replace(PLAN, slice_size=32, lockstep_weight=0.5),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SiteData:
    folder = tmp_path_factory.mktemp("sites")
    return load_site("knee", write_sites(folder, sites={"knee": 2})["knee"], 32, "auto", folder / "cache")


def trained(data: SiteData, kind: str, validate: bool) -> tuple[Learner, list[dict[str, float]]]:
    """A learner after two rounds, and what it measured in each."""
    learner, state = Learner(PLANS[kind], data, torch.device("cpu")), MemoryState()
    measured = []
    for round_ in (1, 2):
        plan = replace(PLANS[kind], round=round_, validate=validate)
        learner.restore(plan, state)
        learner.receive(shared())
        measured.append(learner.train(plan, TERMS if kind == "contrast" else Terms(), None, None))
        learner.remember(plan, state)
    return learner, measured


@pytest.mark.parametrize(
    ("kind", "terms"), [("contrast", {CROSS_ENTROPY, CONTRAST_TERM, PROXIMAL}), ("lockstep", {CROSS_ENTROPY})]
)
def test_a_loss_is_told_term_by_term_and_gradients_where_a_round_is_validated(data, kind, terms):
    for validate in (False, True):
        for line in trained(data, kind, validate)[1]:
            losses = {name.removeprefix("loss/"): value for name, value in line.items() if name.startswith("loss/")}
            norms = {name.removeprefix("gradient_norm/") for name in line if name.startswith("gradient_norm/")}
            assert losses.keys() == terms
            assert line["loss"] == pytest.approx(sum(losses.values()), rel=1e-5)
            assert norms == (terms if validate else set())
            assert all(METRIC_NAMES["mean"].fullmatch(name) for name in line)


@pytest.mark.parametrize("kind", PLANS)
def test_measuring_gradients_changes_nothing_that_training_goes_on_from(data, kind):
    runs, random = [], []
    for validate in (False, True):
        torch.manual_seed(7)
        runs.append(trained(data, kind, validate))
        random.append(torch.get_rng_state())
    (plain, without), (measured, with_norms) = runs
    assert torch.equal(*random)
    for one, other in zip(without, with_norms, strict=True):
        assert one.items() <= other.items()
    for before, after in (
        (plain.network.state_dict(), measured.network.state_dict()),
        (optimiser_tensors(plain.network, plain.optimiser), optimiser_tensors(measured.network, measured.optimiser)),
        (plain.contrast.tensors(), measured.contrast.tensors()),
        [{name: p.grad for name, p in each.network.named_parameters()} for each in (plain, measured)],
    ):
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for name, array in plain.contribution.arrays.items():
        assert (array == measured.contribution.arrays[name]).all(), name


def test_a_contract_knows_every_term_and_its_levels():
    for term in (CROSS_ENTROPY, CONTRAST_TERM, PRIOR, PROXIMAL):
        for name in (f"loss/{term}", f"gradient_norm/{term}"):
            assert [bool(names.fullmatch(name)) for names in METRIC_NAMES.values()] == [False, True, True]
