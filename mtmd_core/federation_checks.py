"""Whether the words of a federation make sense together, and what follows from them."""

import math
from dataclasses import fields

from mtmd_core.config import (
    DTYPES,
    SERVER_OPTIMISERS,
    UPDATE_ENCODINGS,
    FederationConfig,
    RunConfig,
    ServerOptimiserConfig,
)
from mtmd_core.errors import ConfigurationError
from mtmd_core.strategies import Sharing, strategy_named
from mtmd_core.words import check_one_of


def check_federation(config: RunConfig) -> None:
    """Whether the words of the federation's algorithm make sense together.

    Raises:
        ConfigurationError: naming the word, what was given and what is possible.
    """
    federation = config.federation
    _check_server_optimiser(federation.server_optimiser)
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
    if config.experiment == "ladder":
        raise ConfigurationError(
            "federation.lockstep=true is one rung of experiment=ladder: leave it out, and say study.variants=[lockstep]."
        )
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
