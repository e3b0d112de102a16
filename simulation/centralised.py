"""The paper's strategies on pooled data: the auto-encoder first where there is one, then segmentation."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from mtmd_core.config import AUTOENCODER, NetworkConfig, RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import Split
from mtmd_core.devices import choose_device, to_device
from mtmd_core.errors import ConfigurationError
from mtmd_core.evaluation import SiteScores
from mtmd_core.models import ModelCard, load_model, save_model
from mtmd_core.networks.autoencoder import Autoencoder
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import ContrastTerm, PriorTerm, Reconstruction, Segmentation
from mtmd_core.scores import summarise_run
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import Contrast, LabelSpace, Sharing, strategy_named
from mtmd_core.transfer import transfer_weights

from .fit import Trainee, fit, forget_unfinished_lines
from .pool import Pool
from .progress import RunDisplay
from .trained import ALL_SITES, network_file


def run_centralised(
    config: RunConfig, sites: dict[str, SiteData], folder: Path, display: RunDisplay
) -> tuple[dict, dict[str, SiteScores]]:
    """Train the strategy's network or networks and test them; returns the run's summary and its test scores by site.

    What the run could go on from stays in ``folder``, so that one that ends before its summary is written is not lost.
    """
    forget_unfinished_lines(folder)
    strategy = strategy_named(config.strategy)
    prior = trained_prior(config, sites, folder, display) if strategy.prior else None
    objective = Segmentation(contrast_term(config, strategy.contrast), prior)
    scores: dict[str, SiteScores] = {}
    chosen: dict[str, int] = {}
    splits: dict[str, Split] = {}
    origin: nn.Module | None = None
    for group in groups(config, sites):
        pool = Pool(config, group)
        splits |= pool.splits
        name = next(iter(group)) if len(group) < len(sites) or len(sites) == 1 else ALL_SITES
        display.stage(f"training {name}")
        network = build_network(config.network, pool.classes, config.seed)
        if origin is not None:
            transfer_weights(origin, strategy.source, network, name)
        network = placed(network, config)
        chosen |= dict.fromkeys(group, _fit_segmentation(pool, network, objective, name, folder, display))
        save_model(network_file(folder, name), network, pool.card)
        if strategy.source in group:
            origin = network
        else:
            scores |= pool.evaluate(network, "test")
    summaries = {
        site: own.summary | {"step": chosen[site], "split": splits[site].as_dict()} for site, own in scores.items()
    }
    return summarise_run(summaries), scores


def groups(config: RunConfig, sites: Mapping[str, SiteData]) -> list[dict[str, SiteData]]:
    """The sites that each network is trained on, in the order of training: all in one, or each in its own, a transfer's
    source first."""
    strategy = strategy_named(config.strategy)
    if strategy.sharing is not Sharing.NOTHING:
        return [dict(sites)]
    order = sorted(sites, key=lambda site: (site != strategy.source, list(sites).index(site)))
    return [{site: sites[site]} for site in order]


def total_steps(config: RunConfig, sites: Mapping[str, SiteData]) -> int:
    """Training steps of the whole run, over all its networks."""
    steps = sum(Pool(config, group).steps(config.training) for group in groups(config, sites))
    if strategy_named(config.strategy).prior and config.autoencoder.model is None:
        steps += Pool(config, sites).steps(config.autoencoder)
    return steps


def images_of_sites(config: RunConfig, sites: Mapping[str, SiteData]) -> dict[str, int]:
    """Site → images of it that its segmentation network is trained on, those that come again counted again."""
    pools = [Pool(config, group) for group in groups(config, sites)]
    training = config.training
    return {
        site: pool.steps(training) * pool.recipe(training, config.seed).share for pool in pools for site in pool.sites
    }


def contrast_term(config: RunConfig, contrast: Contrast, weight: float | None = None) -> ContrastTerm | None:
    """The contrastive term that a strategy asks for, with the weight of the configuration unless one is given."""
    loss = config.loss
    if contrast is Contrast.NONE:
        return None
    single = contrast is Contrast.SINGLE_SCALE
    own = loss.ssc_weight if single else loss.msc_weight
    return ContrastTerm(own if weight is None else weight, loss.temperature, single)


def trained_prior(config: RunConfig, sites: dict[str, SiteData], folder: Path, display: RunDisplay) -> PriorTerm:
    """The anatomical prior: the auto-encoder from the configured file, or trained here first; frozen.

    Raises:
        ConfigurationError: if the file's auto-encoder was made for other sites, structures or label spaces.
    """
    pool = Pool(config, sites)
    if config.autoencoder.model is not None:
        autoencoder = _autoencoder_from_file(Path(config.autoencoder.model), pool)
    else:
        autoencoder = _fit_autoencoder(config, pool, folder, display)
    return PriorTerm(placed(autoencoder, config), pool.classes, config.loss.prior_weight)


def placed(network: nn.Module, config: RunConfig) -> nn.Module:
    """The network on its device, in the memory layout of the configuration, compiled where that is asked for."""
    training = config.training
    network = to_device(network, choose_device(config.device), training.dtype, training.channels_last)
    if training.compile:
        network.compile()
    return network


def _fit_segmentation(
    pool: Pool, network: nn.Module, objective: Segmentation, name: str, folder: Path, display: RunDisplay
) -> int:
    training = pool.config.training
    trainee = Trainee(
        name,
        network,
        objective,
        pool.sources,
        pool.recipe(training, pool.config.seed),
        pool.steps(training),
        training.validate_every_steps,
        lambda: pool.validate(network),
    )
    return fit(trainee, folder, display)


def _fit_autoencoder(config: RunConfig, pool: Pool, folder: Path, display: RunDisplay) -> Autoencoder:
    display.stage("training auto-encoder")
    own = config.autoencoder
    card = replace(pool.card, network=NetworkConfig(AUTOENCODER, own.width))
    seed = derive_seed(config.seed, AUTOENCODER)
    network = placed(build_network(card.network, pool.classes, seed), config)
    contrast = contrast_term(
        config, strategy_named(config.strategy).autoencoder_contrast, config.loss.autoencoder_msc_weight
    )
    trainee = Trainee(
        AUTOENCODER,
        network,
        Reconstruction(pool.classes, contrast),
        pool.sources,
        pool.recipe(own, seed),
        pool.steps(own),
        config.training.validate_every_steps,
        lambda: pool.validate_reconstruction(network),
    )
    fit(trainee, folder, display)
    save_model(network_file(folder, AUTOENCODER), network, card)
    return network


def _autoencoder_from_file(path: Path, pool: Pool) -> Autoencoder:
    network, card = load_model(path)
    if card.network.name != AUTOENCODER:
        raise ConfigurationError(f"autoencoder.model={path} holds a {card.network.name}, not an auto-encoder.")
    if _made_for(card) != _made_for(pool.card):
        raise ConfigurationError(
            f"autoencoder.model={path} was made for {_say(card)}; this run has {_say(pool.card)}: give the model of a run with "
            "the same sites, structures and sharing, or none to train one."
        )
    return network


def _made_for(card: ModelCard) -> dict[str, tuple[LabelSpace, tuple[str, ...]]]:
    return {site: (own.space, own.structures) for site, own in card.sites.items()}


def _say(card: ModelCard) -> str:
    sites = ", ".join(f"{site} ({', '.join(own.structures)})" for site, own in sorted(card.sites.items()))
    return f"{sites} as classes {card.domains}"
