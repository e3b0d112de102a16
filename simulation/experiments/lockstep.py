"""``experiment=lockstep``: a federation in lock-step against training on pooled data, parameter by parameter.

With one step a round, the same batches and the optimiser of what is shared at the server, a federation is centralised training:
the losses of Eq. 1 and Eq. 7 separate over domains, and so do the statistics of domain-specific normalisation. Whatever differs
is rounding, because sums over sites run in another order.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from client.app import build_client_app
from client.learner import Learner
from client.site import Site
from mtmd_core.arrays import keep_memory
from mtmd_core.config import DTYPES, OPTIMISERS, NetworkConfig, RunConfig
from mtmd_core.config_checks import checked
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.autoencoder import Autoencoder
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import PriorTerm, Reconstruction, Segmentation
from mtmd_core.parameters import partition
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import STRATEGIES, Sharing
from mtmd_core.training import build_optimiser, train
from mtmd_core.wire import RoundPlan
from server.app import coordinate
from server.run_store import RunStore

from ..centralised import AUTOENCODER, placed
from ..federated import build_site
from ..grid import InProcessGrid
from ..pool import Pool
from ..progress import RunDisplay

EXACT = ("dsl", "dsl_mjap")
"""Strategies whose losses separate over domains, so that lock-step is exact. Contrast (Eq. 5) couples domains."""


def run_lockstep(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Train both ways with every network and strategy of ``study``, optimiser and dtype; write ``lockstep.json``.

    A list of records: ``network``, ``strategy``, ``optimiser``, ``dtype``, ``steps``; ``max_difference_shared`` and
    ``max_difference_private``, the largest absolute difference between the federation's and centralised training's parameters;
    ``max_difference_statistics``, that of running means and variances; and ``max_change``, how far the parameter moved that
    moved farthest, beside which the differences are to be read.

    The prior's auto-encoder is trained on pooled data in each dtype and given to both, to each site the part that is its own.

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
    total = len(cases) * steps * (1 + len(sites)) + len(DTYPES) * config.autoencoder.steps
    records, priors = [], {}
    with RunDisplay(total, console) as display:
        for network, strategy, optimiser, dtype in cases:
            display.stage(f"{network} {strategy} {optimiser} {dtype}")
            variant = _variant(config, network, optimiser, dtype)
            pool = Pool(variant, sites)
            if dtype not in priors:
                priors[dtype] = _autoencoder(variant, pool, display)
            prior = priors[dtype] if STRATEGIES[strategy].prior else None
            names = {"network": network, "strategy": strategy, "optimiser": optimiser, "dtype": dtype, "steps": steps}
            pooled = _train_pooled(variant, pool, prior, display)
            members = _train_federation(variant, pool, prior, display)
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


def _variant(config: RunConfig, network: str, optimiser: str, dtype: str) -> RunConfig:
    """The run of one case: rounds of one step, nothing released, so that the last round is the one that is kept."""
    width = config.network.width if network == "att_unet" else NetworkConfig.width
    federation = replace(
        config.federation,
        rounds=config.training.steps,
        local_steps=1,
        lockstep=True,
        release="none",
        validate_every_rounds=config.training.steps,
        calibration_batches=0,
    )
    return checked(
        replace(
            config,
            experiment=None,
            mode="federated",
            strategy="dsl",
            network=NetworkConfig(network, width),
            training=replace(config.training, optimiser=optimiser, dtype=dtype),
            federation=federation,
        )
    )


def _autoencoder(config: RunConfig, pool: Pool, display: RunDisplay) -> Autoencoder:
    """The multi-joint auto-encoder after a few steps on pooled label maps."""
    seed = derive_seed(config.seed, AUTOENCODER)
    network = placed(build_network(_autoencoder_config(config), pool.classes, seed), config)
    recipe = pool.recipe(config.autoencoder, seed)
    optimiser = build_optimiser(network, recipe.learning_rate)
    steps = range(config.autoencoder.steps)
    train(network, optimiser, pool.sources, recipe, steps, display.step, Reconstruction(pool.classes))
    return network


def _autoencoder_config(config: RunConfig) -> NetworkConfig:
    return NetworkConfig(AUTOENCODER, config.autoencoder.width)


def _train_pooled(config: RunConfig, pool: Pool, prior: Autoencoder | None, display: RunDisplay) -> nn.Module:
    network = placed(build_network(config.network, pool.classes, config.seed), config)
    recipe = pool.recipe(config.training, config.seed)
    optimiser = build_optimiser(network, recipe.learning_rate, recipe.optimiser)
    objective = Segmentation(prior=None if prior is None else PriorTerm(prior, pool.classes, config.loss.prior_weight))
    train(network, optimiser, pool.sources, recipe, range(config.training.steps), display.step, objective)
    return network


def _train_federation(
    config: RunConfig, pool: Pool, prior: Autoencoder | None, display: RunDisplay
) -> dict[str, nn.Module]:
    """The networks that the sites end with, by site; everything passes through the deployed apps."""
    with tempfile.TemporaryDirectory() as place:
        members = {}
        for name, data in pool.sites.items():
            site = build_site(config, data, Path(place), display)
            members[name] = site if prior is None else _with_prior(site, _own_term(config, pool, prior, name))
        grid = InProcessGrid({name: build_client_app(site) for name, site in members.items()})
        coordinate(grid, config, RunStore(Path(place), config, every_round=False))
    return {name: site.learner.network for name, site in members.items()}


def _own_term(config: RunConfig, pool: Pool, prior: Autoencoder, site: str) -> PriorTerm:
    """The anatomical prior with an auto-encoder that knows one domain alone, cut out of the pooled one."""
    classes = {site: pool.classes[site]}
    own = placed(build_network(_autoencoder_config(config), classes, config.seed), config)
    own.load_state_dict({name: prior.state_dict()[name] for name in own.state_dict()})
    return PriorTerm(own, classes, config.loss.prior_weight)


@dataclass
class _SiteWithPrior(Site):
    """A site whose objective has the anatomical prior."""

    prior: PriorTerm | None = None

    def _learner_for(self, plan: RoundPlan) -> Learner:
        learner = super()._learner_for(plan)
        learner.objective = Segmentation(prior=self.prior)
        return learner


def _with_prior(site: Site, prior: PriorTerm) -> Site:
    return _SiteWithPrior(**vars(site), prior=prior)


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
    table = Table("network", "strategy", "optimiser", "dtype", title="federation in lock-step against pooled training")
    for title in ("shared", "private", "statistics", "moved"):
        table.add_column(title, justify="right")
    for record in records:
        values = [record[f"max_difference_{kind}"] for kind in ("shared", "private", "statistics")]
        cells = [record[word] for word in ("network", "strategy", "optimiser", "dtype")]
        table.add_row(*cells, *(f"{value:.1e}" for value in values), f"{record['max_change']:.1e}")
    console.print(table)
