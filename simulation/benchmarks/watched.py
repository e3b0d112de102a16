"""A federation in one process with someone who looks on after each round: what benchmarks of training itself share."""

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from client.app import build_client_app
from client.site import Site
from mtmd_core.arrays import keep_memory
from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.devices import limit_threads
from mtmd_core.errors import ConfigurationError
from mtmd_core.wire import SHARED, Arrays
from server.app import coordinate
from server.run_store import RunStore
from server.server_optimiser import DEFAULTS
from server.update_norms import update_norm
from simulation.data import load_sites, make_phantoms
from simulation.federated import build_site
from simulation.grid import InProcessGrid
from simulation.ladder import Rung, rung_config
from simulation.progress import RunDisplay


@dataclass(frozen=True)
class Look:
    """What is to be seen after a round of segmentation.

    ``before`` and ``shared``: the shared parameters before and after it; ``norms``: those of the sites' updates.
    """

    config: RunConfig
    run: str
    round: int
    before: Arrays
    shared: Arrays
    norms: Sequence[float]
    members: Mapping[str, Site]

    @property
    def rate(self) -> float:
        """The server's: the round's change over the mean of the sites' updates."""
        return self.config.federation.server_optimiser.learning_rate or DEFAULTS["fedavg"]["learning_rate"]

    @property
    def change(self) -> float:
        """Norm of the round's change of the shared parameters."""
        return update_norm(self.shared, self.before, SHARED)


def watch(rung: Rung, words: Sequence[str], every: int, look: Callable[[Look], None]) -> None:
    """Train a rung of the ladder, and call ``look`` every so many rounds, from the second on.

    Args:
        rung: a federation; FedAvg, all sites alike in every round.
        words: of ``mtmd-simulate``, after ``experiment=ladder``.
        every: rounds from one look to the next.
        look: called with what is to be seen.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    console = Console(quiet=True)
    config = compose("simulate", ["experiment=ladder", *words])
    config = replace(config, threads=config.threads or 1, sites=config.sites or make_phantoms(config, console))
    config = rung_config(config, rung, config.study.folds[0])
    _check(config, every)
    limit_threads(config.threads)
    with RunDisplay(1, console) as display, tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), {}
        members = {site: build_site(config, data, folder, display) for site, data in load_sites(config).items()}
        grid = InProcessGrid({site: build_client_app(own) for site, own in members.items()})
        store = RunStore(folder, config, every_round=True)

        def on_round(round_: int, _metrics: Mapping) -> None:
            nonlocal before
            shared = store.last().shared
            if before and round_ % every == 0:
                norms = [line["update_norm"] for line in store.metrics() if line["round"] == round_]
                look(Look(config, store.name, round_, before, shared, norms, members))
            before = shared

        coordinate(grid, config, store, on_round)


def _check(config: RunConfig, every: int) -> None:
    """What such benchmarks say holds where the round's change is the plain mean of all sites' updates, at the server's rate."""
    federation = config.federation
    if (federation.server_optimiser.name, federation.site_weights, federation.participation) != ("fedavg", "equal", 1):
        raise ConfigurationError(
            "this benchmark is of FedAvg with all sites alike: leave out federation.server_optimiser.name, .site_weights and "
            ".participation."
        )
    if not 1 <= every <= federation.rounds:
        raise ConfigurationError(
            f"--every is {every}; it must be at least 1 and at most the {federation.rounds} rounds."
        )


def arguments(description: str) -> argparse.Namespace:
    """``--every`` and the words of such a benchmark's command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=10, help="rounds from one look to the next")
    parser.add_argument("words", nargs="*", help="words of mtmd-simulate, such as training.steps=600")
    return parser.parse_args()
