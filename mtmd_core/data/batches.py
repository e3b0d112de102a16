"""Domain-balanced batches whose content is a function of the seed, the domain and the step.

Nothing is remembered between steps: a run that stops at step t and goes on draws what it would have drawn, and a site
alone draws what its domain contributes to a pooled batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mtmd_core.seeds import derive_seed, generator

from .augmentation import draw_geometry, move

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Images [B, 1, H, W], grouped by domain; labels by domain, [B_k, H, W]; shares: domain → B_k."""

    images: Tensor
    labels: dict[str, Tensor]
    shares: dict[str, int]


class SliceSource:
    """The training slices of one site as an endless, shuffled stream.

    Args:
        site: whose slices; names the random streams.
        images: one array [S, H, W] float32 an exam; may be memory-mapped.
        labels: one array [S, H, W] uint8 an exam.
        offset: added to every label but background (where a site's structures lie in a union label space).
    """

    def __init__(self, site: str, images: Sequence[np.ndarray], labels: Sequence[np.ndarray], offset: int = 0) -> None:
        self.site = site
        self.offset = offset
        self._images = images
        self._labels = labels
        self._places = [(exam, index) for exam, stack in enumerate(images) for index in range(len(stack))]

    def __len__(self) -> int:
        return len(self._places)

    def pick(self, seed: int, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` slices of step ``step`` as they are: images [count, 1, H, W] and labels [count, H, W].

        Steps walk through one random order of all slices after another, so that every slice is seen once before any is
        seen again.
        """
        places = self.places(seed, step, count)
        images = torch.from_numpy(np.stack([self._images[exam][index] for exam, index in places]))[:, None]
        labels = torch.from_numpy(np.stack([self._labels[exam][index] for exam, index in places]))
        return images, torch.where(labels > 0, labels + self.offset, labels) if self.offset else labels

    def places(self, seed: int, step: int, count: int) -> list[tuple[int, int]]:
        """Where the slices of step ``step`` lie: the number of the exam, and of the slice in it."""
        return [self._places[index] for index in self._order(seed, step * count, count)]

    def geometry(self, seed: int, step: int, count: int) -> Tensor:
        """How the slices of step ``step`` are moved, [count, 2, 3]."""
        return draw_geometry(count, generator(seed, "augmentation", self.site, step))

    def _order(self, seed: int, start: int, count: int) -> list[int]:
        total = len(self)
        return [
            int(_permutation(total, seed, self.site, position // total)[position % total])
            for position in range(start, start + count)
        ]


def draw_batch(
    sources: Mapping[str, Sequence[SliceSource]],
    seed: int,
    step: int,
    share: int,
    augmented: bool = True,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """A batch with ``share`` slices of every site, grouped by domain, moved there in one go on ``device``.

    Args:
        sources: domain → the sites that belong to it (one each, except where one domain serves every site).
        dtype: of the images; they are moved in float32, so that a wider one sees the same.
    """
    members = [source for each in sources.values() for source in each]
    picked = [source.pick(seed, step, share) for source in members]
    images, labels = (torch.cat(parts).to(device, non_blocking=True) for parts in zip(*picked, strict=True))
    if augmented:
        images, labels = move(images, labels, torch.cat([source.geometry(seed, step, share) for source in members]))
    shares = {domain: share * len(each) for domain, each in sources.items()}
    return Batch(images.to(dtype), dict(zip(shares, labels.split(list(shares.values())), strict=True)), shares)


@lru_cache(maxsize=64)
def _permutation(total: int, seed: int, site: str, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "batches", site, epoch)).permutation(total)
