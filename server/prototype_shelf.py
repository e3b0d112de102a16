"""The last sound prototypes of every site, and who is given which."""

from collections.abc import Mapping

from mtmd_core.config import NetworkConfig
from mtmd_core.minimum import Minimum
from mtmd_core.networks.build import embedding_sizes
from mtmd_core.objectives import contrasted
from mtmd_core.prototype_arrays import MOST_SLICES, array_shapes, refusal
from mtmd_core.wire import ArrayShape, ContrastPlan

from .checkpoints import Arrays, Shelved


class PrototypeShelf:
    """Keeps what sites sent of their embeddings, each site's last.

    Args:
        network: that the embeddings are of.
        contrast: how prototypes are used; how many exams and slices they must be of.
        maximum_age: rounds after which they stand in for their site no more.
        shelved: what the shelf held when the run stopped.
    """

    def __init__(
        self, network: NetworkConfig, contrast: ContrastPlan, maximum_age: int, shelved: Mapping[str, Shelved]
    ) -> None:
        self.sizes = contrasted(embedding_sizes(network), contrast.single_scale)
        self.contrast = contrast
        self.maximum_age = maximum_age
        self.shelved: dict[str, Shelved] = dict(shelved)

    @property
    def expected(self) -> dict[str, ArrayShape]:
        """dtype and shape of every array that a site sends."""
        return array_shapes(self.sizes)

    def refusal(self, arrays: Arrays, most_slices: int = MOST_SLICES) -> str | None:
        """Why arrays of the right shapes are no prototypes of so many slices at most; None if they can be."""
        minimum = Minimum(self.contrast.minimum_exams, self.contrast.minimum_slices)
        return refusal(arrays, self.sizes, self.contrast.temperature, minimum, most_slices)

    def put(self, site: str, round_: int, arrays: Arrays) -> None:
        """Keep what a site made of itself at the end of a round in place of what it sent before."""
        self.shelved[site] = Shelved(round_, arrays)

    def others(self, site: str, round_: int) -> list[Arrays]:
        """What a site is given in a round: all others' that are not too old, in the order of their sites' names."""
        return [
            kept.arrays
            for name, kept in sorted(self.shelved.items())
            if name != site and round_ - kept.round <= self.maximum_age
        ]
