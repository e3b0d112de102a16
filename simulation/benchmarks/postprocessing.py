"""Largest component and closing against scipy's, timed in one process on one thread.

    python -m simulation.benchmarks.postprocessing [--repeats 5]

Volumes of 100×256×256 voxels with four structures, smooth or rough (frayed edges and islands everywhere), as in
`simulation.benchmarks.metrics`. Scipy's way is the straightforward one: per structure `label`, `bincount` and
`binary_closing` of the whole volume, padded so that its border does not wear the structure off. Both take turns and
must agree in every voxel.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from mtmd_core.postprocessing import postprocess

from .metrics import STRUCTURES, Labels, roughened, smooth_labels

_BALL = ((np.indices((5, 5, 5)) - 2) ** 2).sum(axis=0) <= 4
_MARGIN = 4


def ours(labels: Labels) -> Labels:
    return postprocess(labels, STRUCTURES)


def with_scipy(labels: Labels) -> Labels:
    largest = np.zeros_like(labels)
    for structure in range(1, STRUCTURES + 1):
        components, _ = ndimage.label(labels == structure, np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        largest[components == np.argmax(sizes)] = structure
    closed = largest.copy()
    inner = (slice(_MARGIN, -_MARGIN),) * 3
    for structure in range(1, STRUCTURES + 1):
        mask = ndimage.binary_closing(np.pad(largest == structure, _MARGIN), _BALL)[inner]
        closed[mask & (closed == 0)] = structure
    return closed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    contenders: dict[str, Callable[[Labels], Labels]] = {"ours": ours, "scipy": with_scipy}
    smooth = smooth_labels(1, shift=0.015)
    table = Table("masks", "contender", "median ms", "least ms", "ours takes")
    for name, labels in {"smooth": smooth, "rough": roughened(smooth, 3)}.items():
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        found: dict[str, Labels] = {}
        for _ in range(arguments.repeats):
            for contender, run in contenders.items():
                start = time.perf_counter()
                found[contender] = run(labels)
                seconds[contender].append(time.perf_counter() - start)
        for contender, times in seconds.items():
            ratio = median(times) / median(seconds["ours"])
            times_ms = f"{1e3 * median(times):.0f}", f"{1e3 * min(times):.0f}"
            table.add_row(name, contender, *times_ms, f"1/{ratio:.1f}")
        if not np.array_equal(found["ours"], found["scipy"]):
            raise SystemExit(f"Ours and scipy's results differ on {name} masks")
    Console().print(table)


if __name__ == "__main__":
    main()
