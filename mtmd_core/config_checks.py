"""Whether the values of a configuration make sense, each by itself and together."""

import math
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter

from mtmd_core.config import (
    DTYPES,
    IMAGENET,
    LADDER_VARIANTS,
    MODES,
    NETWORKS,
    NO_WEIGHTS,
    OPTIMISERS,
    ORDERS,
    SERVER_OPTIMISERS,
    SITE_WEIGHTS,
    SLICE_AXES,
    STRIDES,
    UPDATE_ENCODINGS,
    WEIGHT_FILES,
    FederationConfig,
    LossConfig,
    NetworkConfig,
    RunConfig,
    ServerOptimiserConfig,
    StudyConfig,
)
from mtmd_core.errors import ConfigurationError
from mtmd_core.prototypes import MINIMUM
from mtmd_core.sites import check_site_name
from mtmd_core.strategies import FEDERATED_STRATEGIES, TRANSFERS, Sharing, strategy_named
from mtmd_core.words import DEVICES, RELEASES, nearest

CHOICES = {
    "mode": MODES,
    "network.name": NETWORKS,
    "training.optimiser": OPTIMISERS,
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
    _check_server_optimiser(config.federation.server_optimiser)
    _check_federation(config)
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
    """What is a strategy or a file of this machine alone cannot be asked of sites."""
    if config.strategy not in FEDERATED_STRATEGIES:
        raise ConfigurationError(
            f"strategy={config.strategy} is for mode=centralised; mode=federated knows {', '.join(FEDERATED_STRATEGIES)}."
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


def _check_server_optimiser(optimiser: ServerOptimiserConfig) -> None:
    word = "federation.server_optimiser"
    check_one_of(f"{word}.name", optimiser.name, tuple(SERVER_OPTIMISERS))
    known = SERVER_OPTIMISERS[optimiser.name]
    for entry in fields(optimiser):
        value = getattr(optimiser, entry.name)
        if entry.name == "name" or value is None:
            continue
        if entry.name not in known:
            others = [name for name, words in SERVER_OPTIMISERS.items() if entry.name in words]
            raise ConfigurationError(
                f"{word}.{entry.name} is {value}, but {optimiser.name} has none; {' and '.join(others)} "
                f"{'have' if len(others) > 1 else 'has'} one: leave it out or choose another {word}.name."
            )
        if entry.name in ("learning_rate", "epsilon"):
            if not 0 < value < math.inf:
                raise ConfigurationError(f"{word}.{entry.name} is {value}; it must be a finite number above 0.")
        elif not 0 <= value < 1:
            raise ConfigurationError(f"{word}.{entry.name} is {value}; it must be at least 0 and below 1.")


def _check_federation(config: RunConfig) -> None:
    """Whether the words of the federation's algorithm make sense together."""
    federation = config.federation
    for word in ("join_timeout_seconds", "round_timeout_seconds"):
        if not 0 < getattr(federation, word) < math.inf:
            raise ConfigurationError(
                f"federation.{word} is {getattr(federation, word)}; it must be a finite number of seconds above 0."
            )
    if not 0 <= federation.proximal_mu < math.inf:
        raise ConfigurationError(
            f"federation.proximal_mu is {federation.proximal_mu}; it must be a finite number of at least 0."
        )
    factor = federation.outlying_norm_factor
    if factor is not None and not 1 < factor < math.inf:
        raise ConfigurationError(
            f"federation.outlying_norm_factor is {factor}; it must be a finite number above 1, or null for no limit."
        )
    if not 0 < federation.participation <= 1:
        raise ConfigurationError(
            f"federation.participation is {federation.participation}; it is the fraction of sites that train in a round, "
            "so it must be above 0 and at most 1."
        )
    if federation.proximal_mu and federation.local_steps == 1 and federation.local_epochs is None:
        raise ConfigurationError(
            f"federation.proximal_mu is {federation.proximal_mu}, but with federation.local_steps=1 it changes nothing: its "
            "gradient is zero where a round begins. Give more local steps, or leave it out."
        )
    if federation.update_encoding != UPDATE_ENCODINGS[0] and config.training.dtype != DTYPES[0]:
        raise ConfigurationError(
            f"training.dtype={config.training.dtype} asks for every bit and federation.update_encoding="
            f"{federation.update_encoding} drops most of them: leave one out."
        )
    choices = _federated_choices(federation)
    if config.mode == "federated" and config.strategy == "individual" and choices:
        raise ConfigurationError(
            f"{next(iter(choices))} is given, but strategy=individual shares nothing, so that there is nothing to aggregate "
            "or send: leave it out."
        )
    if federation.lockstep:
        _check_lockstep(config, choices)


def _federated_choices(federation: FederationConfig) -> dict[str, object]:
    """What was chosen about aggregation: those words that differ from plain averaging of all sites."""
    plain, word = FederationConfig(), "federation.server_optimiser"
    given = {
        f"federation.{name}": getattr(federation, name)
        for name in ("proximal_mu", "participation", "site_weights", "update_encoding", "lockstep")
        if getattr(federation, name) != getattr(plain, name)
    }
    own = federation.server_optimiser
    changed = [
        entry.name for entry in fields(own) if getattr(own, entry.name) != getattr(plain.server_optimiser, entry.name)
    ]
    return given | {f"{word}.{name}": getattr(own, name) for name in changed}


def _check_lockstep(config: RunConfig, choices: dict[str, object]) -> None:
    """Lock-step is centralised training in another place: what would make it anything else is an error."""
    if config.federation.local_steps != 1 or config.federation.local_epochs is not None:
        raise ConfigurationError(
            "federation.lockstep=true takes one step a round, as pooled training does between two updates: give "
            "federation.local_steps=1 and no federation.local_epochs."
        )
    others = [word for word in choices if word != "federation.lockstep"]
    if others:
        raise ConfigurationError(
            f"federation.lockstep=true averages every site's gradient, all of its bits, and applies training.optimiser to it; "
            f"{others[0]}={choices[others[0]]} would make that another training: leave one out."
        )
    if strategy_named(config.strategy).sharing is Sharing.EVERYTHING:
        raise ConfigurationError(
            f"federation.lockstep=true cannot reproduce strategy={config.strategy} on pooled data, whose one normalisation sees "
            "all sites' slices at once, which no site can: use a dsl strategy."
        )


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
            "encoder: leave network.width out."
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
    if count == 0:
        return
    source = strategy_named(config.strategy).source
    if source is not None and config.sites and source not in config.sites:
        raise ConfigurationError(
            f"strategy={config.strategy} takes the site '{source}', which is none of {', '.join(config.sites)}."
        )
    strategy = strategy_named(config.strategy)
    if strategy.sharing is not Sharing.NOTHING:
        share_of_batch(config.training.batch_size, count)
    if strategy.prior:
        share_of_batch(config.autoencoder.batch_size, count, "autoencoder.batch_size")
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


def share_of_batch(batch_size: int, domains: int, word: str = "training.batch_size") -> int:
    """Slices of each domain in a batch that is split equally (section 5 of the method; the paper, section 3.3).

    Raises:
        ConfigurationError: if the batch cannot be split equally.
    """
    if batch_size % domains:
        lower = max(batch_size // domains, 1) * domains
        raise ConfigurationError(
            f"{word} is {batch_size}, which {domains} domains cannot share equally: "
            f"the nearest that they can are {lower} and {lower + domains}."
        )
    return batch_size // domains


def sites_a_round(sites: int, participation: float) -> int:
    """How many of ``sites`` train in a round: the nearest number to their fraction, one at least.

    >>> [sites_a_round(3, fraction) for fraction in (0.1, 0.5, 0.67, 1.0)]
    [1, 2, 2, 3]
    """
    return max(1, math.floor(participation * sites + 0.5))


def check_one_of(word: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ConfigurationError(f"{word}={given} is not known; {nearest(given, known)}")
