"""What a run's whole report takes besides inference: similarities, maps, pictures and the page.

``python -m simulation.benchmarks.report`` draws embeddings of Att-UNet's and its auto-encoder's widths from a seed, nine scales
of both, as images and label maps of three sites would have them, takes similarities of 1e5 pairs, makes t-SNE maps of all
slices, draws contours and attention at the paper's resolution, and writes the page of a run of 50 rounds with all of it.
Seconds on the clock, and seconds of processors of all processes together, which other work on the machine changes less.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mtmd_core.config import RunConfig
from mtmd_core.config_files import words_of
from mtmd_core.durable import write_text
from mtmd_core.networks.build import embedding_sizes
from mtmd_core.page.figures import FOLDER
from mtmd_core.page.rounds import totals
from mtmd_core.scores import METRICS_3D, summarise_run
from mtmd_core.seeds import derive_seed
from simulation.embeddings import SiteEmbeddings
from simulation.figures.attention import AttendedSlice, draw_attention
from simulation.figures.contours import ComparedSlice, Predicted, draw_comparison
from simulation.figures.representations import draw_representations
from simulation.phantom.datasets import usable_cores
from simulation.run_page import REPORT, run_page
from simulation.similarities import account, similarities

SITES = {"ankle": 3, "knee": 4, "shoulder": 2}
"""Site → structures, as in the paper."""
METHODS = ("individual", "shared", "dsl", "dsl_msc", "dsl_msc_mjap")
PIXELS, ROUNDS = 256, 50
SPREAD, NOISE = 0.3, 0.1
"""Deviations of rectified features of mean size 1: along eight directions that a site's slices share, and of each by itself."""


def embeddings_of(name: str, slices: int) -> dict[str, SiteEmbeddings]:
    """Site → unit-norm embeddings of ``slices`` slices at the nine scales, one tenth of them of a validation exam."""
    random = np.random.default_rng(derive_seed(0, name))
    sizes = embedding_sizes(RunConfig().network)

    def scale(size: int) -> NDArray[np.float32]:
        directions, places = random.normal(size=(8, size)), random.normal(size=(slices, 8))
        features = np.abs(random.normal(size=size)) + SPREAD * places @ directions
        features = np.maximum(features + NOISE * random.normal(size=features.shape), 0)  # as a ReLU leaves them
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)

    validation = np.arange(slices) >= 0.9 * slices
    return {site: SiteEmbeddings([scale(size) for size in sizes], validation) for site in SITES}


def draw_pictures(folder: Path) -> None:
    """Contours of three exams of every site under all methods, and attention: discs in noise."""
    random = np.random.default_rng(1)
    rows, columns = np.mgrid[:PIXELS, :PIXELS]
    slices = []
    for site, structures in SITES.items():
        image, labels = random.normal(size=(PIXELS, PIXELS)), np.zeros((PIXELS, PIXELS), np.uint8)
        for label in range(1, structures + 1):
            labels[(rows - 50 * label) ** 2 + (columns - 128) ** 2 < 400] = label
        compared = ComparedSlice("worst: exam", image, labels, {method: Predicted(labels, 0.9) for method in METHODS})
        names = tuple(f"bone {label}" for label in range(1, structures + 1))
        draw_comparison(site, list(METHODS), names, [compared] * 3, folder / f"contours_{site}.png")
        slices.append(AttendedSlice(site, image, labels, {"att_unet": random.random((PIXELS, PIXELS))}))
    draw_attention("attention", slices, folder / "attention.png")


def content_of(similarity_lines: list[dict]) -> dict:
    """What a federated run's folder would tell: scores, lines of all rounds, similarities, configuration."""
    values = dict.fromkeys(METRICS_3D, 0.8)
    own = {"foreground_mean": values, "metric_per_case": []}
    lines = [
        {"round": number, "site": site, "loss": 1 / number, "steps": 40, "bytes_to_site": 35e6, "bytes_from_site": 35e6}
        for number in range(1, ROUNDS + 1)
        for site in SITES
    ]
    about = {"mode": "federated", "strategy": "dsl_msc_mjap", "network": "att_unet", "fold": 0, "seed": 0}
    content = about | summarise_run({site: own | {"mean": {"bone": values}} for site in SITES})
    content |= {"round_metrics": lines, "round_metrics_totals": totals(lines), "similarities": similarity_lines}
    return content | {"configuration": words_of(RunConfig())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1000, help="slices of each of the three sites (default: 1000)")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="maps made at a time (default: cores)")
    given = parser.parse_args()
    table = Table("part", "s", "s of processors")

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        clock, processors = time.monotonic(), sum(os.times()[:4])
        yield
        table.add_row(part, f"{time.monotonic() - clock:.1f}", f"{sum(os.times()[:4]) - processors:.1f}")

    networks = {name: embeddings_of(name, given.slices) for name in ("att_unet", "auto-encoder")}
    with tempfile.TemporaryDirectory() as place, timed("together"):
        folder = Path(place)
        (folder / FOLDER).mkdir()
        with timed("similarities of 1e5 pairs, 9 scales"):
            lines = account(similarities(networks["att_unet"], seed=0))
        for name, own in networks.items():
            with timed(f"t-SNE, 9 scales of the {name}"):
                path = folder / FOLDER / f"representations_{name}.png"
                draw_representations(name, {"dsl_msc_mjap": own}, 0, path, given.processes)
        with timed("contours and attention"):
            draw_pictures(folder / FOLDER)
        with timed("page"):
            write_text(folder / REPORT, run_page(folder, content_of(lines)))
    console = Console()
    console.print(
        f"{len(SITES) * given.slices} slices of {len(SITES)} sites, {given.processes} processes", markup=False
    )
    console.print(table)


if __name__ == "__main__":
    main()
