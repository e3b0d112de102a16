"""Whether training still has numbers in hand: nothing that is NaN or infinite is kept for a next round."""

import math
from collections.abc import Mapping

from torch import Tensor

from mtmd_core.errors import RunFailedError, SiteError
from mtmd_core.training import not_finite


class NotFiniteError(RunFailedError):
    """A round's training came to NaN or infinity; nothing of it is kept."""

    site_error = SiteError.NOT_FINITE


def require_finite(round_: int, loss: float, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no later training could come back from.

    Args:
        round_: that was trained, for the message.
        loss: the round's mean loss.
        tensors: name → what the round left, of any dtype and shape.

    Raises:
        NotFiniteError: naming the first that holds NaN or infinity.
    """
    wrong = not_finite(tensors)
    if wrong is None and not math.isfinite(loss):
        wrong = "the mean loss"
    if wrong is not None:
        raise NotFiniteError(
            f"training of round {round_} left NaN or infinity in {wrong} (mean loss {loss:g}): nothing of the round is sent or "
            "kept, and the next one goes on from the round before. If it happens again, look for damaged exams with `mtmd-client "
            "check`, or ask the coordinator for a lower learning rate"
        )
