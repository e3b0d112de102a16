"""Eq. 7 of the paper: multi-joint anatomical priors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmd_core.precision import in_float32_or_wider


def anatomical_prior_loss(truth: Mapping[str, Tensor], prediction: Mapping[str, Tensor]) -> Tensor:
    """Distance between the anatomical codes of ground truth and prediction, Eq. 7.

    ``L_MJAP = (1/K) Σ_k 1/n_k Σ_i ‖F(y_i) − F(ŷ_i)‖₂²``, with one change: the squared norm is averaged over the code's
    elements. Eq. 7 sums over them, which ties its weight λ3 to the resolution of the slices and the width of F.

    Args:
        truth: domain → codes F(y) of the ground truth, [B_k, E, H, W].
        prediction: domain → codes F(ŷ) of the predicted probabilities, same shapes.

    Returns:
        A scalar of at least 0, in float32 or wider whatever the codes' dtype.

    Raises:
        ValueError: if the two do not name the same domains, or there is none.

    Example:
        >>> ones = torch.ones(2, 3, 4, 4)
        >>> float(anatomical_prior_loss({"ankle": ones, "knee": ones}, {"ankle": 3 * ones, "knee": ones}))
        2.0
    """
    if not truth or truth.keys() != prediction.keys():
        raise ValueError(
            f"codes are of domains {sorted(truth)} and {sorted(prediction)}; both must name the same, at least one"
        )
    terms = (
        (in_float32_or_wider(truth[domain]) - in_float32_or_wider(code)).square().mean()
        for domain, code in prediction.items()
    )
    return torch.stack(list(terms)).mean()
