"""The rungs between sites that never talk and pooled training, each a run that sees the same images.

A step's batch depends on the seed, the site and the step alone, so all rungs train on the very same images in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mtmd_core.config import FederationConfig, RunConfig, ServerOptimiserConfig, StudyConfig
from mtmd_core.config_checks import checked
from mtmd_core.errors import ConfigurationError
from mtmd_core.federation_checks import share_of_batch
from mtmd_core.strategies import Contrast, Sharing, strategy_named
from mtmd_core.update_encoding import INT8
from mtmd_core.words import NO_RELEASE, check_one_of

from .study import PlannedRun, threads_each

LOCAL, CONSENSUS, LOCKSTEP, POOLED = "local", "consensus", "lockstep", "pooled"
"""Every site alone; models of every site alone whose shared parameters are averaged once, at the end; a federation whose sites
send the gradient of every step; pooled training."""


@dataclass(frozen=True)
class Rung:
    """A way to train. ``local_steps`` a round, None where there are no rounds; ``variant``: what sets it apart from its twin."""

    strategy: str
    kind: str = "federated"
    local_steps: int | None = None
    variant: str = ""

    @property
    def name(self) -> str:
        """What it is called in tables, and its folder.

        >>> Rung("individual", LOCAL).name, Rung("dsl", local_steps=10).name, Rung("dsl", LOCKSTEP, 1).name
        ('local', 'dsl_10', 'dsl_lockstep')
        """
        if self.kind in (LOCAL, CONSENSUS):
            return self.kind
        way = self.kind if self.kind in (LOCKSTEP, POOLED) else str(self.local_steps)
        parts = (self.strategy, way, self.variant)
        return "_".join(filter(None, parts))

    @property
    def twin(self) -> "Rung | None":
        """The rung that it should equal but for being a federation, or but for its variant; None if there is none."""
        if self.variant:
            return replace(self, variant="")
        return None if self.kind in (LOCAL, POOLED) else Rung(self.strategy, POOLED)


class RungKey(NamedTuple):
    """Which of a ladder's runs."""

    rung: Rung
    fold: int

    def __str__(self) -> str:
        return f"{self.rung.name} fold {self.fold}"


def rungs_of(config: RunConfig) -> list[Rung]:
    """The rungs of a ladder: those that ``study.rungs`` names and local, against which all are held; all if it names none.

    Raises:
        ConfigurationError: if it names one that the ladder does not have.
    """
    rungs, wanted = _all_rungs(config.study), config.study.rungs
    names = [rung.name for rung in rungs]
    for name in wanted:
        check_one_of("study.rungs", name, names)
    return [rung for rung in rungs if not wanted or rung.name in wanted or rung.kind == LOCAL]


