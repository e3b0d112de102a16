"""Exams of several sites in one place: what centralised training pools, and how its results are measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from mtmd_core.config import AutoencoderConfig, RunConfig, TrainingConfig
from mtmd_core.data.batches import SliceSource
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import Split, leave_one_out
from mtmd_core.evaluation import SiteScores, evaluate_exams, reconstruction_dice
from mtmd_core.federation_checks import share_of_batch
from mtmd_core.models import ModelCard, SiteCard
from mtmd_core.strategies import LabelSpace, label_spaces, strategy_named
from mtmd_core.training import Recipe

from .progress import VALIDATION_DICE


class Schedule(Protocol):
    """How long a network is trained on how much at a time."""

    batch_size: int
    epochs: int
    steps: int | None


class Pool:
    """The exams of the sites that one network serves, split for a fold.

    ``spaces``: site → label space; ``classes``: domain → number of classes; ``sources``: domain → training slices.
    """

    def __init__(self, config: RunConfig, sites: Mapping[str, SiteData]) -> None:
        self.config = config
        self.sites = dict(sites)
        self.splits: dict[str, Split] = {
            site: leave_one_out(list(data.exams), config.fold) for site, data in sites.items()
        }
        sharing = strategy_named(config.strategy).sharing
        self.spaces: dict[str, LabelSpace] = label_spaces(
            sharing, {site: len(data.structures) for site, data in sites.items()}
        )
        self.classes = {space.domain: space.classes for space in self.spaces.values()}
        self.sources: dict[str, list[SliceSource]] = {}
        for site, data in sites.items():
            space = self.spaces[site]
            self.sources.setdefault(space.domain, []).append(data.source(self.splits[site].train, space.offset))

    @property
    def card(self) -> ModelCard:
        """What must be known of the segmentation network that is trained here, to use it."""
        return ModelCard(
            self.config.network,
            self.config.strategy,
            self.config.data.slice_size,
            {site: SiteCard(self.spaces[site], data.structures, data.axis) for site, data in self.sites.items()},
        )

    def steps(self, schedule: Schedule) -> int:
        """As configured, or epochs of ceil(Σ n_k / batch) steps (section 5 of the method)."""
        if schedule.steps is not None:
            return schedule.steps
        slices = sum(len(source) for each in self.sources.values() for source in each)
        return schedule.epochs * math.ceil(slices / schedule.batch_size)

    def recipe(self, schedule: TrainingConfig | AutoencoderConfig, seed: int) -> Recipe:
        """The batch split equally between sites."""
        training = self.config.training
        share = share_of_batch(schedule.batch_size, len(self.sites))
        return Recipe(
            share=share,
            learning_rate=schedule.learning_rate,
            seed=seed,
            augment=training.augment,
            autocast=training.autocast,
            optimiser=training.optimiser,
            decay=schedule.learning_rate_decay,
            steps=self.steps(schedule),
        )

    def evaluate(self, network: nn.Module, part: str) -> dict[str, SiteScores]:
        """Every site's scores on its validation or test exams."""
        return {
            site: evaluate_exams(network, self.spaces[site], data, self.exams(site, part))
            for site, data in self.sites.items()
        }

    def validate(self, network: nn.Module) -> dict[str, dict[str, float]]:
        """What a segmentation network scores on the validation exams, by metric."""
        return {site: scores.metrics("validation") for site, scores in self.evaluate(network, "validation").items()}

    def validate_reconstruction(self, autoencoder: nn.Module) -> dict[str, dict[str, float]]:
        """How well an auto-encoder gives back the label maps of the validation exams."""
        return {
            site: {
                VALIDATION_DICE: reconstruction_dice(
                    autoencoder, self.spaces[site], [data.exams[name].labels for name in self.exams(site, "validation")]
                )
            }
            for site, data in self.sites.items()
        }

    def exams(self, site: str, part: str) -> Sequence[str]:
        """Names of a site's exams in one part of its split."""
        return getattr(self.splits[site], part)
