"""How a training's learning rate falls."""


def decayed(learning_rate: float, decay: str, step: int, steps: int) -> float:
    """The learning rate of a step: as it is, or under ``linear`` decay falling in equal parts, to reach 0 after the last step.

    Args:
        learning_rate: of the first step.
        decay: ``none`` or ``linear``.
        step: counted from 0.
        steps: of the whole training.

    >>> [decayed(0.1, "linear", step, 4) for step in (0, 2, 3)]
    [0.1, 0.05, 0.025]
    """
    return learning_rate * (1 - step / steps) if decay == "linear" else learning_rate
