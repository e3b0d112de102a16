"""What a person sees while a simulation runs: a bar with loss and time left, or plain lines where there is no terminal."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

VALIDATION_DICE = "validation/foreground_mean/dice"
PLAIN_PAUSE_SECONDS = 10.0
"""Without a terminal, the shortest pause between two lines on steps."""


class RunDisplay:
    """Shows steps and rounds.

    Args:
        steps: training steps in all, over all sites.
        console: where to print.
        on_scores: called after each validation, whose training is on the disk by then.
    """

    def __init__(
        self, steps: int, console: Console | None = None, on_scores: Callable[[], None] = lambda: None
    ) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._on_scores = on_scores
        self._steps = steps
        self._done = 0
        self._stage = "reading exams"
        self._started = self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps · loss {task.fields[loss]:.4f} ·"),
            TimeElapsedColumn(),
            TextColumn("· left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, stage=self._stage, loss=float("nan"))

    def __enter__(self) -> "RunDisplay":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        """Say what is being done now."""
        self._stage = name
        self._bar.update(self._task, stage=name)

    def skip(self, steps: int) -> None:
        """Steps that an earlier call has made already."""
        self._steps -= steps
        self._bar.update(self._task, total=self._steps)

    def step(self, _step: int, loss: float) -> None:
        """One training step is done."""
        self._done += 1
        self._bar.update(self._task, advance=1, loss=loss)
        if not self.console.is_terminal and time.monotonic() - self._printed > PLAIN_PAUSE_SECONDS:
            self._printed = time.monotonic()
            left = (self._printed - self._started) / self._done * (self._steps - self._done)
            self.say(f"{self._stage}: step {self._done} of {self._steps}, loss {loss:.4f}, about {left:.0f} s left")

    def scores(self, title: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """One line with each site's loss and validation Dice."""
        self._on_scores()
        parts = []
        for site, values in metrics.items():
            words = [f"loss {values['loss']:.4f}"] if "loss" in values else []
            words += [f"Dice {values[VALIDATION_DICE]:.3f}"] if VALIDATION_DICE in values else []
            parts.append(f"{site} {', '.join(words)}")
        self.say(f"{title}: " + " · ".join(parts))

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self.console.print(line, markup=False)
