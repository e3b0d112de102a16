"""The six 3D metrics against MONAI's and medpy's, timed in one process on one thread.

    python -m simulation.benchmarks.metrics [--repeats 5] [--without-medpy]

Volumes of 100×256×256 voxels with four structures, in four pairs of ground truth and prediction: *smooth* (the
surfaces some voxels apart); *displaced* (smooth, and the prediction ten voxels off: no near neighbour helps);
*rough* (frayed edges and islands everywhere in both); *islands* (smooth ground truth, rough prediction).

Like with like: all contenders compute Dice, Hausdorff distance and average symmetric surface distance of four
structures; ours computes the other three metrics as well. Ours starts from the two label maps, medpy from masks
made within its time, MONAI from bool one-hot tensors made before the clock starts, which is to its advantage.
*MONAI* calls one documented function for each metric; *MONAI, one search* takes both distances from one set of
surface distances, as only a reader of its source would. The contenders take turns; any that differs from ours by
more than 1e-5 mm ends the benchmark.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from mtmd_core.metrics import score_exam

SHAPE = (100, 256, 256)
STRUCTURES = 4
SPACING_MM = (0.8, 0.3, 0.3)

Labels = NDArray[np.uint8]
Distances = list[tuple[float, float]]  # Hausdorff and average symmetric distance of every structure


def smooth_labels(seed: int, shift: float = 0.0) -> Labels:
    """Four bulging ellipsoids, their centres moved at random by about `shift` half-widths of the volume."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in SHAPE), indexing="ij", sparse=True)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for structure, (y, z) in enumerate([(-0.45, -0.45), (-0.45, 0.45), (0.45, -0.45), (0.45, 0.45)], start=1):
        coarse = rng.standard_normal((6, 12, 12)).astype(np.float32)
        bulges = ndimage.zoom(coarse, np.divide(SHAPE, coarse.shape), order=1, grid_mode=True, mode="nearest")
        centre = rng.normal(0, shift, 3) + (0, y, z)
        radius = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, (0.75, 0.4, 0.4), strict=True))
        labels[(radius + 0.1 * bulges < 1) & (labels == 0)] = structure
    return labels


def roughened(labels: Labels, seed: int) -> Labels:
    """The same with frayed edges and with islands of some seven voxels everywhere."""
    rng = np.random.default_rng(seed)
    rough = labels.copy()
    share = ndimage.uniform_filter((labels > 0).astype(np.float32), 5)
    frayed = (share > 0.05) & (share < 0.95) & (rng.random(SHAPE, dtype=np.float32) < 0.3)
    rough[frayed] = np.where(labels[frayed], 0, rng.integers(1, STRUCTURES + 1, int(frayed.sum())))
    islands = ndimage.binary_dilation(rng.random(SHAPE, dtype=np.float32) < 0.0015)
    patches = rng.integers(1, STRUCTURES + 1, (SHAPE[0], SHAPE[1] // 4, SHAPE[2] // 4), dtype=np.uint8)
    rough[islands] = patches.repeat(4, axis=1).repeat(4, axis=2)[islands]
    return rough


def ours(truth: Labels, prediction: Labels) -> Callable[[], Distances]:
    def run() -> Distances:
        return [(s.mssd_mm, s.assd_mm) for s in score_exam(truth, prediction, STRUCTURES, SPACING_MM)]

    return run


def monai(truth: Labels, prediction: Labels) -> Callable[[], Distances]:
    """As its documentation has it: one call for each metric."""
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    t, p = _one_hot(truth), _one_hot(prediction)

    def run() -> Distances:
        compute_dice(p, t, include_background=False)
        hausdorff = compute_hausdorff_distance(p, t, spacing=SPACING_MM)
        average = compute_average_surface_distance(p, t, symmetric=True, spacing=SPACING_MM)
        return list(zip(hausdorff[0].tolist(), average[0].tolist(), strict=True))

    return run


def monai_one_search(truth: Labels, prediction: Labels) -> Callable[[], Distances]:
    """As one who reads its source would have it: both distances from one set of surface distances."""
    from monai.metrics import compute_dice
    from monai.metrics.utils import get_edge_surface_distance

    t, p = _one_hot(truth), _one_hot(prediction)

    def run() -> Distances:
        compute_dice(p, t, include_background=False)
        results = []
        for structure in range(1, STRUCTURES + 1):
            masks = p[0, structure], t[0, structure]
            _, distances, _ = get_edge_surface_distance(*masks, spacing=SPACING_MM, symmetric=True)
            both = torch.cat(distances)
            results.append((both.max().item(), both.mean().item()))
        return results

    return run


def medpy(truth: Labels, prediction: Labels) -> Callable[[], Distances]:
    from medpy.metric import binary

    def run() -> Distances:
        results = []
        for structure in range(1, STRUCTURES + 1):
            masks = prediction == structure, truth == structure
            binary.dc(*masks)
            results.append((binary.hd(*masks, SPACING_MM), binary.assd(*masks, SPACING_MM)))
        return results

    return run


def _one_hot(labels: Labels) -> torch.Tensor:
    return torch.from_numpy(np.stack([labels == value for value in range(STRUCTURES + 1)]))[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-medpy", action="store_true", help="medpy takes some 20 s a repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # notices of MONAI's about its own deprecations
    contenders = {"ours": ours, "MONAI": monai, "MONAI, one search": monai_one_search}
    if not arguments.without_medpy:
        contenders["medpy"] = medpy
    truth, prediction = smooth_labels(0), smooth_labels(1, shift=0.015)
    rough_truth, rough_prediction = roughened(truth, 2), roughened(prediction, 3)
    pairs = {
        "smooth": (truth, prediction),
        "displaced": (truth, np.roll(truth, (3, 10, 5), axis=(0, 1, 2))),
        "rough": (rough_truth, rough_prediction),
        "islands": (truth, rough_prediction),
    }
    table = Table("masks", "contender", "median ms", "least ms", "ours takes", "ours differs by, mm")
    for name, pair in pairs.items():
        runs = {contender: build(*pair) for contender, build in contenders.items()}
        seconds: dict[str, list[float]] = {contender: [] for contender in runs}
        found: dict[str, Distances] = {}
        for _ in range(arguments.repeats):
            for contender, run in runs.items():
                start = time.perf_counter()
                found[contender] = run()
                seconds[contender].append(time.perf_counter() - start)
        for contender, times in seconds.items():
            difference = np.abs(np.subtract(found[contender], found["ours"])).max()
            ratio = median(times) / median(seconds["ours"])
            times_ms = f"{1e3 * median(times):.0f}", f"{1e3 * min(times):.0f}"
            table.add_row(name, contender, *times_ms, f"1/{ratio:.1f}", f"{difference:.1e}")
            if difference > 1e-5:
                raise SystemExit(f"{contender} differs from ours by {difference:.2g} mm on {name} masks")
    Console().print(table)


if __name__ == "__main__":
    main()
