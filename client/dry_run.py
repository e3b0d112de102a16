"""``mtmd-client outbox --dry-run``: what would leave under this site's policy, without sending or recording anything.

A network of the plan is built, and its shared parameters go through the site's own outbox, which has no ledger here; so what is
shown is what the door lets out, and not what a list says of it. Values are those of an untrained network; names, shapes, dtypes
and bytes are those of a round.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import RecordDict

from mtmd_core.config import AUTOENCODER, NetworkConfig, RunConfig
from mtmd_core.data.dataset import load_dataset
from mtmd_core.errors import ConfigurationError
from mtmd_core.federation_checks import share_of_batch
from mtmd_core.minimum import Minimum
from mtmd_core.networks.build import build_network, embedding_sizes
from mtmd_core.objectives import CONTRAST, CROSS_ENTROPY, PRIOR, PROXIMAL, contrasted
from mtmd_core.parameters import partition, take
from mtmd_core.prototype_arrays import COUNTS, array_shapes
from mtmd_core.quantities import say_bytes
from mtmd_core.scores import METRICS_2D, METRICS_3D
from mtmd_core.strategies import Contrast, Sharing, label_spaces, strategy_named
from mtmd_core.update_encoding import FLOAT32, encode_update
from mtmd_core.wire import (
    PACKED,
    SHARED,
    UPDATE,
    ContrastPlan,
    Contribution,
    Receipt,
    RoundPlan,
    from_record,
    unpack_arrays,
)

from .labels import label_space
from .limits import Limits, RefusedPlanError
from .outbox import Outbox
from .settings import SiteSettings
from .site import LAST_PLAN, Site
from .site_state import MemoryState


@dataclass(frozen=True)
class Asked:
    """A plan that a site could be sent, and where it comes from.

    ``alone``: it counts this site's structures alone, where a coordinator counts those of all sites.
    """

    plan: RoundPlan
    contrast: bool
    single_scale: bool
    source: str
    alone: bool = False


def dry_run(settings: SiteSettings, strategy: str | None) -> int:
    """Print every record that would leave in roll call, a round and the final test; 0.

    Args:
        settings: of the site; its policy.
        strategy: for which the default configuration is shown; None takes the plan of the site's last round, if it had one.

    Raises:
        ConfigurationError: if no data folder is set, or the plan does not hold the site's structures.
    """
    if settings.data is None:
        raise ConfigurationError(f"no data folder is set for {settings.site}: give --data DIR.")
    structures = len(load_dataset(settings.data).structures)
    asked = _last(settings.state / LAST_PLAN) if strategy is None else None
    if asked is None:
        strategy = strategy or ("dsl" if "dsl" in settings.strategies else settings.strategies[0])
        asked = _default(strategy, settings.site, structures)
    print(f"{settings.site}: what would leave, by the settings in {settings.state} (release: {settings.release})")
    print(
        f"plan: {asked.source}: strategy {asked.plan.strategy}, {asked.plan.network}, updates in {asked.plan.update_encoding}"
    )
    if asked.alone:
        print(
            "the structures of all sites, which share one output layer, are unknown until the server asks: that layer is shown "
            "as if this site were alone"
        )
    try:
        visits = _visits(settings, structures, asked)
    except RefusedPlanError as error:
        print(f"nothing: this site refuses the plan: {error}")
        return 0
    for visit, content in visits.items():
        print(f"\n{visit}")
        _show(content)
    print("\nnothing was sent, and nothing was written into the ledger")
    return 0


def _visits(settings: SiteSettings, structures: int, asked: Asked) -> dict[str, RecordDict]:
    """What the outbox lets out in each kind of visit."""
    plan, minimum = asked.plan, Minimum(settings.minimum_exams, settings.minimum_slices)
    outbox = Outbox(settings.release, None, minimum)
    site = Site(
        settings.site,
        structures,
        load_data=lambda size, axis: None,
        state=MemoryState(),
        outbox=outbox,
        device=torch.device("cpu"),
        limits=Limits(settings.limits),
        strategies=tuple(settings.strategies),
    )
    site.check_limits(plan)
    space = label_space(plan, settings.site, structures)
    network = build_network(NetworkConfig(plan.network, plan.width), {space.domain: space.classes}, plan.seed)
    parts = partition(network.to(getattr(torch, plan.dtype)), strategy_named(plan.strategy).sharing)
    shared = take(network, parts.shared)
    contribution = Contribution(SHARED, shared)
    if plan.update_encoding != FLOAT32 and shared:
        contribution = Contribution(UPDATE, encode_update(shared, plan.update_encoding))
    prototypes = _prototypes(plan, asked.single_scale, minimum) if asked.contrast else None
    receipt = Receipt(plan.run, plan.round, settings.site)
    counts = dict.fromkeys(("steps", "seconds_training", "seconds_evaluation", "loss"), 0.0)
    counts |= {"training_slices": 0.0} if plan.tell_slices else {}
    counts |= {f"{kind}/{term}": 0.0 for kind in ("loss", "gradient_norm") for term in _terms(asked)}
    validation, test = _scores("validation", structures), _scores("test", structures)
    title = "a round (prototypes only of enough exams and slices)" if asked.contrast else "a round"
    return {
        "roll call": outbox.facts(site.facts()),
        title: outbox.trained(receipt, counts | validation, contribution, parts, prototypes),
        "the final test": outbox.metrics(receipt, test),
    }


def _terms(asked: Asked) -> list[str]:
    """Names of the terms of a plan's loss."""
    has_prior = strategy_named(asked.plan.strategy).prior and asked.plan.network != AUTOENCODER
    there = {CROSS_ENTROPY: True, CONTRAST: asked.contrast, PRIOR: has_prior, PROXIMAL: asked.plan.proximal_mu > 0}
    return [term for term, is_there in there.items() if is_there]


