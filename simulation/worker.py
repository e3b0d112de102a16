"""A run in a process of its own: ``python -m simulation.worker FOLDER`` makes the run that ``FOLDER/config.yaml`` describes.

What it prints goes to ``FOLDER/worker.log``. It ends when the process that started it does, and not at a terminal's Ctrl-C,
which is that process's to answer. All files of a run are whole at any moment, so it can be ended at once.
"""

import logging
import signal
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.config_files import load_config, save_config
from mtmd_core.devices import be_deterministic, limit_threads
from mtmd_core.errors import MtmdError
from mtmd_core.processes import child_environment, die_with_parent, end, last_lines, start

from .data import load_sites
from .runs import CONFIG, run

LOG = "worker.log"


def main(folder: Path) -> int:
    """Make the run; its exit code. The last line of the log says what went wrong."""
    die_with_parent(signal.SIGKILL)
    logging.captureWarnings(True)
    try:
        config = load_config(folder / CONFIG)
        limit_threads(config.threads)
        be_deterministic(config.training.deterministic)
        run(config, load_sites(config), folder, Console(quiet=True))
    except MtmdError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)  # a message may have several lines
        return 1
    return 0


class RunProcess:
    """The other side: a run that was started in a process of its own, at ``started`` on the monotonic clock."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        save_config(config, folder / CONFIG)
        self._log = folder / LOG
        self._log_from = self._log.stat().st_size if self._log.exists() else 0
        command = [sys.executable, "-m", "simulation.worker", str(folder)]
        self.started = time.monotonic()
        self._child = start(command, self._log, child_environment({}))

    def has_ended(self) -> bool:
        """Whether the process is over."""
        return self._child.poll() is not None

    def failure(self) -> str | None:
        """Why the run failed, once the process has ended; None if it did not."""
        code = self._child.wait()
        if code == 0:
            return None
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}; its log is {self._log}"
        return f"{last_lines(self._log, self._log_from, count=1)} (log: {self._log})"

    def end(self) -> None:
        """End the process at once."""
        end(self._child)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
