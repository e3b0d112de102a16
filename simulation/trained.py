"""The networks that a finished run left."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mtmd_core.config import AUTOENCODER, RunConfig
from mtmd_core.devices import choose_device
from mtmd_core.errors import ConfigurationError
from mtmd_core.models import SiteCard, load_card, load_model
from mtmd_core.strategies import strategy_named

MODELS, ALL_SITES = "models", "all_sites"
"""Folder of a run's networks, and the name of the one that serves every site."""
_ENDING = ".safetensors"


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, on the device of its run, and what it knows of a site."""

    network: nn.Module
    card: SiteCard


def network_file(folder: Path, name: str) -> Path:
    """Where a run keeps the network of a site, or the one of all sites or of label maps."""
    return folder / MODELS / f"{name}{_ENDING}"


def autoencoder_file(folder: Path, site: str) -> Path:
    """Where a federation keeps the auto-encoder as a site has it: shared layers and the site's own."""
    return folder / MODELS / AUTOENCODER / f"{site}{_ENDING}"


def segmentation_networks(config: RunConfig, folder: Path) -> dict[str, TrainedNetwork]:
    """Site → the network that segments its exams: the one of all sites, the site's own, or what it has of a federation's.

    Raises:
        ConfigurationError: if the networks are not there.
    """
    return _by_site(config, _segmentation_files(config, folder))


def segmentation_cards(config: RunConfig, folder: Path) -> dict[str, SiteCard]:
    """Site → what its network of :func:`segmentation_networks` knows of it, without the network being read.

    Raises:
        ConfigurationError: if the networks are not there.
    """
    files = _segmentation_files(config, folder)
    return {site: card for file in files for site, card in load_card(_there(file)).sites.items()}


def autoencoders(config: RunConfig, folder: Path) -> dict[str, TrainedNetwork]:
    """Site → the auto-encoder of its label maps; nothing where the strategy has none, or the site of a federation kept none.

    Raises:
        ConfigurationError: if the networks are not there.
    """
    if not strategy_named(config.strategy).prior:
        return {}
    if config.mode == "federated":
        joined = [autoencoder_file(folder, site) for site in config.sites]
        return _by_site(config, [file for file in joined if file.is_file()])
    return _by_site(config, [Path(config.autoencoder.model or network_file(folder, AUTOENCODER))])


def _segmentation_files(config: RunConfig, folder: Path) -> list[Path]:
    pooled = network_file(folder, ALL_SITES)
    return [pooled] if pooled.is_file() else [network_file(folder, site) for site in config.sites]


def _by_site(config: RunConfig, files: Sequence[Path]) -> dict[str, TrainedNetwork]:
    found, device = {}, choose_device(config.device)
    for file in files:
        network, card = load_model(_there(file))
        network = network.to(device)
        found |= {site: TrainedNetwork(network, own) for site, own in card.sites.items()}
    return found


def _there(file: Path) -> Path:
    if not file.is_file():
        raise ConfigurationError(
            f"{file} is missing, though its run is finished: remove the run's folder and make it again."
        )
    return file
