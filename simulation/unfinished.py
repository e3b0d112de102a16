"""What a run's folder holds until the run is finished: all that it needs to go on, and the time that it took so far."""

import json
import shutil
import time
from pathlib import Path

from mtmd_core.durable import write_json
from server.run_store import mark_finished

from .fit import forget_checkpoints

MEMORY = "sites"
"""Folder of what a federation's sites remember."""
_SECONDS = "seconds.json"


class Stopwatch:
    """Seconds of work on a run over all its sessions; of one that was killed, those until the last :meth:`keep`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / _SECONDS
        self._before = json.loads(self._file.read_text(encoding="utf-8"))["seconds"] if self._file.is_file() else 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now, to a tenth."""
        return round(self._before + time.monotonic() - self._started, 1)

    def keep(self) -> None:
        """Remember them for a session that comes later."""
        write_json(self._file, {"seconds": self.seconds})


def forget_progress(folder: Path) -> None:
    """Drop what only an unfinished run needs; for runs whose summary is on the disk. What is dropped already is no error."""
    forget_checkpoints(folder)
    mark_finished(folder)
    shutil.rmtree(folder / MEMORY, ignore_errors=True)
    (folder / _SECONDS).unlink(missing_ok=True)
