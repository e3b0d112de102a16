"""Trained networks on disk: one file holds the weights and all that is needed to use them on a new exam."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtmd_core.config import NO_WEIGHTS, NetworkConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.build import build_network
from mtmd_core.strategies import LabelSpace
from mtmd_core.tensor_files import DamagedFileError, load_tensors, peek_facts, save_tensors

KIND = "mtmd model 1"


@dataclass(frozen=True)
class SiteCard:
    """What a model knows of a site: where its structures lie among the classes, their names, how its exams are cut."""

    space: LabelSpace
    structures: tuple[str, ...]
    slice_axis: int


@dataclass(frozen=True)
class ModelCard:
    """What must be known of a model to use it."""

    network: NetworkConfig
    strategy: str
    slice_size: int
    sites: Mapping[str, SiteCard]

    @property
    def domains(self) -> dict[str, int]:
        """Domain → number of classes, as the network takes it."""
        return {card.space.domain: card.space.classes for card in self.sites.values()}

    def site(self, name: str) -> SiteCard:
        """The card of one site.

        Raises:
            ConfigurationError: if the model does not know the site.
        """
        if name not in self.sites:
            raise ConfigurationError(
                f"this model knows the sites {', '.join(sorted(self.sites))}; '{name}' is none of them."
            )
        return self.sites[name]


def save_model(path: Path, network: nn.Module, card: ModelCard) -> None:
    """Write a network and its card."""
    facts = {
        "kind": KIND,
        "network": asdict(card.network),
        "strategy": card.strategy,
        "slice_size": card.slice_size,
        "sites": {
            name: {
                "space": asdict(site.space),
                "structures": list(site.structures),
                "slice_axis": site.slice_axis,
            }
            for name, site in card.sites.items()
        },
    }
    save_tensors(path, network.state_dict(), facts)


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Read a network, in evaluation mode on the CPU and in the precision that it was saved in, and its card.

    Raises:
        DamagedFileError: if the file is no model or was damaged.
    """
    tensors, facts = load_tensors(path)
    card = _card(path, facts)
    unloaded = replace(card.network, encoder_weights=NO_WEIGHTS)  # the file has the encoder's weights as trained
    network = build_network(unloaded, card.domains, seed=0)
    network.to(_precision(path, tensors))
    network.load_state_dict(tensors)
    return network.eval(), card


def load_card(path: Path) -> ModelCard:
    """Read the card of a network alone: quickly, so whether its weights are whole is not looked at.

    Raises:
        DamagedFileError: if the file is no model or was cut short.
    """
    return _card(path, peek_facts(path))


def _card(path: Path, facts: Mapping[str, Any]) -> ModelCard:
    if facts.get("kind") != KIND:
        raise DamagedFileError(f"{path} is no model: it says '{facts.get('kind')}', expected '{KIND}'.")
    return ModelCard(
        network=NetworkConfig(**facts["network"]),
        strategy=facts["strategy"],
        slice_size=facts["slice_size"],
        sites={
            name: SiteCard(LabelSpace(**site["space"]), tuple(site["structures"]), site["slice_axis"])
            for name, site in facts["sites"].items()
        },
    )


def _precision(path: Path, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The one dtype of a network's parameters and statistics."""
    found = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(found) != 1:
        kinds = ", ".join(sorted(map(str, found))) or "nothing"
        raise DamagedFileError(f"{path} is no model: it holds numbers in {kinds}, expected one floating-point format.")
    return found.pop()
