"""From the configuration of a run and the sites that came to what each of them is asked."""

from collections.abc import Mapping, Sequence

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from mtmd_core.config import RunConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.federation_checks import share_of_batch, sites_a_round
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, shapes, take
from mtmd_core.strategies import Sharing, label_spaces, strategy_named
from mtmd_core.update_encoding import FLOAT32
from mtmd_core.wire import (
    CONTRAST,
    GRADIENT,
    PACKED,
    PLAN,
    PRIOR,
    PRIOR_SHARED,
    PROTOTYPES,
    SHARED,
    UPDATE,
    PriorPlan,
    RoundPlan,
    SiteFacts,
    pack_arrays,
    to_record,
)

from .checkpoints import Arrays, Checkpoint
from .participation import training_sites
from .phases import Phase, autoencoder_phase, segmentation_phase


class Plans:
    """What the coordinator knows of a run before it begins.

    ``expected``: dtype and shape of every shared parameter; ``initial``: their first values; ``statistics``: names of those that
    are running statistics; ``contribution``: the record in which sites bring what training made of them. ``run`` is what the
    sites know this phase by.

    Args:
        run: name of the run.
        config: of the run.
        sites: what the sites said at roll call.
        phase: of the run; its segmentation if none is given.
        prior: the auto-encoder that segmentation is held against, as its phase ended.
    """

    def __init__(
        self,
        run: str,
        config: RunConfig,
        sites: Mapping[str, SiteFacts],
        phase: Phase | None = None,
        prior: Checkpoint | None = None,
    ) -> None:
        self.phase = segmentation_phase(config) if phase is None else phase
        self.run = self.phase.run(run)
        self.config = config
        self.prior = prior
        self.prior_plan = None if prior is None else self._prior_plan(run, config, len(sites), prior.round)
        self.sharing = strategy_named(config.strategy).sharing
        self.sites = sorted(sites)
        self._training = sites_a_round(len(sites), config.federation.participation)
        if (config.federation.quorum or 0) > self._training:
            raise ConfigurationError(
                f"federation.quorum is {config.federation.quorum}, but {self._training} sites take part in a round: it can be "
                f"{self._training} at most."
            )
        if self.phase.rounds * self._training < len(sites):
            raise ConfigurationError(
                f"{self.phase.rounds_word} is {self.phase.rounds} with {self._training} of {len(sites)} sites in each: "
                "some would never train. Give more rounds or more federation.participation."
            )
        self.spaces = label_spaces(self.sharing, {site: facts.structures for site, facts in sites.items()})
        alone = self.sharing is Sharing.NOTHING
        self.share = share_of_batch(self.phase.batch_size, 1 if alone else len(sites), self.phase.batch_word)
        network = build_network(self.phase.network, self._known_domains(), self.phase.seed)
        network.to(getattr(torch, config.training.dtype))
        names = partition(network, self.sharing).shared
        self.statistics = frozenset(name for name, _ in network.named_buffers() if name in names)
        self.contribution = SHARED
        if names and config.federation.update_encoding != FLOAT32:
            self.contribution = UPDATE
        if config.federation.lockstep:
            self.contribution = GRADIENT
        self.expected = shapes(network, names)
        self.initial: Arrays = take(network, names)

    def quorum(self, asked: int) -> int:
        """How many of the sites that were asked must answer."""
        return min(self.config.federation.quorum or asked, asked)

    def training_sites(self, round_: int, present: Sequence[str]) -> list[str]:
        """Those of the sites ``present`` that train in a round, in the order of their names."""
        return training_sites(sorted(present), self._training, round_, self.config.seed)

    def content(
        self,
        site: str,
        round_: int,
        shared: ArrayRecord,
        best_round: int,
        validate: bool = False,
        test: bool = False,
    ) -> RecordDict:
        """The records of one message to one site."""
        plan = self.plan(site, round_, best_round, validate, test)
        return RecordDict({PLAN: ConfigRecord(to_record(plan)), SHARED: shared})

    def terms(self, others: Sequence[Arrays], with_prior: bool) -> RecordDict:
        """The further records of a TRAIN message: what the phase's loss has beside cross-entropy.

        Args:
            others: prototypes of the other sites.
            with_prior: whether to send the auto-encoder itself too.
        """
        content = RecordDict()
        if self.phase.contrast is not None:
            content[CONTRAST] = ConfigRecord(to_record(self.phase.contrast))
            for number, arrays in enumerate(others):
                content[f"{PROTOTYPES}.{number}"] = pack(arrays)
        if self.prior_plan is not None:
            content[PRIOR] = ConfigRecord(to_record(self.prior_plan))
            if with_prior:
                content[PRIOR_SHARED] = pack(self.prior.shared)
        return content

    def plan(self, site: str, round_: int, best_round: int, validate: bool = False, test: bool = False) -> RoundPlan:
        """What one site is asked in one visit."""
        config, space, network = self.config, self.spaces[site], self.phase.network
        return RoundPlan(
            run=self.run,
            round=round_,
            strategy=config.strategy,
            network=network.name,
            width=network.width,
            encoder_weights=network.encoder_weights,
            slice_size=config.data.slice_size,
            slice_axis=config.data.slice_axis,
            fold=config.fold,
            seed=self.phase.seed,
            local_steps=config.federation.local_steps,
            share=self.share,
            learning_rate=self.phase.learning_rate,
            augment=config.training.augment,
            autocast=config.training.autocast,
            calibration_batches=0 if config.federation.lockstep else config.federation.calibration_batches,
            validate=validate,
            test=test,
            best_round=best_round,
            label_offset=space.offset,
            label_classes=space.classes if self.sharing is Sharing.EVERYTHING else 0,
            local_epochs=config.federation.local_epochs or 0,
            optimiser=config.training.optimiser,
            dtype=config.training.dtype,
            proximal_mu=float(config.federation.proximal_mu),
            update_encoding=config.federation.update_encoding,
            tell_slices=config.federation.site_weights == "slices",
            lockstep_weight=1.0 / len(self.sites) if config.federation.lockstep else 0.0,
            rounds=self.phase.rounds,
            learning_rate_decay=self.phase.learning_rate_decay,
            channels_last=config.training.channels_last,
            deterministic=config.training.deterministic,
        )

    @staticmethod
    def _prior_plan(run: str, config: RunConfig, sites: int, round_: int) -> PriorPlan:
        phase = autoencoder_phase(config)
        return PriorPlan(
            weight=config.loss.prior_weight,
            run=phase.run(run),
            round=round_,
            width=phase.network.width,
            share=share_of_batch(phase.batch_size, sites, phase.batch_word),
            seed=phase.seed,
        )

    def _known_domains(self) -> dict[str, int]:
        """The domains of the coordinator's own network: none, unless everything is shared."""
        if self.sharing is not Sharing.EVERYTHING:
            return {}
        return {space.domain: space.classes for space in self.spaces.values()}


def pack(arrays: Arrays) -> ArrayRecord:
    """Arrays as a record of a message."""
    data = pack_arrays(arrays)
    return ArrayRecord({PACKED: Array("uint8", (len(data),), PACKED, data)})
