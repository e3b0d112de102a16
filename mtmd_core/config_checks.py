"""Whether the values of a configuration make sense, each by itself and together."""

import math
from dataclasses import fields
from operator import attrgetter

from mtmd_core.config import (
    AUTOENCODER,
    AUTOENCODER_STRIDE,
    DECAYS,
    DTYPES,
    IMAGENET,
    LADDER_VARIANTS,
    MODES,
    NETWORKS,
    NO_WEIGHTS,
    OPTIMISERS,
    ORDERS,
    SITE_WEIGHTS,
    SLICE_AXES,
    STRIDES,
    UPDATE_ENCODINGS,
    WEIGHT_FILES,
    LossConfig,
    NetworkConfig,
    RunConfig,
    StudyConfig,
)
from mtmd_core.errors import ConfigurationError
from mtmd_core.federation_checks import check_federation, share_of_batch, sites_a_round
from mtmd_core.minimum import MINIMUM
from mtmd_core.sites import check_site_name
from mtmd_core.strategies import FEDERATED_STRATEGIES, TRANSFERS, Sharing, strategy_named
from mtmd_core.words import DEVICES, RELEASES, check_one_of

CHOICES = {
    "mode": MODES,
    "network.name": NETWORKS,
    "training.optimiser": OPTIMISERS,
    "training.learning_rate_decay": DECAYS,
    "autoencoder.learning_rate_decay": DECAYS,
    "training.dtype": DTYPES,
    "device": DEVICES,
    "data.slice_axis": SLICE_AXES,
    "federation.release": RELEASES,
    "federation.site_weights": SITE_WEIGHTS,
    "federation.update_encoding": UPDATE_ENCODINGS,
    "prototypes.order": ORDERS,
}
"""Words → what they can be."""
LEAST = {
    "network.width": 4,
    "data.slice_size": 16,
    "training.batch_size": 1,
    "training.epochs": 1,
    "training.steps": 1,
    "training.validate_every_steps": 1,
    "federation.rounds": 1,
    "federation.autoencoder_rounds": 1,
    "federation.local_steps": 1,
    "federation.local_epochs": 1,
    "federation.calibration_batches": 0,
    "federation.validate_every_rounds": 1,
    "federation.expected_sites": 1,
    "federation.quorum": 1,
    "federation.refusals_before_set_aside": 1,
    "prototypes.minimum_exams": MINIMUM.exams,
    "prototypes.minimum_slices": MINIMUM.slices,
    "prototypes.slices_per_exam": 1,
    "prototypes.maximum_age_rounds": 1,
    "prototypes.full_pass_steps": 1,
    "autoencoder.width": 4,
    "autoencoder.batch_size": 1,
    "autoencoder.epochs": 1,
    "autoencoder.steps": 1,
    "study.jobs": 1,
    "study.calibration_batches": 0,
    "phantoms.exams": 3,
    "phantoms.seed": 0,
    "fold": 0,
    "seed": 0,
    "threads": 1,
}
"""Words → the least that they can be, where they are given at all."""


def checked(config: RunConfig) -> RunConfig:
    """Return ``config`` if its values make sense together.

    Raises:
        ConfigurationError: naming the word, what was given and what is possible.
    """
    for word, known in CHOICES.items():
        check_one_of(word, value_of(config, word), known)
    strategy_named(config.strategy)
    for word, least in LEAST.items():
        value = value_of(config, word)
        if value is not None and value < least:
            raise ConfigurationError(f"{word} is {value}; it must be at least {least}.")
    _check_training(config)
    _check_loss(config.loss)
    _check_study(config.study)
    _check_noise(config.prototypes.noise_multiplier)
    check_federation(config)
    _check_network(config.network, config.data.slice_size)
    if config.mode == "federated":
        _check_what_sites_can_have(config)
    config.sites = {} if config.sites is None else config.sites
    if not isinstance(config.sites, dict) or not all(isinstance(folder, str) for folder in config.sites.values()):
        raise ConfigurationError(
            f"sites is {config.sites!r}; it must map site names to data folders: 'sites={{ankle: DIR, knee: DIR}}'."
        )
    for site in (*config.sites, *config.federation.site_names):
        check_site_name(site)
    _check_sites_together(config)
    return config


