"""How many exams and slices a prototype must describe; imported by all that check a configuration, and so without PyTorch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Minimum:
    """The fewest exams and slices that a prototype, or one of its components, may describe."""

    exams: int = 3
    slices: int = 50

    def met_by(self, weights: "Tensor | np.ndarray", exams: "Tensor | np.ndarray") -> bool:
        """Whether slices of these weights and exams, each [n], are enough.

        Slices count by their effective number ``(Σw)² / Σw²`` (Kish 1965), which is n where all weigh alike: a mean that the
        last few slices dominate is one of few slices.
        """
        weights, exams = weights[weights > 0], exams[weights > 0]
        if len(weights) == 0:
            return False
        effective = float(weights.sum()) ** 2 / float((weights * weights).sum())
        return effective > self.slices - 1e-6 and len(set(exams.tolist())) >= self.exams


MINIMUM = Minimum()
"""What every released prototype must hold; a site's policy may ask for more."""
LOCAL = Minimum(exams=1, slices=1)
"""For what stays at a site."""
