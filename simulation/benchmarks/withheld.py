"""What an int8 federation's model lacks of its sites' updates at any time, in points of Dice.

Error feedback sends in the next round what rounding took off an update, so the shared parameters of a federation with int8
updates are those of its sites' exact updates less what the sites still keep back: their residuals of the last round, and nothing
of any round before it. ``python -m simulation.benchmarks.withheld`` trains such a federation on phantom joints (the ladder's rung
``dsl_msc_mjap_10_int8``; words of ``mtmd-simulate`` may follow), adds the residuals every so many rounds, and scores every exam
of every site with both models. Both are the same training's, so that their difference is not one between two trainings, which
chance decides.
"""

import argparse
import logging
import math
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from client.app import build_client_app
from client.learner import RESIDUAL, Learner
from client.site import Site
from mtmd_core.arrays import keep_memory
from mtmd_core.calibration import calibrate
from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.devices import limit_threads
from mtmd_core.evaluation import evaluate_exams
from mtmd_core.update_encoding import INT8
from mtmd_core.wire import Arrays
from server.app import coordinate
from server.run_store import RunStore
from simulation.data import load_sites, make_phantoms
from simulation.federated import build_site
from simulation.grid import InProcessGrid
from simulation.ladder import Rung, rung_config
from simulation.progress import RunDisplay

RUNG = Rung("dsl_msc_mjap", local_steps=10, variant=INT8)


def withheld(members: Mapping[str, Site], run: str, round_: int) -> Arrays:
    """The mean of what the sites keep back after a round, by tensor."""
    residuals = [
        {
            name.removesuffix(f"/{RESIDUAL}"): tensor.numpy()
            for name, tensor in site.state.newest(run, upto=round_).optimiser.items()
            if name.endswith(f"/{RESIDUAL}")
        }
        for site in members.values()
    ]
    return {name: np.mean([own[name] for own in residuals], axis=0) for name in residuals[0]}


def dice(learner: Learner, shared: Arrays, batches: int) -> dict[str, float]:
    """Dice in percent of every exam of a site with its private parameters and these shared ones; the learner stays as it was."""
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    learner.receive(shared)
    calibrate(learner.network, learner.sources, learner.recipe, batches, learner.forward)
    cases = evaluate_exams(learner.network, learner.space, learner.data, list(learner.data.exams)).summary[
        "metric_per_case"
    ]
    learner.network.load_state_dict(before)
    return {
        case["case"]: 100 * statistics.fmean(scores["dice"] for scores in case["metrics"].values()) for case in cases
    }


class Comparison:
    """Called after each round of segmentation of a federation with FedAvg; every so often it scores both models."""

    def __init__(self, config: RunConfig, members: Mapping[str, Site], store: RunStore, every: int) -> None:
        self.config, self.members, self.store, self.every = config, members, store, every
        self.rate = config.federation.server_optimiser.learning_rate or 1.0
        self.before: Arrays | None = None
        self.rows: list[tuple[int, float, float, list[float]]] = []

    def __call__(self, round_: int, _metrics: Mapping) -> None:
        shared = self.store.last().shared
        if round_ % self.every == 0:
            kept = withheld(self.members, self.store.name, round_)
            lacking = {name: self.rate * array for name, array in kept.items()}
            whole = {name: array + lacking[name].astype(array.dtype) for name, array in shared.items()}
            share = norm(lacking) / norm({name: array - self.before[name] for name, array in shared.items()})
            batches = self.config.federation.calibration_batches
            scores, differences = [], []
            for site in self.members.values():
                sent, exact = (dice(site.learner, each, batches) for each in (shared, whole))
                scores += sent.values()
                differences += [sent[exam] - exact[exam] for exam in sent]
            self.rows.append((round_, share, statistics.fmean(scores), differences))
        self.before = shared


def norm(arrays: Arrays) -> float:
    """Euclidean norm over all tensors."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()))


def compare(config: RunConfig, every: int, folder: Path) -> Comparison:
    """Run the federation and score both models every so many rounds."""
    console = Console(quiet=True)
    config.sites = config.sites or make_phantoms(config, console)
    config = rung_config(config, RUNG, config.study.folds[0])
    limit_threads(config.threads)
    with RunDisplay(1, console) as display:
        members = {name: build_site(config, data, folder, display) for name, data in load_sites(config).items()}
        grid = InProcessGrid({name: build_client_app(site) for name, site in members.items()})
        store = RunStore(folder, config, every_round=True)
        comparison = Comparison(config, members, store, every)
        coordinate(grid, config, store, comparison)
    return comparison


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=10, help="rounds between two comparisons")
    parser.add_argument("words", nargs="*", help="words of mtmd-simulate, such as training.steps=600")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    config = compose("simulate", ["experiment=ladder", *arguments.words])
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(replace(config, threads=config.threads or 1), arguments.every, Path(folder)).rows
    table = Table("round", title="Dice points lost to what sites keep back, over all exams")
    for title in ("kept back, of a round's change", "mean Dice", "mean difference", "largest"):
        table.add_column(title, justify="right")
    for round_, share, score, differences in rows:
        cells = [
            f"{share:.2%}",
            f"{score:.1f}",
            f"{statistics.fmean(differences):+.3f}",
            f"{max(map(abs, differences)):.2f}",
        ]
        table.add_row(str(round_), *cells)
    Console().print(table)
    means = [statistics.fmean(differences) for *_, differences in rows]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    Console().print(
        f"int8 less exact: {statistics.fmean(means):+.3f} points, standard error {error:.3f} over {len(means)} comparisons"
    )


if __name__ == "__main__":
    main()