def value_of(config: RunConfig, word: str) -> object:
    """What a dotted word such as ``network.width`` is set to."""
    return attrgetter(word)(config)


def _check_training(config: RunConfig) -> None:
    for word in ("training.learning_rate", "autoencoder.learning_rate"):
        rate = value_of(config, word)
        if not 0 < rate < 1:
            raise ConfigurationError(f"{word} is {rate}; it must lie between 0 and 1 (the paper: 5e-4 or 1e-4).")
    if config.training.autocast and config.training.dtype != DTYPES[0]:
        raise ConfigurationError(
            f"training.autocast computes in bfloat16, training.dtype={config.training.dtype} asks for more: leave one out."
        )


def _check_what_sites_can_have(config: RunConfig) -> None:
    """What is a strategy or a file of this machine alone, or takes a compiler, cannot be asked of sites."""
    if config.strategy not in FEDERATED_STRATEGIES:
        raise ConfigurationError(
            f"strategy={config.strategy} is for mode=centralised; mode=federated knows {', '.join(FEDERATED_STRATEGIES)}."
        )
    if config.training.compile:
        raise ConfigurationError(
            "training.compile is true, but compiling takes a C++ compiler and minutes at every site, and anew in each process: "
            "it is for mode=centralised. Leave it out; training.channels_last and training.autocast make a site's steps faster."
        )
    if config.autoencoder.model is not None:
        raise ConfigurationError(
            f"autoencoder.model is '{config.autoencoder.model}', a file of this machine, whose private layers sites do not have; "
            "mode=federated trains the auto-encoder in its own rounds: leave it out."
        )
    if config.network.encoder_weights not in (IMAGENET, NO_WEIGHTS):
        raise ConfigurationError(
            f"network.encoder_weights is '{config.network.encoder_weights}', a file of this machine, which sites do not have; "
            f"mode=federated takes {IMAGENET}, which every site loads for itself, or {NO_WEIGHTS}."
        )


def _check_loss(loss: LossConfig) -> None:
    if not 0 < loss.temperature < math.inf:
        raise ConfigurationError(f"loss.temperature is {loss.temperature}; it must be above 0 (the paper: 0.1).")
    for entry in fields(loss):
        weight = getattr(loss, entry.name)
        if not 0 <= weight < math.inf:
            raise ConfigurationError(f"loss.{entry.name} is {weight}; it must be a finite number of at least 0.")


def _check_noise(noise_multiplier: float) -> None:
    if not 0 <= noise_multiplier < math.inf:
        raise ConfigurationError(
            f"prototypes.noise_multiplier is {noise_multiplier}; it must be a finite number of at least 0."
        )


def _check_study(study: StudyConfig) -> None:
    """Which runs a study is made of; what each of them can be is checked when it is composed."""
    for word in ("networks", "strategies", "folds", "local_steps", "variants", "rungs"):
        values = getattr(study, word)
        if not values and word not in ("variants", "rungs"):
            raise ConfigurationError(f"study.{word} is empty; it must name one at least.")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ConfigurationError(f"study.{word} names {twice[0]} twice.")
    for network in study.networks:
        check_one_of("study.networks", network, NETWORKS)
    for strategy in study.strategies:
        if strategy != TRANSFERS:
            strategy_named(strategy)
    for variant in study.variants:
        check_one_of("study.variants", variant, LADDER_VARIANTS)
    if min(study.local_steps) < 1:
        raise ConfigurationError(f"study.local_steps has {min(study.local_steps)}; a round takes one step at least.")
    if min(study.folds) < 0:
        raise ConfigurationError(f"study.folds has {min(study.folds)}; folds are counted from 0.")


