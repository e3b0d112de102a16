"""``experiment=lockstep``: a federation in lock-step against training on pooled data, parameter by parameter.

With one step a round, the same batches and the optimiser of what is shared at the server, a federation is centralised training:
the losses of Eq. 1 and Eq. 7 separate over domains, and so do the statistics of domain-specific normalisation. Whatever differs
is rounding, because sums over sites run in another order.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from client.app import build_client_app
from mtmd_core.arrays import keep_memory
from mtmd_core.config import AUTOENCODER, DTYPES, OPTIMISERS, NetworkConfig, RunConfig
from mtmd_core.config_checks import checked
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Objective, PriorTerm, Reconstruction, Segmentation
from mtmd_core.parameters import partition
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import STRATEGIES, Sharing
from mtmd_core.training import Recipe, build_optimiser, train
from server.app import coordinate
from server.run_store import RunStore

from ..centralised import placed
from ..federated import build_site
from ..grid import InProcessGrid
from ..pool import Pool
from ..progress import RunDisplay

EXACT = ("dsl", "dsl_mjap")
"""Strategies whose losses separate over domains, so that lock-step is exact. Contrast (Eq. 5) couples domains."""
ADAMS_SHARE = 0.1
"""Adam's learning rate as a share of the configured one, which is gradient descent's: its steps have the size of the rate
whatever the gradient, and at the whole rate an untrained Efficient-UNet magnifies rounding a millionfold in 20 of them."""


def run_lockstep(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Train both ways with every network and strategy of ``study``, optimiser and dtype; write ``lockstep.json``.

    A list of records: ``network``, ``strategy``, ``optimiser``, ``dtype``, ``steps``; ``max_difference_shared`` and
    ``max_difference_private``, the largest absolute difference between the federation's and centralised training's parameters;
    ``max_difference_statistics``, that of running means and variances; and ``max_change``, how far the parameter moved that
    moved farthest, beside which the differences are to be read.

    Both ways train the prior's auto-encoder too where a strategy has one, the federation in rounds of its own.

    Raises:
        ConfigurationError: for a strategy that lock-step cannot reproduce, or where it is not said how many steps to take.
    """
    _check(config)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    steps = config.training.steps
    cases = [
        (network, strategy, optimiser, dtype)
        for dtype in DTYPES
        for network in config.study.networks
        for strategy in config.study.strategies
        for optimiser in OPTIMISERS
    ]
    total = sum(_steps(config, strategy) for _, strategy, _, _ in cases) * (1 + len(sites))
    records = []
    with RunDisplay(total, console) as display:
        for network, strategy, optimiser, dtype in cases:
            display.stage(f"{network} {strategy} {optimiser} {dtype}")
            variant = _variant(config, network, strategy, optimiser, dtype)
            pool = Pool(variant, sites)
            names = {"network": network, "strategy": strategy, "optimiser": optimiser, "dtype": dtype, "steps": steps}
            names["learning_rate"] = variant.training.learning_rate
            pooled = _train_pooled(variant, pool, display)
            members = _train_federation(variant, pool, display)
            records.append(names | _differences(variant, pool, pooled, members))
    write_json(folder / "lockstep.json", records)
    _print(records, console)
    return {"experiment": "lockstep", "records": len(records)}


def _check(config: RunConfig) -> None:
    others = [strategy for strategy in config.study.strategies if strategy not in EXACT]
    if others:
        raise ConfigurationError(
            f"study.strategies has {others[0]}, which lock-step does not reproduce on pooled data; it does {' and '.join(EXACT)}."
        )
    for word, steps in (("training.steps", config.training.steps), ("autoencoder.steps", config.autoencoder.steps)):
        if steps is None:
            raise ConfigurationError(
                f"{word} is not given; lock-step is compared after a stated number of steps: give {word}=20."
            )


def _steps(config: RunConfig, strategy: str) -> int:
    return config.training.steps + (config.autoencoder.steps if STRATEGIES[strategy].prior else 0)


