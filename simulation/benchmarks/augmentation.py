"""Augmentation on one thread: ours on a whole batch, batchgenerators v2's one image after another.

    python -m simulation.benchmarks.augmentation [--repeats 15]

Both rotate by up to 22.5°, shift by up to 10 % and flip in both directions slices of 256×256 pixels with their label maps, images
linear and labels nearest, and draw their own numbers. They take turns; medians. batchgenerators v2 comes with
``pip install '.[benchmark]'``.
"""

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from mtmd_core.data.augmentation import ROTATION_DEGREES, SHIFT_FRACTION, draw_geometry, move

SIZE, BATCH = 256, 18


def ours() -> Callable[[], object]:
    """A batch in one go."""
    random = torch.Generator().manual_seed(0)
    images, labels = _batch()
    return lambda: move(images, labels, draw_geometry(BATCH, random))


def batchgenerators_v2() -> Callable[[], object]:
    """Each image by its own transform; shifts are crops around a random centre, their one way of shifting."""
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    limit = math.radians(ROTATION_DEGREES)
    turn = SpatialTransform(
        (SIZE, SIZE),
        patch_center_dist_from_border=SIZE // 2 - round(SHIFT_FRACTION * SIZE),
        random_crop=True,
        p_rotation=1,
        rotation=(-limit, limit),
        mode_seg="nearest",
    )
    flip = MirrorTransform((0, 1))
    images, labels = _batch()
    pairs = [(image, label[None].to(torch.int16)) for image, label in zip(images, labels, strict=True)]
    return lambda: [flip(**turn(image=image, segmentation=label)) for image, label in pairs]


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 1, SIZE, SIZE, generator=random)
    return images, torch.randint(0, 5, (BATCH, SIZE, SIZE), generator=random, dtype=torch.uint8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    contenders = {"ours": ours(), "batchgenerators v2": batchgenerators_v2()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    table = Table("augmentation", "images a second", "ours is")
    for name, times in seconds.items():
        table.add_row(
            name, f"{BATCH / median(times):.0f}", f"{median(times) / median(seconds['ours']):.2f} times as fast"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
