"""A site's own prototype within a round: running averages over the batches that it trains on."""

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtmd_core.precision import in_float32_or_wider

from .minimum import LOCAL, Minimum
from .prototype_summary import limit_exams, summarise
from .prototypes import COMPONENTS, RANK, Prototype

Place = tuple[int, int]
"""A slice of a site: the number of its exam, and of the slice in it."""
NEGLIGIBLE = 2.0**-8
"""A weight that is not worth a slice's time, the latest batch weighing 1."""


class RecentEmbeddings:
    """The embeddings of the last batches at every scale, the older the lighter.

    Moments are exponential averages over batches: a batch weighs half as much as one that came ``half_life`` batches later;
    with an infinite half-life they are cumulative. Embeddings are kept, not their sums, so that components are found anew in
    each summary and no rounding error accumulates. Nine scales of Att-UNet at full width take 6 MB for 1024 slices.

    Args:
        half_life: batches, above 0.
        capacity: batches that are kept.
    """

    def __init__(self, half_life: float, capacity: int = 64) -> None:
        if not half_life > 0 or capacity < 1:
            raise ValueError(f"half_life is {half_life} and capacity {capacity}; expected above 0 and at least 1")
        self.half_life = half_life
        self._batches: deque[tuple[list[Tensor], list[Place]]] = deque(maxlen=capacity)

    def add(self, embeddings: Sequence[Tensor], places: Sequence[Place]) -> None:
        """Remember a batch: one [B, E_s] a scale, and where its slices come from.

        Raises:
            ValueError: if there is not one place an embedding.
        """
        if any(len(scale) != len(places) for scale in embeddings):
            raise ValueError(f"{[len(scale) for scale in embeddings]} embeddings a scale for {len(places)} places")
        sizes = [scale.shape[1] for scale in embeddings]
        together = torch.cat([in_float32_or_wider(scale.detach()) for scale in embeddings], dim=1)
        kept = together.cpu().split(sizes, dim=1)  # one wait for the device, not one a scale
        self._batches.append((kept, list(places)))

    def __len__(self) -> int:
        """Batches that are remembered."""
        return len(self._batches)

    def summarise(
        self,
        temperature: float = 0.1,
        minimum: Minimum = LOCAL,
        rank: int = RANK,
        components: int = COMPONENTS,
        slices_per_exam: int | None = None,
    ) -> list[Prototype] | None:
        """A prototype a scale from the latest embedding of each slice, or None below the minimum.

        Slices of batches so old that they weigh less than ``NEGLIGIBLE`` are left out. ``slices_per_exam``: see
        :func:`mtmd_core.prototype_summary.limit_exams`, where it is given.
        """
        weights = self._weights()
        kept = weights >= NEGLIGIBLE
        if not kept.any():
            return None
        exams = torch.tensor([exam for _, places in self._batches for exam, _ in places])[kept]
        weights = weights[kept]
        if slices_per_exam is not None:
            weights = weights * limit_exams(exams, slices_per_exam)
        words = {"weights": weights, "minimum": minimum, "rank": rank, "components": components}
        prototypes = [
            summarise(torch.cat(scale)[kept], exams, temperature, **words)
            for scale in zip(*(embeddings for embeddings, _ in self._batches), strict=True)
        ]
        return None if prototypes[0] is None else prototypes

    def last(self, count: int, half_life: float) -> "RecentEmbeddings":
        """The last ``count`` batches with another half-life; nothing is copied."""
        part = RecentEmbeddings(half_life, count)
        part._batches.extend(self._batches)
        return part

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a file: ``sizes`` of the batches, ``places`` of their slices, [n, 2], and ``s1`` …, [n, E_s]."""
        if not self._batches:
            return {}
        places = [place for _, batch in self._batches for place in batch]
        scales = zip(*(embeddings for embeddings, _ in self._batches), strict=True)
        return {
            "sizes": torch.tensor([len(batch) for _, batch in self._batches]),
            "places": torch.tensor(places),
            **{f"s{number}": torch.cat(scale) for number, scale in enumerate(scales, start=1)},
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` took; what was remembered before is forgotten."""
        self._batches.clear()
        if not tensors:
            return
        sizes = tensors["sizes"].tolist()
        places = [(exam, index) for exam, index in tensors["places"].tolist()]
        scales = [tensors[f"s{number}"].split(sizes) for number in range(1, len(tensors) - 1)]
        start = 0
        for size, *embeddings in zip(sizes, *scales, strict=True):
            self._batches.append((embeddings, places[start : start + size]))
            start += size

    def _weights(self) -> Tensor:
        """Of every embedding, oldest first; 0 where the same slice came again."""
        weights, seen = [], set()
        for age, (_, places) in enumerate(reversed(self._batches)):
            fresh = [place not in seen and not seen.add(place) for place in reversed(places)]
            weights += [0.5 ** (age / self.half_life) if new else 0.0 for new in fresh]
        return torch.tensor(weights[::-1], dtype=torch.float64)
