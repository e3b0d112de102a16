"""What a federated round costs besides training: three sites, 15 M float32 parameters in 100 tensors.

``python -m simulation.benchmarks.round_overhead`` runs the real strategy, gate, aggregation, outbox and in-process grid over
sites whose training is a no-op, without and with the ledger's digests of what is sent, and prints the median of the rounds
after the first.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from flwr.clientapp import ClientApp
from rich.console import Console
from rich.table import Table
from torch import nn

from client.app import build_client_app
from client.ledger import Ledger
from client.outbox import Outbox
from mtmd_core.arrays import keep_memory
from mtmd_core.config import FederationConfig, RunConfig
from mtmd_core.parameters import partition, put, shapes, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import SHARED, Contribution, Receipt, RoundPlan, SiteFacts, Terms
from server.app import coordinate
from server.plans import Plans
from server.run_store import RunStore
from simulation.grid import InProcessGrid

TENSORS, ELEMENTS = 100, 150_000
SITES = ("ankle", "knee", "shoulder")


class IdleLearner:
    """A network of plain tensors that is received and sent, never trained."""

    def __init__(self) -> None:
        self.network = nn.Module()
        for index in range(TENSORS):
            values = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(index))
            self.network.register_parameter(f"tensor_{index:03d}", nn.Parameter(values))
        self.partition = partition(self.network, Sharing.CONVOLUTIONS)

    @property
    def contribution(self) -> Contribution:
        """What is sent."""
        return Contribution(SHARED, take(self.network, self.partition.shared))


class IdleSite:
    """Answers every visit at once: it takes over what it receives and sends it back."""

    def __init__(self, name: str, outbox: Outbox) -> None:
        self.name, self.outbox, self.exit_code = name, outbox, None
        self.learner = IdleLearner()

    def facts(self) -> SiteFacts:
        """One structure."""
        return SiteFacts(self.name, 1)

    def train(self, plan: RoundPlan, shared: dict[str, np.ndarray], _terms: Terms) -> tuple[Receipt, dict, None]:
        """Take over the shared parameters; there are no prototypes."""
        return (*self.evaluate(plan, shared), None)

    def evaluate(self, plan: RoundPlan, shared: dict[str, np.ndarray]) -> tuple[Receipt, dict[str, float]]:
        """Take over the shared parameters."""
        put(self.learner.network, self.learner.partition.shared, shared)
        return Receipt(plan.run, plan.round, self.name), {"loss": 0.0, "steps": 0}


class IdlePlans(Plans):
    """The plans of a run over the idle network instead of one of the paper's."""

    def __init__(self, run: str, config: RunConfig, sites: dict[str, SiteFacts], prior: None) -> None:
        super().__init__(run, config, sites)
        learner = IdleLearner()
        self.expected = shapes(learner.network, learner.partition.shared)
        self.initial = dict(learner.contribution.arrays)


def seconds_per_round(rounds: int, digests: bool, folder: Path) -> float:
    """Median seconds of the rounds after the first."""
    config = RunConfig(federation=FederationConfig(rounds=rounds, expected_sites=len(SITES)))
    apps: dict[str, ClientApp] = {
        name: build_client_app(IdleSite(name, Outbox("mean", Ledger(folder / f"{name}.jsonl") if digests else None)))
        for name in SITES
    }
    ends = []
    store = RunStore(folder / "run", config, every_round=False)
    coordinate(InProcessGrid(apps), config, store, lambda *_: ends.append(time.perf_counter()), IdlePlans)
    return statistics.median(np.diff(ends))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    table = Table("in-process round without training", "median seconds", "asked at most")
    for title, digests, asked in (("without digests", False, 0.1), ("with digests", True, 0.3)):
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(title, f"{seconds_per_round(rounds, digests, Path(folder)):.3f}", f"{asked}")
    Console().print(table)


if __name__ == "__main__":
    main()
