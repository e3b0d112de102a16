"""Flower's own apps for :mod:`simulation.benchmarks.message_latency`: FedAvg, and a ClientApp that returns what it received.

They import NumPy and Flower alone: a process for each message is started by Flower, and need not wait for PyTorch.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

ORDER_VARIABLE = "MTMD_BENCHMARK"
"""Names a JSON file: ``shapes`` of the parameters, ``rounds``, ``sites``, and ``times``, the file to be written."""

server_app = ServerApp()
client_app = ClientApp()


class TimedFedAvg(FedAvg):
    """FedAvg that notes when each round begins."""

    def __init__(self, sites: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self.begun: list[float] = []

    def configure_train(self, *arguments: object, **named: object) -> object:
        """See :class:`flwr.serverapp.strategy.FedAvg`."""
        self.begun.append(time.time())
        return super().configure_train(*arguments, **named)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """As many rounds as were ordered."""
    order = json.loads(Path(os.environ[ORDER_VARIABLE]).read_text())
    random = np.random.default_rng(0)
    arrays = {name: Array(random.standard_normal(shape, np.float32)) for name, shape in order["shapes"].items()}
    strategy = TimedFedAvg(order["sites"])
    strategy.start(grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=order["rounds"], timeout=600.0)
    Path(order["times"]).write_text(json.dumps([*strategy.begun, time.time()]))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Return what came."""
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)
