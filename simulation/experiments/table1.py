"""``experiment=table1``: trainable parameters of every network and strategy beside Table 1 of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mtmd_core.config import NETWORKS, NO_WEIGHTS, NetworkConfig, RunConfig
from mtmd_core.config_files import save_config
from mtmd_core.durable import write_csv
from mtmd_core.networks.build import uninitialised
from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing, label_spaces

from ..paper.figures import DOMAINS, designs
from ..runs import CONFIG
from ..study import compose_network

Builder = Callable[[Mapping[str, int]], nn.Module]


def run_table1(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Count, print and write ``table1.csv``; neither exams nor weights are read.

    Columns: network, strategy, ``parameters`` (trainable, of all networks together), ``paper_parameters``,
    ``relative_difference`` (ours / paper's − 1) and, for dsl, ``domain_specific_share`` (of the trainable parameters).
    """
    builders = _builders(config, words)
    save_config(config, folder / CONFIG)
    rows = [
        _row(network, strategy, build)
        for network, build in builders.items()
        for strategy in ("individual", "shared", "dsl")
        if network != "autoencoder" or strategy != "individual"  # the paper has no auto-encoder of one joint alone
    ]
    write_csv(folder / "table1.csv", rows)
    _print(rows, console)
    return {"experiment": "table1", "rows": rows}


def count(build: Builder, strategy: str) -> tuple[int, float]:
    """Trainable parameters of a strategy's network or networks for the paper's joints, and the domains' private share.

    >>> from mtmd_core.networks.att_unet import AttUNet
    >>> count(AttUNet, "individual")[0] > 2 * count(AttUNet, "dsl")[0]
    True
    """
    if strategy == "individual":
        return sum(_count({joint: classes}, build)[0] for joint, classes in DOMAINS.items()), 1.0
    sharing = Sharing.EVERYTHING if strategy == "shared" else Sharing.CONVOLUTIONS
    spaces = label_spaces(sharing, {joint: classes - 1 for joint, classes in DOMAINS.items()})
    total, private = _count({space.domain: space.classes for space in spaces.values()}, build)
    return total, private / total if strategy == "dsl" else 0.0


def _count(domains: Mapping[str, int], build: Builder) -> tuple[int, int]:
    """All trainable parameters, and those of domain layers; nothing is allocated."""
    with torch.device("meta"):
        network = build(domains)
    sizes = {name: entry.numel() for name, entry in network.named_parameters() if entry.requires_grad}
    private = partition(network, Sharing.CONVOLUTIONS).private  # its buffers are no parameters
    return sum(sizes.values()), sum(sizes.get(name, 0) for name in private)


def _builders(config: RunConfig, words: Sequence[str]) -> dict[str, Builder]:
    """The networks of Table 1, each as its own file of the configuration and the command line describe it."""
    plans = {"autoencoder": NetworkConfig("autoencoder", config.autoencoder.width)}
    for network in (name for name in designs() if name in NETWORKS):
        plans[network] = replace(compose_network(words, network, NETWORKS).network, encoder_weights=NO_WEIGHTS)
    return {network: lambda domains, plan=plan: uninitialised(plan, domains) for network, plan in plans.items()}


def _row(network: str, strategy: str, build: Builder) -> dict[str, str | float | None]:
    parameters, share = count(build, strategy)
    published = designs()[network].parameters[strategy]
    return {
        "network": network,
        "strategy": strategy,
        "parameters": parameters,
        "paper_parameters": None if published is None else round(published),
        "relative_difference": None if published is None else round(parameters / published - 1, 4),
        "domain_specific_share": round(share, 5) if strategy == "dsl" else None,
    }


def _print(rows: Sequence[Mapping], console: Console) -> None:
    table = Table("network", "strategy", title="trainable parameters, K = 3 domains with 4, 5 and 3 classes")
    for title in ("parameters", "paper", "difference", "of domains"):
        table.add_column(title, justify="right")
    for row in rows:
        share = row["domain_specific_share"]
        table.add_row(
            row["network"],
            row["strategy"],
            f"{row['parameters']:,}",
            f"{row['paper_parameters'] / 1e6:.1f} M",
            f"{100 * row['relative_difference']:+.1f} %",
            "" if share is None else f"{100 * share:.2f} %",
            end_section=row["strategy"] == "dsl",
        )
    console.print(table)
