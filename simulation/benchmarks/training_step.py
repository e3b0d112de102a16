"""What a training step costs: domain-specific layers, contrast and priors, and other libraries' networks.

    python -m simulation.benchmarks.training_step [--size 128] [--width 32] [--batch 18] [--repeats 5] [--threads N]
                                                  [--channels-last] [--bf16] [--device cuda]
                                                  [--only strategies|site|attention|efficient]

Four tables, each of contenders that take turns in one process; medians of whole steps (forward, loss, backward, fused Adam).
On the CPU seconds are the processor's, all threads together: another program's share of a core does not count. On CUDA they are
those of the clock, from an idle GPU to an idle GPU, and a line tells each contender's peak memory. A ratio is the median of the
turns' own ratios, so that a slow spell of the machine falls on both sides.
*strategies*: Att-UNet, the terms of the loss one after another. *site*: a local step of a federation with and without prototypes
of two other domains at nine scales; making the own prototype anew, which happens every few steps, apart. *attention*: Att-UNet
beside MONAI's AttentionUnet of the same channels, by time and by time per multiply-add. *efficient*: Efficient-UNet, its K
domains and output layers included, beside segmentation_models_pytorch's Unet with the same encoder
(``pip install '.[benchmark]'``).
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import Batch
from mtmd_core.devices import autocast, choose_device
from mtmd_core.losses.cross_entropy import domain_cross_entropy
from mtmd_core.networks.build import build_network, embedding_sizes
from mtmd_core.networks.output import NetworkOutput
from mtmd_core.objectives import ContrastTerm, PriorTerm, PrototypeTerm, Segmentation
from mtmd_core.prototype_summary import summarise
from mtmd_core.quantities import say_bytes
from mtmd_core.recent_embeddings import RecentEmbeddings
from mtmd_core.site_contrast import MAX_BATCHES, OWN_BATCHES, REFRESH_STEPS, SiteContrast
from mtmd_core.strategies import EVERY_SITE
from mtmd_core.training import build_optimiser, train_step
from mtmd_core.words import DEVICES

DOMAINS = {"ankle": 4, "knee": 5, "shoulder": 3}
SHARED = {EVERY_SITE: 10}
WARM_UP_TURNS = 2
"""Turns that are not counted: the first builds what later ones find, the second lets CUDA choose its algorithms."""
Step = Callable[[], object]
Contrast = Callable[[NetworkOutput, Mapping[str, int]], torch.Tensor]


class Bench:
    """Builds steps that see the same batch in the same mode."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        self.layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
        self.device = choose_device(arguments.device)
        self.peaks: dict[str, int] = {}

    def batch(self, classes: Mapping[str, int]) -> Batch:
        """Random slices and labels, split equally between domains."""
        count, size = self.given.batch, self.given.size
        random = torch.Generator().manual_seed(0)
        images = torch.randn(count, 1, size, size, generator=random)
        share = count // len(classes)
        labels = {
            d: torch.randint(n, (share, size, size), generator=random, dtype=torch.uint8) for d, n in classes.items()
        }
        labels = {domain: own.to(self.device) for domain, own in labels.items()}
        return Batch(images.to(self.device), labels, dict.fromkeys(classes, share))

    def ours(self, name: str, classes: Mapping[str, int], contrast: bool = False, prior: bool = False) -> Step:
        """A step of one of our networks, as a run makes it."""
        network = self.placed(build_network(NetworkConfig(name, self.width(name)), classes, seed=0))
        objective = Segmentation(
            ContrastTerm(0.5, 0.1) if contrast else None,
            PriorTerm(
                self.placed(build_network(NetworkConfig("autoencoder", self.given.width), classes, 1)), classes, 0.1
            )
            if prior
            else None,
        )
        optimiser, batch = build_optimiser(network, 5e-4), self.batch(classes)
        return lambda: train_step(network, optimiser, batch, self.given.bf16, objective)

    def theirs(self, network: nn.Module, channels: int = 1) -> Step:
        """A step of another library's network, on one label space of ten classes."""
        network = self.placed(network)
        optimiser, batch = build_optimiser(network, 5e-4), self.batch(SHARED)
        images = batch.images.repeat(1, channels, 1, 1).contiguous(memory_format=self.layout)

        def step() -> float:
            optimiser.zero_grad(set_to_none=True)
            with autocast(images.device, self.given.bf16):
                logits = network(images)
            loss = domain_cross_entropy({EVERY_SITE: logits}, batch.labels)
            loss.backward()
            optimiser.step()
            return float(loss.detach())

        return step

    def placed(self, network: nn.Module) -> nn.Module:
        """On the device and in the memory layout that are asked for."""
        return network.train().to(self.device, memory_format=self.layout)

    def width(self, name: str) -> int:
        """The width that is asked for, where the network has one to choose."""
        return self.given.width if name == "att_unet" else NetworkConfig().width

    def measure(self, contenders: Mapping[str, Step]) -> "Measured":
        """Seconds of steps, the contenders taking turns, and their peak memory on CUDA in bytes."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(self.given.repeats + WARM_UP_TURNS):
            for name, step in contenders.items():
                seconds = self.timed(step)
                if turn >= WARM_UP_TURNS:
                    times[name].append(seconds)
                if self.device.type == "cuda":
                    self.peaks[name] = torch.cuda.max_memory_allocated()
        return Measured(times)

    def timed(self, step: Step) -> float:
        """Processor seconds of one step on the CPU; on CUDA seconds of the clock."""
        if self.device.type == "cpu":
            start = time.process_time()
            step()
            return time.process_time() - start
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Measured:
    """Seconds of each contender's step in every turn."""

    turns: Mapping[str, list[float]]

    def seconds(self, name: str) -> float:
        """Median over turns."""
        return median(self.turns[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over turns of `name`'s seconds by `base`'s."""
        return median(own / other for own, other in zip(self.turns[name], self.turns[base], strict=True))


def strategies(bench: Bench) -> Table:
    """Each of the paper's additions against the same step without it."""
    contenders = {
        "shared": bench.ours("att_unet", SHARED),
        "dsl": bench.ours("att_unet", DOMAINS),
        "dsl_msc": bench.ours("att_unet", DOMAINS, contrast=True),
        "dsl_mjap": bench.ours("att_unet", DOMAINS, prior=True),
    }
    measured = bench.measure(contenders)
    table = Table("Att-UNet", "seconds a step", "against", "ratio", "asked at most")
    for name, base, asked in (
        ("shared", None, ""),
        ("dsl", "shared", "1.05"),
        ("dsl_msc", "dsl", "1.03"),
        ("dsl_mjap", "dsl", ""),
    ):
        ratio = "" if base is None else f"{measured.ratio(name, base):.3f}"
        table.add_row(name, f"{measured.seconds(name):.3f}", base or "", ratio, asked)
    return table


def site(bench: Bench) -> Table:
    """A site's step against prototypes, and the refresh of its own, against the step without contrast."""
    work = LocalContrast(bench)
    measured = bench.measure(
        {"dsl": bench.ours("att_unet", {"knee": 5}), "dsl_msc": work.step, "refresh": work.refresh}
    )
    table = Table("Att-UNet, one site", "seconds", "against dsl", "asked at most")
    table.add_row("dsl, a local step", f"{measured.seconds('dsl'):.3f}", "", "")
    table.add_row(
        "dsl_msc, a local step", f"{measured.seconds('dsl_msc'):.3f}", f"{measured.ratio('dsl_msc', 'dsl'):.3f}", "1.03"
    )
    share = measured.ratio("refresh", "dsl")
    every = f"once in {REFRESH_STEPS} steps: +{100 * share / REFRESH_STEPS:.1f} %"
    table.add_row("own prototype anew", f"{measured.seconds('refresh'):.3f}", f"{share:.3f}", every)
    return table


class LocalContrast:
    """A site's training against the prototypes of two others; its own prototype is there, and made anew when asked."""

    def __init__(self, bench: Bench) -> None:
        classes = {"knee": 5}
        self.network = bench.placed(build_network(NetworkConfig("att_unet", bench.given.width), classes, seed=0))
        self.batch, self.bf16, self.device = bench.batch(classes), bench.given.bf16, bench.device
        self.optimiser = build_optimiser(self.network, 5e-4)
        sizes = embedding_sizes(NetworkConfig("att_unet", bench.given.width))
        random = torch.Generator().manual_seed(0)
        others = []
        for _ in range(2):
            points = [normalize(torch.randn(200, size, generator=random) + 1, dim=1) for size in sizes]
            others.append([summarise(scale, torch.arange(200) % 5) for scale in points])
        term = PrototypeTerm(0.5, 0.1, "knee")
        count = bench.given.batch
        places = ([(0, step * count + place) for place in range(count)] for step in itertools.count())
        self.contrast = SiteContrast(term, others, RecentEmbeddings(math.inf, MAX_BATCHES), places)
        for _ in range(OWN_BATCHES):  # as in the middle of a round
            self._step(self.contrast)
        self.refresh()

    def step(self) -> None:
        """A step between two refreshes: its batch is remembered, its loss held against the mixture that is there."""

        def contrast(output: NetworkOutput, shares: Mapping[str, int]) -> torch.Tensor:
            self.contrast.recent.add(output.embeddings, next(self.contrast.places))
            return self.contrast.term(output, shares)

        self._step(contrast)

    def _step(self, contrast: Contrast) -> None:
        train_step(self.network, self.optimiser, self.batch, self.bf16, Segmentation(contrast))

    def refresh(self) -> None:
        """The own prototype and the mixture anew."""
        self.contrast.refresh(self.device)


def attention(bench: Bench) -> Table:
    """Att-UNet beside MONAI's AttentionUnet, by what each has to compute."""
    from monai.networks.nets import AttentionUnet

    width, strides = bench.given.width, (2, 2, 2, 2)
    channels = [width * 2**level for level in range(5)]
    contenders = {
        "Att-UNet": bench.ours("att_unet", SHARED),
        "MONAI AttentionUnet": bench.theirs(AttentionUnet(2, 1, 10, channels, strides)),
    }
    measured = bench.measure(contenders)
    operations = {name: _multiply_adds(step) for name, step in contenders.items()}
    table = Table("network", "seconds a step", "10⁹ multiply-adds", "ns each", "ratio", "asked at most")
    for name in contenders:
        ratio = measured.ratio("Att-UNet", name) * operations[name] / operations["Att-UNet"]
        asked = "1.0" if name != "Att-UNet" else ""
        cells = (
            f"{measured.seconds(name):.3f}",
            f"{operations[name] / 1e9:.1f}",
            f"{measured.seconds(name) / operations[name] * 1e9:.4f}",
            f"{ratio:.2f}",
        )
        table.add_row(name, *cells, asked)
    return table


def efficient(bench: Bench) -> Table:
    """Efficient-UNet, shared and with domain-specific layers, beside a Unet with the same encoder."""
    import segmentation_models_pytorch as smp

    contenders = {
        "Efficient-UNet, shared": bench.ours("efficient_unet", SHARED),
        "Efficient-UNet, dsl": bench.ours("efficient_unet", DOMAINS),
        "smp Unet": bench.theirs(smp.Unet("efficientnet-b3", encoder_weights=None, classes=10), channels=3),
    }
    measured = bench.measure(contenders)
    table = Table("network", "ms an image", "against smp", "asked at most")
    for name in contenders:
        ratio = "" if name == "smp Unet" else f"{measured.ratio(name, 'smp Unet'):.2f}"
        asked = "1.0" if name.endswith("shared") else ""
        table.add_row(name, f"{1e3 * measured.seconds(name) / bench.given.batch:.1f}", ratio, asked)
    return table


def _multiply_adds(step: Step) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("size", 128), ("width", 32), ("batch", 18), ("repeats", 5)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    tables = {"strategies": strategies, "site": site, "attention": attention, "efficient": efficient}
    parser.add_argument("--only", choices=tables)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    mode = f"{'bf16' if arguments.bf16 else 'float32'}, {'channels-last' if arguments.channels_last else 'NCHW'}"
    console = Console()
    where = "CPU" if choose_device(arguments.device).type == "cpu" else torch.cuda.get_device_name()
    torch.backends.cudnn.benchmark = True
    console.print(f"{arguments.batch} slices of {arguments.size}², {mode}, {where}, {arguments.threads} thread(s)")
    for name, build in tables.items():
        if arguments.only in (None, name):
            bench = Bench(arguments)
            console.print(build(bench))
            for contender, peak in bench.peaks.items():
                console.print(f"{contender}: {say_bytes(peak)} of CUDA's memory while all contenders are there")


if __name__ == "__main__":
    main()