def _scores(part: str, structures: int) -> dict[str, float]:
    """All scores that a site could send of its validation or test exams."""
    means = {f"{part}/foreground_mean/{metric}": 0.0 for metric in (*METRICS_3D, *METRICS_2D)}
    numbers = range(1, structures + 1)
    return means | {f"{part}/mean/structure_{number}/{metric}": 0.0 for number in numbers for metric in METRICS_3D}


def _prototypes(plan: RoundPlan, single_scale: bool, minimum: Minimum) -> Mapping[str, np.ndarray]:
    sizes = contrasted(embedding_sizes(NetworkConfig(plan.network, plan.width)), single_scale)
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in array_shapes(sizes).items()}
    return arrays | {COUNTS: np.float32([minimum.slices, minimum.exams, minimum.slices])}


def _last(path: Path) -> Asked | None:
    """The plan of the site's last round, if it had one."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        plan = from_record(RoundPlan, kept["plan"])
        contrast = None if kept["contrast"] is None else from_record(ContrastPlan, kept["contrast"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} does not hold the plan of a round ({error}): give --strategy NAME for the default configuration."
        ) from None
    source = f"the last one, round {plan.round} of run {plan.run}"
    return Asked(plan, contrast is not None, contrast is not None and contrast.single_scale, source)


def _default(strategy: str, site: str, structures: int) -> Asked:
    """What a coordinator that chooses nothing but the strategy would ask of one of three sites."""
    config, kind = RunConfig(), strategy_named(strategy)
    everything, space = kind.sharing is Sharing.EVERYTHING, label_spaces(kind.sharing, {site: structures})[site]
    plan = RoundPlan(
        run="default",
        round=1,
        strategy=strategy,
        network=config.network.name,
        width=config.network.width,
        encoder_weights=config.network.encoder_weights,
        slice_size=config.data.slice_size,
        slice_axis=config.data.slice_axis,
        fold=config.fold,
        seed=config.seed,
        local_steps=config.federation.local_steps,
        share=share_of_batch(config.training.batch_size, 3),
        learning_rate=config.training.learning_rate,
        augment=config.training.augment,
        autocast=config.training.autocast,
        calibration_batches=config.federation.calibration_batches,
        validate=True,
        test=False,
        best_round=0,
        label_offset=space.offset,
        label_classes=space.classes if everything else 0,
    )
    contrast = kind.contrast is not Contrast.NONE
    return Asked(plan, contrast, kind.contrast is Contrast.SINGLE_SCALE, "the default configuration", alone=everything)


def _show(content: RecordDict) -> None:
    for name, record in sorted(content.items()):
        if name not in content.array_records:
            values = ", ".join(f"{key} {value}" if isinstance(value, str) else key for key, value in record.items())
            print(f"  {name}: {values or 'empty'}")
            continue
        data = record[PACKED].data
        arrays, size = unpack_arrays(data), len(data)
        print(f"  {name}: {len(arrays)} arrays, {say_bytes(size)}")
        for key, array in arrays.items():
            shape = "×".join(map(str, array.shape)) or "1"
            print(f"    {key}  {array.dtype} {shape}  {say_bytes(array.nbytes)}")