def _variant(config: RunConfig, network: str, strategy: str, optimiser: str, dtype: str) -> RunConfig:
    """The run of one case: rounds of one step, nothing released, so that the last round is the one that is kept."""
    width = config.network.width if network == "att_unet" else NetworkConfig.width
    slower = ADAMS_SHARE if optimiser == "adam" else 1.0
    federation = replace(
        config.federation,
        rounds=config.training.steps,
        autoencoder_rounds=config.autoencoder.steps,
        local_steps=1,
        lockstep=True,
        release="none",
        validate_every_rounds=max(config.training.steps, config.autoencoder.steps),
    )
    return checked(
        replace(
            config,
            experiment=None,
            mode="federated",
            strategy=strategy,
            network=NetworkConfig(network, width),
            training=replace(
                config.training, optimiser=optimiser, dtype=dtype, learning_rate=slower * config.training.learning_rate
            ),
            autoencoder=replace(config.autoencoder, learning_rate=slower * config.autoencoder.learning_rate),
            federation=federation,
        )
    )


def _train_pooled(config: RunConfig, pool: Pool, display: RunDisplay) -> nn.Module:
    prior = None
    if STRATEGIES[config.strategy].prior:
        own = config.autoencoder
        recipe, network = pool.recipe(own, derive_seed(config.seed, AUTOENCODER)), NetworkConfig(AUTOENCODER, own.width)
        autoencoder = _trained(network, config, pool, recipe, own.steps, Reconstruction(pool.classes), display)
        prior = PriorTerm(autoencoder, pool.classes, config.loss.prior_weight)
    recipe = pool.recipe(config.training, config.seed)
    return _trained(config.network, config, pool, recipe, config.training.steps, Segmentation(prior=prior), display)


def _trained(
    network: NetworkConfig,
    config: RunConfig,
    pool: Pool,
    recipe: Recipe,
    steps: int,
    objective: Objective,
    display: RunDisplay,
) -> nn.Module:
    trained = placed(build_network(network, pool.classes, recipe.seed), config)
    optimiser = build_optimiser(trained, recipe.learning_rate, recipe.optimiser)
    train(trained, optimiser, pool.sources, recipe, range(steps), display.step, objective)
    return trained


def _train_federation(config: RunConfig, pool: Pool, display: RunDisplay) -> dict[str, nn.Module]:
    """The networks that the sites end with, by site; everything passes through the deployed apps."""
    with tempfile.TemporaryDirectory() as place:
        members = {name: build_site(config, data, Path(place), display) for name, data in pool.sites.items()}
        grid = InProcessGrid({name: build_client_app(site) for name, site in members.items()})
        coordinate(grid, config, RunStore(Path(place), config, every_round=False))
    return {name: site.learner.network for name, site in members.items()}


def _differences(
    config: RunConfig, pool: Pool, pooled: nn.Module, members: Mapping[str, nn.Module]
) -> dict[str, float]:
    """Largest absolute differences over all sites, and the largest change since the beginning."""
    initial = build_network(config.network, pool.classes, config.seed).state_dict()
    truth = pooled.state_dict()
    largest = dict.fromkeys(("shared", "private", "statistics"), 0.0)
    for network in members.values():
        parts, parameters = partition(network, Sharing.CONVOLUTIONS), dict(network.named_parameters())
        for name, tensor in network.state_dict().items():
            kind = "statistics" if name not in parameters else "shared" if name in parts.shared else "private"
            largest[kind] = max(largest[kind], float((tensor - truth[name]).abs().max()))
    moved = max(float((value.detach().cpu() - initial[name]).abs().max()) for name, value in pooled.named_parameters())
    return {f"max_difference_{kind}": value for kind, value in largest.items()} | {"max_change": moved}


def _print(records: list[dict], console: Console) -> None:
    table = Table("network, strategy", "optimiser", title="federation in lock-step against pooled training")
    for title in ("shared", "private", "statistics", "moved"):
        table.add_column(title, justify="right")
    for record in records:
        values = [record[f"max_difference_{kind}"] for kind in ("shared", "private", "statistics")]
        who, how = (f"{record[a]} {record[b]}" for a, b in (("network", "strategy"), ("optimiser", "dtype")))
        table.add_row(who, how, *(f"{value:.0e}" for value in (*values, record["max_change"])))
    console.print(table)
