"""Running statistics of a finished run's networks, measured anew on the exams that it was trained on."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from mtmd_core.calibration import calibrate
from mtmd_core.strategies import Sharing, strategy_named

from .data import load_sites
from .found_runs import FoundRun
from .pool import Pool
from .run_exams import check_exams
from .trained import TrainedNetwork


def recalibrate(networks: Mapping[str, TrainedNetwork], run: FoundRun, batches: int, cache_dir: str) -> None:
    """Give networks the statistics that so many batches of their own training slices have on average.

    What pooled training and sites alone end with is a running mean over the last batches, what federations end with one over
    ``federation.calibration_batches``: each is a draw, and moves Dice by points. Over many batches all are measured alike.

    Args:
        networks: site → network, as :func:`simulation.trained.segmentation_networks` has them; changed in place.
        run: that left them; its exams must still be there.
        batches: as large as in training; enough that every slice is seen several times.
        cache_dir: of slices that are cut.

    Raises:
        DataError: if the run's exams cannot be read.
        ConfigurationError: if they are others by now.
    """
    config = replace(run.config, data=replace(run.config.data, cache_dir=cache_dir))
    sites = load_sites(config)
    check_exams(sites, run.folder)
    alone = strategy_named(config.strategy).sharing is Sharing.NOTHING
    served: dict[nn.Module, list[str]] = {}
    for site, own in networks.items():
        served.setdefault(own.network, []).append(site)
    for network, own_sites in served.items():
        pool = Pool(config, {site: sites[site] for site in own_sites} if alone else sites)
        domains = dict.fromkeys(
            networks[site].card.space.domain for site in own_sites
        )  # in one order, for sums round by it
        calibrate(
            network,
            {domain: pool.sources[domain] for domain in domains},
            pool.recipe(config.training, config.seed),
            batches,
        )
