"""The proximal term of FedProx: a site's parameters held near those that it received."""

from collections.abc import Mapping

import torch
from torch import Tensor


def proximal_term(parameters: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> Tensor:
    """Half the squared distance to the received parameters (Li et al. 2020, Algorithm 2): ``½ Σ ‖w − wᵗ‖²``.

    Its weight μ is the caller's. Its gradient is ``w − wᵗ``: nothing at the first of a round's local steps.

    Args:
        parameters: name → w, as they are now.
        received: name → wᵗ, as the round began; same names and shapes, no gradient.

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: if the two do not name the same parameters, or there is none.

    Example:
        >>> float(proximal_term({"a": torch.tensor([3.0, 1.0])}, {"a": torch.tensor([1.0, 1.0])}))
        2.0
    """
    if not parameters or parameters.keys() != received.keys():
        raise ValueError(
            f"{len(parameters)} parameters are to be held near {len(received)} that were received; both must be the same, "
            "at least one"
        )
    return 0.5 * torch.stack([(now - received[name]).square().sum() for name, now in parameters.items()]).sum()
