"""Bytes that a site sends a round, by encoding, and what entropy coding would still take off them.

``python -m simulation.benchmarks.update_bytes`` trains Att-UNet for a few local steps on phantom joints, so that the update is a
real one, and counts the bytes of each encoding as they travel (scales and headers of arrays included), the error that rounding
leaves, and the bytes that zlib would leave of each: level 1 and Huffman coding alone.
"""

import argparse
import time
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mtmd_core.config_files import compose
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.training import build_optimiser, train
from mtmd_core.update_encoding import ENCODINGS, FLOAT32, decode_update, encode_update
from mtmd_core.wire import pack_arrays
from simulation.data import load_sites, make_phantoms
from simulation.pool import Pool

SITE = "knee"


def trained_update(width: int, steps: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What a site holds of the shared parameters after local steps, and their change."""
    config = compose(
        "simulate", [f"network.width={width}", "data.slice_size=64", "training.batch_size=6", "phantoms.exams=3"]
    )
    config.phantoms.scale = 0.1
    config.sites = make_phantoms(config, Console(quiet=True))
    pool = Pool(config, {SITE: load_sites(config)[SITE]})
    network = build_network(config.network, pool.classes, config.seed)
    names = partition(network, Sharing.CONVOLUTIONS).shared
    before = {name: array.copy() for name, array in take(network, names).items()}
    recipe = pool.recipe(config.training, config.seed)
    train(network, build_optimiser(network, recipe.learning_rate), pool.sources, recipe, range(steps))
    after = take(network, names)
    return after, {name: after[name] - before[name] for name in names}


def relative_error(update: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]) -> float:
    """‖received − update‖ / ‖update‖ over all tensors."""
    lost = sum(float(np.square(received[name] - array, dtype=np.float64).sum()) for name, array in update.items())
    return (lost / sum(float(np.square(array, dtype=np.float64).sum()) for array in update.values())) ** 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parameters, update = trained_update(arguments.width, arguments.steps)
    table = Table(
        "encoding", title=f"Att-UNet, width {arguments.width}, {arguments.steps} local steps: a site, a round"
    )
    for title in ("MB", "of float32", "relative error", "zlib level 1", "Huffman", "seconds of either"):
        table.add_column(title, justify="right")
    full = 0
    for encoding in ENCODINGS:
        sent = parameters if encoding == FLOAT32 else encode_update(update, encoding)
        error = 0.0 if encoding == FLOAT32 else relative_error(update, decode_update(sent, encoding))
        packed = pack_arrays(sent)
        size = len(packed)
        full = full or size
        left, seconds = [], []
        for level, strategy in ((1, zlib.Z_DEFAULT_STRATEGY), (1, zlib.Z_HUFFMAN_ONLY)):
            started = time.process_time()
            left.append(_compressed(packed, level, strategy))
            seconds.append(time.process_time() - started)
        cells = [f"{size / 1e6:.2f}", f"{size / full:.2%}", f"{error:.1e}", *(f"{each / full:.2%}" for each in left)]
        table.add_row(encoding, *cells, " / ".join(f"{each:.2f}" for each in seconds))
    Console().print(table)


def _compressed(data: bytes, level: int, strategy: int) -> int:
    packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return len(packer.compress(data)) + len(packer.flush())


if __name__ == "__main__":
    main()
