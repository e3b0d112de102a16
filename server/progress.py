"""What a run says about itself while it goes on, shown to a person."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunDisplay:
    """Shows ``progress.json``: a bar with the time left on a terminal, else one line whenever its message changes."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._last = ""
        self._bar: Progress | None = None

    def __enter__(self) -> "RunDisplay":
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rounds"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bar if there is one."""
        self._console.print(line, markup=False)

    def show(self, progress: dict[str, Any]) -> None:
        """Show what the run wrote last: phase, round, rounds, message."""
        message = str(progress.get("message") or progress.get("phase") or "")
        if self._bar is not None:
            self._bar.update(
                self._task, description=message, completed=progress.get("round", 0), total=progress.get("rounds")
            )
        elif message and message != self._last:
            self.say(message)
        self._last = message


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file that is replaced as a whole holds, or None if it is not there or damaged: whoever writes it makes it anew."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