def _all_rungs(study: StudyConfig) -> list[Rung]:
    """Local, consensus, then of every strategy its federations and the pooled twin, then variants.

    Those that ``study.variants`` names, in its order: the last strategy in lock-step; with the middle number of local steps
    int8 updates of the last strategy, and of the first strategy with a contrast the first-order prototypes, the own-batch
    terms and noise.
    """
    rungs = [Rung("individual", LOCAL), Rung("dsl", CONSENSUS)]
    for strategy in study.strategies:
        rungs += [Rung(strategy, local_steps=steps) for steps in sorted(study.local_steps)]
        rungs.append(Rung(strategy, POOLED))
    middle = sorted(study.local_steps)[len(study.local_steps) // 2]
    contrasted = [name for name in study.strategies if strategy_named(name).contrast is not Contrast.NONE]
    for variant in study.variants:
        if variant == LOCKSTEP:
            rungs.append(Rung(study.strategies[-1], LOCKSTEP, local_steps=1))
            continue
        takers = study.strategies[-1:] if variant == INT8 else contrasted[:1]
        rungs += [Rung(name, local_steps=middle, variant=variant) for name in takers]
    return rungs


_ABLATIONS = {"first_order": {"order": "first"}, "own_batch": {"own_batch": True}, "noised": {"noise_multiplier": 1.0}}
"""Variant → words of ``prototypes``."""


def plan_ladder(config: RunConfig, folder: Path) -> list[PlannedRun]:
    """The runs of all rungs, fold by fold, so that a ladder that is stopped early has compared all rungs in some folds.

    Raises:
        ConfigurationError: if rungs would not see the same images or validate as often, a strategy shares nothing, or a run
            cannot be as it is asked for.
    """
    for name in config.study.strategies:
        if strategy_named(name).sharing is Sharing.NOTHING:
            raise ConfigurationError(
                f"study.strategies has {name}, under which nothing is shared: leave it out. Of experiment=ladder the rung "
                f"`{LOCAL}` is that, with as many images a site as all others see."
            )
    _check_same_images(config.federation)
    _check_steps(config)
    network = config.network.name
    return [
        PlannedRun(
            RungKey(rung, fold), rung_config(config, rung, fold), folder / "runs" / network / rung.name / f"fold_{fold}"
        )
        for fold in config.study.folds
        for rung in rungs_of(config)
    ]


def rung_config(config: RunConfig, rung: Rung, fold: int) -> RunConfig:
    """The configuration of one run: ``training.steps`` steps with a share of the batch at every site, however they are split."""
    training, autoencoder, federation = config.training, config.autoencoder, config.federation
    own = replace(config, experiment=None, strategy=rung.strategy, fold=fold, threads=threads_each(config))
    if rung.kind == POOLED:
        return checked(replace(own, mode="centralised"))
    if rung.kind in (LOCAL, LOCKSTEP):
        # Nothing is shared in any way, or nothing but gradients, in one way.
        federation = FederationConfig(
            calibration_batches=federation.calibration_batches, lockstep=rung.kind == LOCKSTEP
        )
    if rung.kind == LOCAL:
        # Alone, a network sees the whole batch (Table 1 of the paper); here a site's images are as many as in a federation.
        share = share_of_batch(training.batch_size, len(config.sites), "training.batch_size")
        own = replace(own, training=replace(training, batch_size=share))
    if rung.kind == CONSENSUS:
        federation = replace(
            federation, server_optimiser=ServerOptimiserConfig()
        )  # the mean itself, no step towards it
    local_steps = {LOCAL: training.validate_every_steps, CONSENSUS: training.steps}.get(rung.kind, rung.local_steps)
    federation = replace(
        federation,
        local_steps=local_steps,
        rounds=training.steps // local_steps,
        autoencoder_rounds=max(autoencoder.steps // local_steps, 1),
        validate_every_rounds=max(training.validate_every_steps // local_steps, 1),
        update_encoding=INT8 if rung.variant == "int8" else federation.update_encoding,
    )
    prototypes = replace(config.prototypes, **_ABLATIONS.get(rung.variant, {}))
    return checked(replace(own, mode="federated", federation=federation, prototypes=prototypes))


def _check_same_images(federation: FederationConfig) -> None:
    """That no word of the federation gives its rungs other images than local and pooled training have."""
    if federation.local_epochs is not None:
        raise ConfigurationError(
            f"federation.local_epochs is {federation.local_epochs}, but all rungs of experiment=ladder see the same images only "
            "if they count steps: leave it out, and say with study.local_steps=[…] how many a round has."
        )
    if federation.participation != 1:
        raise ConfigurationError(
            f"federation.participation is {federation.participation}, but with experiment=ladder every site must train in every "
            "round to see as many images as alone: leave it out."
        )
    if federation.release == NO_RELEASE:
        raise ConfigurationError(
            "federation.release is none, but with experiment=ladder every rung chooses its round by validation, as sites alone "
            "and pooled training do: leave it out."
        )


def _check_steps(config: RunConfig) -> None:
    given = {
        "training.steps": config.training.steps,
        "autoencoder.steps": config.autoencoder.steps,
        "training.validate_every_steps": config.training.validate_every_steps,
    }
    for word, value in given.items():
        if value is None:
            raise ConfigurationError(
                f"experiment=ladder needs {word}=: all rungs take as many steps, in rounds or not."
            )
        for local_steps in config.study.local_steps:
            if value % local_steps:
                raise ConfigurationError(
                    f"{word} is {value}, not a multiple of {local_steps} in study.local_steps: rounds must add up to it."
                )
    if config.training.steps % config.training.validate_every_steps:
        raise ConfigurationError(
            f"training.steps is {config.training.steps}, not a multiple of training.validate_every_steps="
            f"{config.training.validate_every_steps}: all rungs must choose among as many rounds."
        )


def sites_and_folds(planned: Sequence[PlannedRun]) -> tuple[list[str], list[int]]:
    """The sites of a ladder by name, and its folds."""
    return sorted(planned[0].config.sites), sorted({run.key.fold for run in planned})