def _check_network(network: NetworkConfig, slice_size: int) -> None:
    stride = STRIDES[network.name]
    if slice_size % stride:
        lower = slice_size // stride * stride
        nearest_sizes = f"the nearest are {lower} and {lower + stride}" if lower else f"the nearest is {stride}"
        raise ConfigurationError(
            f"data.slice_size is {slice_size}; {network.name} halves a slice {stride.bit_length() - 1} times, so it must "
            f"be a multiple of {stride}: {nearest_sizes}."
        )
    if network.name == "att_unet":
        if network.width % 2:
            raise ConfigurationError(
                f"network.width is {network.width}; attention gates halve it, so it must be even: try {network.width + 1}."
            )
        if network.encoder_weights != NO_WEIGHTS:
            raise ConfigurationError(
                f"network.encoder_weights is '{network.encoder_weights}', but att_unet has an encoder of its own, for "
                f"which there are no weights: it must be {NO_WEIGHTS}."
            )
        return
    if network.width != NetworkConfig.width:
        raise ConfigurationError(
            f"network.width is {network.width}, but only att_unet has a width to choose; {network.name}'s follow from its "
            f"encoder: leave network.width out, or give {NetworkConfig.width} where an experiment's own file sets another."
        )
    if network.encoder_weights not in (IMAGENET, NO_WEIGHTS) and not network.encoder_weights.endswith(WEIGHT_FILES):
        raise ConfigurationError(
            f"network.encoder_weights is '{network.encoder_weights}'; it must be {IMAGENET}, {NO_WEIGHTS}, or a file that "
            f"ends in {' or '.join(WEIGHT_FILES)}."
        )


def _check_sites_together(config: RunConfig) -> None:
    """What can be said before any site is there, once their number is known."""
    federation = config.federation
    count = federation.expected_sites or len(federation.site_names) or len(config.sites)
    _check_batch(config, count, "training.batch_size", config.network.name, STRIDES[config.network.name])
    strategy = strategy_named(config.strategy)
    if strategy.prior:
        _check_batch(config, count, "autoencoder.batch_size", AUTOENCODER, AUTOENCODER_STRIDE)
    if count == 0:
        return
    source = strategy.source
    if source is not None and config.sites and source not in config.sites:
        raise ConfigurationError(
            f"strategy={config.strategy} takes the site '{source}', which is none of {', '.join(config.sites)}."
        )
    training = sites_a_round(count, federation.participation)
    if (federation.quorum or 0) > training:
        raise ConfigurationError(
            f"federation.quorum is {federation.quorum}, but {training} sites take part in a round: it can be {training} at most."
        )
    if federation.lockstep and (federation.quorum or count) < count:
        raise ConfigurationError(
            f"federation.quorum is {federation.quorum}, but federation.lockstep=true needs every site in each: leave it out."
        )
    if federation.rounds * training < count:
        raise ConfigurationError(
            f"federation.rounds is {federation.rounds} with {training} of {count} sites in each: some would never train. Give "
            f"{math.ceil(count / training)} rounds at least, or more federation.participation."
        )


def _check_batch(config: RunConfig, count: int, word: str, network: str, stride: int) -> None:
    """Whether ``count`` sites (0: not known) can share a batch equally, and leave normalisation more than one value a channel."""
    sharing, normalised = strategy_named(config.strategy).sharing, value_of(config, word)
    if sharing is not Sharing.NOTHING:
        if count == 0:
            return
        share = share_of_batch(normalised, count, word)
        one_domain = sharing is Sharing.EVERYTHING and config.mode != "federated"  # of all sites' slices
        normalised = normalised if one_domain else share
    side = config.data.slice_size // stride
    if normalised * side**2 < 2:
        raise ConfigurationError(
            f"{word} is {value_of(config, word)} and data.slice_size {config.data.slice_size}: at the bottleneck of {network} "
            "normalisation has one value a channel, and one value has no variance: give "
            f"{word}={2 * value_of(config, word)} or data.slice_size={2 * config.data.slice_size}."
        )
