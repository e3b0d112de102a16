"""``mtmd-client`` at a site that does not train: what comes is sent back. For :mod:`simulation.benchmarks.message_latency`.

``python -m simulation.benchmarks.idle_site STATE SITE`` joins as ``mtmd-client`` does, with the supervisor, SuperNode, worker,
outbox and ledger of a hospital; without arguments it is the worker.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client import supervisor, worker, worker_process
from client.app import build_client_app
from client.ledger import Ledger
from client.outbox import Outbox
from client.settings import SiteSettings, load_settings
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import Partition, partition
from mtmd_core.strategies import Sharing
from mtmd_core.wire import SHARED, Contribution, Receipt, RoundPlan, SiteFacts, Terms


class IdleSite:
    """Answers every visit at once with the parameters that it brought; it is its own learner."""

    def __init__(self, name: str, outbox: Outbox) -> None:
        self.name, self.outbox, self.exit_code = name, outbox, None
        self.contribution = Contribution(SHARED, {})
        self.partition = Partition((), ())
        self.learner = self

    def facts(self) -> SiteFacts:
        """One structure."""
        return SiteFacts(self.name, 1)

    def train(self, plan: RoundPlan, shared: dict[str, np.ndarray], _terms: Terms) -> tuple[Receipt, dict, None]:
        """Take over the shared parameters; there are no prototypes."""
        if not self.partition.shared:
            network = build_network(NetworkConfig(plan.network, plan.width), {}, seed=0)
            self.partition = partition(network, Sharing.CONVOLUTIONS)
        self.contribution = Contribution(SHARED, shared)
        return (*self.evaluate(plan, shared), None)

    def evaluate(self, plan: RoundPlan, shared: dict[str, np.ndarray]) -> tuple[Receipt, dict[str, float]]:
        """Nothing is measured."""
        return Receipt(plan.run, plan.round, self.name), {"loss": 0.0, "steps": 0}


def open_app(
    settings: SiteSettings, _tell: Callable[..., None]
) -> tuple[Callable[..., Any], Callable[[], int | None], worker.NoteFailure]:
    """As :func:`client.worker.open_app`, over an idle site."""
    site = IdleSite(settings.site, Outbox(settings.release, Ledger(settings.state / "ledger.jsonl")))
    return build_client_app(site), lambda: site.exit_code, site.outbox.note_failure


def main() -> None:
    """A site or, without arguments, its worker."""
    if len(sys.argv) == 3:
        worker_process.WORKER_MODULE = __spec__.name
        sys.exit(supervisor.join(load_settings(sys.argv[2], {"state": Path(sys.argv[1])}), print, lambda: None))
    worker.open_app = open_app
    worker.run()


if __name__ == "__main__":
    main()
