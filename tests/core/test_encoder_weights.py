import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mtmd_core.config import NetworkConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.models import ModelCard, SiteCard, load_model, save_model
from mtmd_core.networks.build import build_network
from mtmd_core.networks.encoder_weights import read_encoder_weights
from mtmd_core.networks.pretrained import PRETRAINED
from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing, label_spaces

OFFLINE = """
from mtmd_core.config import NetworkConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.build import build_network
try:
    build_network(NetworkConfig("efficient_unet", encoder_weights="imagenet"), {"knee": 2}, seed=0)
except ConfigurationError as error:
    print(error)
"""


def classifier(name: str) -> dict[str, torch.Tensor]:
    """A state of timm's classifier with values that tell its entries apart; cheap to draw."""
    with torch.device("meta"):
        shapes = timm.create_model(name).state_dict()
    random = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(tensor.shape, generator=random) if tensor.is_floating_point() else torch.tensor(7)
        for key, tensor in shapes.items()
    }


@pytest.fixture(scope="module", params=[kind.encoder_name for kind in PRETRAINED.values()])
def saved(request, tmp_path_factory) -> tuple[str, dict[str, torch.Tensor], Path]:
    folder = tmp_path_factory.mktemp("weights")
    state = classifier(request.param)
    torch.save(state, folder / "a.pth")
    save_file(state, folder / "a.safetensors")
    return request.param, state, folder


@pytest.fixture(scope="module")
def efficient(tmp_path_factory) -> tuple[dict[str, torch.Tensor], Path]:
    state = classifier("efficientnet_b3")
    path = tmp_path_factory.mktemp("efficient") / "a.pth"
    torch.save(state, path)
    return state, path


def test_a_file_of_either_kind_gives_the_encoders_state(saved):
    name, state, folder = saved
    weights = [read_encoder_weights(str(folder / file), name) for file in ("a.pth", "a.safetensors")]
    with torch.device("meta"):
        wanted = timm.create_model(name, features_only=True).state_dict()
    for given in weights:
        assert list(given) == list(wanted)
    expected = {key.replace("features.", "features_", 1): tensor for key, tensor in state.items()}
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key])
        assert torch.equal(tensor, expected[key])


def test_a_head_may_be_missing_of_another_size_or_auxiliary_and_counters_may_be_missing(tmp_path):
    state = {key: tensor for key, tensor in classifier("inception_v3").items() if "num_batches" not in key}
    state |= {"fc.weight": torch.zeros(5, 2048), "AuxLogits.conv0.conv.weight": torch.zeros(1)}
    state.pop("fc.bias")
    torch.save(state, tmp_path / "a.pth")
    assert "Mixed_7c.branch_pool.conv.weight" in read_encoder_weights(str(tmp_path / "a.pth"), "inception_v3")


@pytest.mark.parametrize("domains", [{}, {"knee": 5}, {"ankle": 4, "knee": 5}], ids=["none", "one", "two"])
def test_weights_take_the_place_of_the_encoders_drawn_ones_and_of_no_others(efficient, domains):
    state, path = efficient
    drawn = build_network(NetworkConfig("efficient_unet"), domains, seed=1).state_dict()
    network = build_network(NetworkConfig("efficient_unet", encoder_weights=str(path)), domains, seed=1)
    loaded = network.state_dict()
    assert list(loaded) == list(drawn)
    for name in loaded:
        assert torch.equal(loaded[name], drawn[name]) == (not name.startswith("encoder.")), name
    assert torch.equal(loaded["encoder.conv_stem.weight"], state["conv_stem.weight"])
    for domain in domains:
        for quantity in ("weight", "bias", "running_mean", "running_var"):
            own = loaded[f"encoder.blocks.3.1.bn2.norm.domains.{domain}.{quantity}"]
            assert torch.equal(own, state[f"blocks.3.1.bn2.{quantity}"])
    assert len(partition(network, Sharing.CONVOLUTIONS).private) == len(loaded) - len(
        partition(network, Sharing.CONVOLUTIONS).shared
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("blocks.0.0.bn1.bias"), "missing blocks.0.0.bn1.bias"),
        (lambda s: s.update({"blocks.9.0.conv.weight": torch.zeros(1)}), "unknown blocks.9.0.conv.weight"),
        (lambda s: s.update({"bn20.weight": torch.zeros(1)}), "unknown bn20.weight"),
        (
            lambda s: s.update({"conv_stem.weight": torch.zeros(40, 1, 3, 3)}),
            r"conv_stem.weight has the shape \[40, 1, 3, 3\], expected \[40, 3, 3, 3\]",
        ),
        (lambda s: s.update({"bn1.bias": torch.zeros(40, dtype=torch.long)}), "bn1.bias is torch.int64, expected"),
        (lambda s: s.update({"bn1.bias": torch.full((40,), torch.nan)}), "bn1.bias has values that are not finite"),
        (lambda s: s.update({"bn1.bias": 3.0}), "bn1.bias is a float, expected a tensor"),
        (lambda s: [s.pop(key) for key in list(s) if key != "conv_stem.weight"], r"missing .* and \d+ more"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_that_names_what_does_not(efficient, tmp_path, change, reason):
    state = dict(efficient[0])
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ConfigurationError, match=rf"no weights of timm's efficientnet_b3: {reason}.*encoder_weights=none"
    ):
        read_encoder_weights(str(tmp_path / "a.pth"), "efficientnet_b3")


