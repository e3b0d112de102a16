"""``mtmd-server drill``: the drill needs sites, which this room knows nothing of, so it is a program beside it."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def drill(words: Sequence[str]) -> NoReturn:
    """Become the drill (``simulation/drill``), which ends with its own exit code."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "simulation.drill", *words])
