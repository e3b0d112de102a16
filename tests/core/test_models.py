import pytest
import torch

from mtmd_core.config import NetworkConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.models import ModelCard, SiteCard, load_card, load_model, save_model
from mtmd_core.networks.build import build_network
from mtmd_core.strategies import label_spaces, strategy_named
from mtmd_core.tensor_files import DamagedFileError, load_tensors, save_tensors

STRUCTURES = {"ankle": ("calcaneus", "talus"), "knee": ("femur",)}


def model(strategy: str) -> tuple[torch.nn.Module, ModelCard]:
    spaces = label_spaces(strategy_named(strategy).sharing, {site: len(names) for site, names in STRUCTURES.items()})
    sites = {site: SiteCard(spaces[site], STRUCTURES[site], axis) for axis, site in enumerate(STRUCTURES)}
    card = ModelCard(NetworkConfig(width=4), strategy, 32, sites)
    network = build_network(card.network, card.domains, seed=5)
    network(torch.randn(4, 1, 32, 32), dict.fromkeys(card.domains, 4 // len(card.domains)))  # running statistics
    return network, card


@pytest.mark.parametrize(("strategy", "classes"), [("dsl", {"ankle": 3, "knee": 2}), ("shared", {"every_site": 4})])
def test_a_model_goes_to_disk_and_back(tmp_path, strategy, classes):
    network, card = model(strategy)
    assert card.domains == classes
    save_model(tmp_path / "model.safetensors", network, card)
    loaded, loaded_card = load_model(tmp_path / "model.safetensors")
    assert loaded_card == card
    assert not loaded.training
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        for domain in classes:
            expected = network.eval()(images, {domain: 2}).logits[domain]
            assert torch.equal(loaded(images, {domain: 2}).logits[domain], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_comes_back_in_the_precision_that_it_was_trained_in(tmp_path, dtype):
    network, card = model("dsl")
    network.to(dtype)
    with torch.no_grad():
        network.encoder[0][0].conv.weight.mul_(1 + 1e-12)
    save_model(tmp_path / "model.safetensors", network, card)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor), name
    images = torch.randn(2, 1, 32, 32, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(
            loaded(images, {"knee": 2}).logits["knee"], network.eval()(images, {"knee": 2}).logits["knee"]
        )


def test_a_file_of_two_precisions_is_no_model(tmp_path):
    network, card = model("dsl")
    network.encoder.double()
    save_model(tmp_path / "a", network, card)
    with pytest.raises(DamagedFileError, match=r"numbers in torch\.float32, torch\.float64, expected one"):
        load_model(tmp_path / "a")


def test_a_card_is_read_without_the_network(tmp_path):
    network, card = model("dsl")
    save_model(tmp_path / "a", network, card)
    assert load_card(tmp_path / "a") == card
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="cannot be read as a file of tensors"):
        load_card(tmp_path / "a")
    save_tensors(tmp_path / "b", {}, {"kind": "state"})
    with pytest.raises(DamagedFileError, match="is no model: it says 'state'"):
        load_card(tmp_path / "b")


def test_a_site_that_the_model_does_not_know_is_refused():
    _, card = model("dsl")
    assert card.site("knee").structures == ("femur",)
    with pytest.raises(ConfigurationError, match="ankle, knee; 'hip' is none of them"):
        card.site("hip")


def test_another_file_of_tensors_is_no_model(tmp_path):
    save_tensors(tmp_path / "a", {}, {"kind": "state"})
    with pytest.raises(DamagedFileError, match="is no model: it says 'state'"):
        load_model(tmp_path / "a")


def test_a_model_without_one_of_its_weights_is_never_half_loaded(tmp_path):
    network, card = model("dsl")
    save_model(tmp_path / "a", network, card)
    tensors, facts = load_tensors(tmp_path / "a")
    tensors.pop("encoder.0.0.conv.weight")
    save_tensors(tmp_path / "a", tensors, facts)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_model(tmp_path / "a")