def test_another_architectures_file_is_an_error(efficient):
    with pytest.raises(ConfigurationError, match=r"no weights of timm's densenet121: missing features\.conv0\.weight"):
        read_encoder_weights(str(efficient[1]), "densenet121")


class Evil:
    """What no file of weights has to hold."""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.pth", None),
        ("none.safetensors", None),
        ("a.pth", b"no weights"),
        ("a.safetensors", b"no weights"),
        ("list.pth", [1, 2]),
        ("code.pth", {"conv_stem.weight": Evil()}),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigurationError, match=rf"cannot be read from .*{name}.*network.encoder_weights=none"):
        read_encoder_weights(str(path), "efficientnet_b3")


def test_att_unet_has_no_weights_to_load():
    with pytest.raises(ConfigurationError, match="att_unet has an encoder of its own, for which there are no weights"):
        build_network(NetworkConfig(width=4, encoder_weights="imagenet"), {"knee": 2}, seed=0)


def test_imagenet_that_is_neither_cached_nor_reachable_is_an_error_with_a_remedy(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    assert "the ImageNet weights of efficientnet_b3 are not in the cache and cannot be downloaded" in done.stdout
    assert "https://huggingface.co/timm/efficientnet_b3.ra2_in1k" in done.stdout
    assert "network.encoder_weights=none" in done.stdout


def test_imagenet_in_the_cache_needs_no_network(efficient, tmp_path, monkeypatch):
    save_file(efficient[0], tmp_path / "model.safetensors")
    asked = []

    def cache(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("mtmd_core.networks.encoder_weights.try_to_load_from_cache", cache)
    monkeypatch.setattr("mtmd_core.networks.encoder_weights.get_hf_file_metadata", None)
    monkeypatch.setattr("mtmd_core.networks.encoder_weights.hf_hub_download", None)
    weights = read_encoder_weights("imagenet", "efficientnet_b3")
    assert torch.equal(weights["conv_stem.weight"], efficient[0]["conv_stem.weight"])
    assert asked == [("timm/efficientnet_b3.ra2_in1k", "model.safetensors")]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of Hugging Face, beside which nothing can be downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("mtmd_core.networks.encoder_weights.get_hf_file_metadata", None)
    monkeypatch.setattr("mtmd_core.networks.encoder_weights.hf_hub_download", None)
    return tmp_path / "hub"


def test_where_nothing_is_downloaded_the_error_says_how_to_fill_the_cache(cache):
    text = (
        r"efficientnet_b3 are not in this machine's cache, .* 'hf download timm/efficientnet_b3.ra2_in1k model.safetensors' "
        rf"where .*copy the folder models--timm--efficientnet_b3.ra2_in1k .* to {cache} here.*encoder_weights=none"
    )
    with pytest.raises(ConfigurationError, match=text):
        build_network(NetworkConfig("efficient_unet", encoder_weights="imagenet"), {"knee": 2}, 0, download=False)


def test_a_folder_that_was_copied_into_the_cache_is_found(cache, efficient):
    """As the error says; a copy through a medium without links has the file itself where the cache has a link."""
    copied = cache / "models--timm--efficientnet_b3.ra2_in1k"
    (copied / "refs").mkdir(parents=True)
    (copied / "refs/main").write_text("1" * 40)
    (copied / "snapshots" / ("1" * 40)).mkdir(parents=True)
    save_file(efficient[0], copied / "snapshots" / ("1" * 40) / "model.safetensors")
    weights = read_encoder_weights("imagenet", "efficientnet_b3", download=False)
    assert torch.equal(weights["conv_stem.weight"], efficient[0]["conv_stem.weight"])


def test_a_trained_network_is_read_without_the_encoders_weights(efficient, tmp_path):
    spaces = label_spaces("dsl", {"knee": 1})
    config = NetworkConfig("efficient_unet", encoder_weights=str(efficient[1]))
    sites = {"knee": SiteCard(spaces["knee"], ("femur",), 0)}
    card = ModelCard(NetworkConfig("efficient_unet", encoder_weights="gone.pth"), "dsl", 64, sites)
    network = build_network(config, card.domains, seed=5)
    save_model(tmp_path / "model.safetensors", network, card)
    loaded, loaded_card = load_model(tmp_path / "model.safetensors")
    assert loaded_card == card
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
