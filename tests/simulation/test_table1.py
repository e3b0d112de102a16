"""Table 1: parameters counted by hand, and beside the paper's figures."""

import csv
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from mtmd_core.config import NETWORKS, NetworkConfig
from mtmd_core.config_files import compose
from mtmd_core.networks.build import build_network
from mtmd_core.networks.domain_layers import DomainBatchNorm2d, DomainOutput, Routing
from simulation.command import simulate
from simulation.experiments.table1 import count


class OneLayer(nn.Module):
    """A shared 3×3 convolution from 1 to 8 channels, normalisation and output layers."""

    def __init__(self, domains: dict[str, int]) -> None:
        super().__init__()
        routing = Routing()
        self.conv = nn.Conv2d(1, 8, 3, bias=False)
        self.norm = DomainBatchNorm2d(routing, list(domains), 8)
        self.output = DomainOutput(routing, domains, 8)


def test_parameters_by_hand() -> None:
    """9·8 weights are shared; a domain has a shift and a scale of 8 channels and an output layer of (8 + 1) · classes."""
    private = 3 * 16 + 9 * (4 + 5 + 3)
    assert count(OneLayer, "dsl") == (72 + private, pytest.approx(private / (72 + private)))
    assert count(OneLayer, "individual")[0] == 3 * 72 + private
    assert count(OneLayer, "shared")[0] == 72 + 16 + 9 * 10  # nine bones and one background


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, str]]:
    """``table1.csv``; without a place for phantoms, none can have been made."""
    out = tmp_path_factory.mktemp("out")
    words = ["experiment=table1", "data.cache_dir=/dev/null/cache"]
    simulate(compose("simulate", words), out, Console(quiet=True), words)
    with open(out / "table1.csv", encoding="utf-8", newline="") as file:
        return {(row["network"], row["strategy"]): row for row in csv.DictReader(file)}


def test_every_network_has_its_rows(table: dict) -> None:
    strategies = ("individual", "shared", "dsl")
    assert set(table) == {("autoencoder", "shared"), ("autoencoder", "dsl")} | {
        (network, strategy) for network in NETWORKS for strategy in strategies
    }


def test_networks_that_are_built_have_the_parameters_of_the_table(table: dict) -> None:
    network = build_network(NetworkConfig("att_unet", 32), {"ankle": 4, "knee": 5, "shoulder": 3}, seed=0)
    assert int(table["att_unet", "dsl"]["parameters"]) == sum(entry.numel() for entry in network.parameters())


@pytest.mark.parametrize(
    ("network", "tolerance"),
    [
        ("autoencoder", 0.01),
        ("att_unet", 0.01),
        ("inception_unet", 0.03),
        ("dense_unet", 0.03),
        ("efficient_unet", 0.03),
    ],
)
def test_parameters_are_the_papers(table: dict, network: str, tolerance: float) -> None:
    assert network in {name for name, _ in table}
    for (name, _), row in table.items():
        if name == network:
            assert abs(float(row["relative_difference"])) < tolerance
            assert round(int(row["parameters"]) / int(row["paper_parameters"]) - 1, 4) == float(
                row["relative_difference"]
            )


def test_domains_own_no_more_than_the_paper_says(table: dict) -> None:
    shares = {row["domain_specific_share"] for row in table.values() if row["strategy"] == "dsl"}
    assert all(0 < float(share) < 0.03 for share in shares)
    assert {row["domain_specific_share"] for row in table.values() if row["strategy"] != "dsl"} == {""}


def test_words_reach_the_networks(tmp_path: Path) -> None:
    words = ["experiment=table1", "network.width=16"]
    rows = simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)["rows"]
    halved = next(row for row in rows if row["network"] == "att_unet" and row["strategy"] == "shared")
    assert halved["relative_difference"] == pytest.approx(-0.75, abs=0.01)
