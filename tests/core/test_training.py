import copy
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.devices import autocast, be_deterministic, choose_device, to_device
from mtmd_core.errors import ConfigurationError
from mtmd_core.losses.cross_entropy import domain_cross_entropy
from mtmd_core.networks.build import build_network
from mtmd_core.tensor_files import load_tensors, save_tensors
from mtmd_core.training import (
    Recipe,
    build_optimiser,
    load_optimiser_tensors,
    optimiser_tensors,
    train,
    train_step,
)

CLASSES = {"ankle": 3, "knee": 2}
RECIPE = Recipe(share=2, learning_rate=1e-2, seed=1)


def sources() -> dict[str, list[SliceSource]]:
    """Bright boxes on noise: what is bright is a structure."""
    random, found = np.random.default_rng(0), {}
    for domain, classes in CLASSES.items():
        labels = np.zeros((5, 32, 32), np.uint8)
        for index, label in enumerate(labels):
            for structure in range(1, classes):
                label[6 + index : 14 + index, 10 * structure - 6 : 10 * structure + 2] = structure
        images = (labels + 0.2 * random.standard_normal(labels.shape)).astype(np.float32)
        found[domain] = [SliceSource(domain, [images], [labels])]
    return found


def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    network = build_network(NetworkConfig(width=4), CLASSES, seed=0)
    return network, build_optimiser(network, RECIPE.learning_rate)


def test_the_loss_falls():
    network, optimiser = start()
    losses = []
    means = train(network, optimiser, sources(), RECIPE, range(30), lambda step, loss: losses.append((step, loss)))
    assert [step for step, _ in losses] == list(range(30))
    values = [loss for _, loss in losses]
    assert means == {
        "loss": pytest.approx(np.mean(values)),
        "loss/cross_entropy": pytest.approx(np.mean(values)),
    }
    assert np.mean(values[-5:]) < 0.5 * np.mean(values[:5])
    assert network.training


def test_a_step_is_adams_first_on_eq_1():
    """Adam's first step moves each parameter by the learning rate against the sign of its gradient."""
    network, optimiser = start()
    reference = copy.deepcopy(network)
    batch = draw_batch(sources(), seed=1, step=0, share=2)
    loss = train_step(network, optimiser, batch)["loss"]
    expected = domain_cross_entropy(reference(batch.images, batch.shares).logits, batch.labels)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    for (name, moved), parameter in zip(network.named_parameters(), reference.parameters(), strict=True):
        clear = parameter.grad.abs() > 1e-4  # far above Adam's ε of 1e-8
        step = (moved - parameter).detach()[clear]
        torch.testing.assert_close(
            step, -RECIPE.learning_rate * parameter.grad[clear].sign(), rtol=1e-3, atol=0, msg=name
        )


