"""The embeddings of a run's training and validation slices, as evaluation sees them (the paper, section 3.5).

Networks are in evaluation mode, normalise by running statistics and see slices as they lie on disk, unmoved.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtmd_core.data.site_data import CutExam, SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.inference import SLICES_AT_ONCE
from mtmd_core.networks.autoencoder import one_hot

from .trained import TrainedNetwork


@dataclass(frozen=True)
class SiteEmbeddings:
    """Embeddings of a site's slices: one [n, E_s] a scale of :data:`mtmd_core.representations.SCALES`; ``validation`` [n] is
    True where the slice belongs to the validation exam."""

    scales: list[NDArray[np.float32]]
    validation: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.validation)


def embed_images(
    networks: Mapping[str, TrainedNetwork], sites: Mapping[str, SiteData], fold: int
) -> dict[str, SiteEmbeddings]:
    """Site → embeddings of its images by the network that segments them.

    Args:
        networks: site → network; sites without one are left out.
        sites: every site's exams.
        fold: whose training and validation exams to take.
    """
    return {site: _embed(own, sites[site], fold, _images) for site, own in networks.items()}


def embed_label_maps(
    networks: Mapping[str, TrainedNetwork], sites: Mapping[str, SiteData], fold: int
) -> dict[str, SiteEmbeddings]:
    """Site → embeddings of its label maps by the auto-encoder; maps of background alone are left out, and so is a site that
    has no others. Arguments as of :func:`embed_images`.
    """
    found = {site: _embed(own, sites[site], fold, _label_maps) for site, own in networks.items()}
    return {site: own for site, own in found.items() if len(own)}


Inputs = Callable[[TrainedNetwork, CutExam], Iterator[list[Tensor]]]
"""A network and an exam → embeddings of some slices at a time, one [n, E_s] a scale."""


@torch.inference_mode()
def _embed(own: TrainedNetwork, data: SiteData, fold: int, embeddings: Inputs) -> SiteEmbeddings:
    split = leave_one_out(list(data.exams), fold)
    parts, validation = [], []
    for exam in (*split.train, *split.validation):
        for part in embeddings(own, data.exams[exam]):
            parts.append([scale.float().cpu().numpy() for scale in part])
            validation += [exam in split.validation] * len(part[0])
    return SiteEmbeddings([np.concatenate(scale) for scale in zip(*parts, strict=True)], np.array(validation, np.bool_))


def _images(own: TrainedNetwork, exam: CutExam) -> Iterator[list[Tensor]]:
    like = next(own.network.parameters())
    for start in range(0, len(exam.images), SLICES_AT_ONCE):
        images = torch.from_numpy(np.array(exam.images[start : start + SLICES_AT_ONCE]))[:, None]
        shares = {own.card.space.domain: len(images)}
        yield own.network(images.to(like.device, like.dtype), shares, embeddings=True).embeddings


def _label_maps(own: TrainedNetwork, exam: CutExam) -> Iterator[list[Tensor]]:
    like, space = next(own.network.parameters()), own.card.space
    labels = np.array(exam.labels)
    for part in torch.from_numpy(labels[labels.any(axis=(1, 2))]).to(like.device).split(SLICES_AT_ONCE):
        if len(part):  # an empty tensor is split into one empty part
            classes = torch.where(part > 0, part.int() + space.offset, 0)
            maps = one_hot({space.domain: classes}, {space.domain: space.classes})
            yield own.network(maps, embeddings=True).embeddings