def test_training_in_two_parts_from_disk_is_training_in_one_bit_for_bit(tmp_path):
    whole, optimiser = start()
    train(whole, optimiser, sources(), RECIPE, range(6))

    network, first = start()
    train(network, first, sources(), RECIPE, range(3))
    save_tensors(tmp_path / "network", network.state_dict(), {})
    save_tensors(tmp_path / "optimiser", optimiser_tensors(network, first), {})

    network, second = start()
    network.load_state_dict(load_tensors(tmp_path / "network")[0])
    load_optimiser_tensors(network, second, load_tensors(tmp_path / "optimiser")[0])
    train(network, second, sources(), RECIPE, range(3, 6))

    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    ours, theirs = optimiser_tensors(network, second), optimiser_tensors(whole, optimiser)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_under_linear_decay_the_last_of_four_steps_is_a_quarter_of_the_first():
    """Gradient descent: a step is the rate times the gradient of Eq. 1 on that step's batch."""
    recipe = replace(RECIPE, optimiser="sgd", decay="linear", steps=4)
    for step in range(4):
        network, _ = start()
        before = copy.deepcopy(network)
        train(network, build_optimiser(network, recipe.learning_rate, "sgd"), sources(), recipe, range(step, step + 1))
        batch = draw_batch(sources(), recipe.seed, step, recipe.share)
        domain_cross_entropy(before(batch.images, batch.shares).logits, batch.labels).backward()
        rate = 1e-2 * (4 - step) / 4
        for (name, moved), parameter in zip(network.named_parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(moved.data, parameter.data - rate * parameter.grad, rtol=0, atol=1e-8, msg=name)


def test_an_optimisers_state_is_filed_by_parameter_and_copied():
    network, optimiser = start()
    train(network, optimiser, sources(), RECIPE, range(1))
    tensors = optimiser_tensors(network, optimiser)
    names = [name for name, _ in network.named_parameters()]
    assert sorted(tensors) == sorted(f"{name}/{q}" for name in names for q in ("step", "exp_avg", "exp_avg_sq"))
    other, fresh = start()
    load_optimiser_tensors(other, fresh, tensors)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    train(other, fresh, sources(), RECIPE, range(1, 2))
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


def test_an_optimisers_state_goes_where_the_parameters_are():
    """Counters of steps too: a fused optimiser on a GPU reads them there."""
    network, optimiser = start()
    train(network, optimiser, sources(), RECIPE, range(1))
    elsewhere = build_network(NetworkConfig(width=4), CLASSES, seed=0).to("meta")
    adam = torch.optim.Adam(elsewhere.parameters())
    load_optimiser_tensors(elsewhere, adam, optimiser_tensors(network, optimiser))
    assert {value.device.type for state in adam.state.values() for value in state.values()} == {"meta"}


def test_a_state_of_an_unknown_parameter_is_refused():
    network, optimiser = start()
    with pytest.raises(ValueError, match=r"no parameter 'gone.weight'"):
        load_optimiser_tensors(network, optimiser, {"gone.weight/exp_avg": torch.ones(1)})


def test_bf16_trains_with_finite_losses_near_those_of_float32():
    network, optimiser = start()
    exact = train(network, optimiser, sources(), RECIPE, range(2))["loss"]
    network, optimiser = start()
    short = train(network, optimiser, sources(), Recipe(2, 1e-2, 1, autocast=True), range(2))["loss"]
    assert short == pytest.approx(exact, rel=0.05)
    assert short != exact
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_plain_gradient_descent_steps_by_the_gradient_itself():
    network, _ = start()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    train_step(network, build_optimiser(network, 0.5, "sgd"), draw_batch(sources(), seed=1, step=0, share=2))
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * parameter.grad, rtol=0, atol=0, msg=name)


def test_part_of_a_network_can_be_trained():
    network, _ = start()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own = dict(network.output.named_parameters(prefix="output"))
    train_step(network, build_optimiser(own.values(), 0.5, "sgd"), draw_batch(sources(), seed=1, step=0, share=2))
    moved = {
        name for name, _ in network.named_parameters() if not torch.equal(network.state_dict()[name], before[name])
    }
    assert moved == set(own)


def test_a_network_in_float64_sees_the_same_batches_and_computes_in_float64():
    network, optimiser = start()
    short = train(network, optimiser, sources(), RECIPE, range(2))["loss"]
    network, _ = start()
    exact = train(network.double(), build_optimiser(network, RECIPE.learning_rate), sources(), RECIPE, range(2))["loss"]
    assert exact == pytest.approx(short, rel=1e-5)
    assert exact != float(np.float32(exact))


def test_the_device_is_what_was_asked_for_or_an_error():
    assert choose_device("cpu").type == "cpu"
    there = torch.cuda.is_available()
    assert choose_device("auto").type == ("cuda" if there else "cpu")
    if there:
        assert choose_device("cuda").type == "cuda"
    else:
        with pytest.raises(ConfigurationError, match="sees no CUDA device"):
            choose_device("cuda")


@pytest.mark.parametrize(("channels_last", "strides"), [(False, (36, 9, 3, 1)), (True, (36, 1, 12, 4))])
def test_the_layout_of_kernels_is_what_was_asked_for_and_their_values_stay(channels_last, strides):
    network = nn.Conv2d(4, 8, 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert to_device(network, torch.device("cpu"), "float64", channels_last) is network
    assert network.weight.stride() == strides
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name].double())
    assert network(torch.randn(2, 4, 8, 8).double()).is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_autocast_is_bf16_where_enabled():
    ones = torch.ones(2, 2)
    for enabled, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        with autocast(torch.device("cpu"), enabled):
            assert (ones @ ones).dtype == dtype


def test_deterministic_algorithms_are_asked_for_and_let_go(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        be_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        be_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
