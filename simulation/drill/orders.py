"""What the drill tells its own site's worker: files in a folder that its environment names.

``orders.json`` says in which round to do what. A worker that comes to a standstill leaves ``stopped-ROUND``, and goes on when
there is ``go-ROUND``. One that is started again finds its predecessor's mark and passes the place by.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MTMD_DRILL_ORDERS"
"""Names the folder to the worker; read by the drill's own worker alone."""
LONGEST_STOP_SECONDS = 300.0
"""No worker of the drill outlasts it."""
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Orders:
    """Orders in a folder, as both sides see them."""

    folder: Path

    @classmethod
    def give(cls, folder: Path, faults: dict[int, str], stops: list[int]) -> "Orders":
        """Write orders: rounds whose replies are spoilt, and rounds in whose training to stop after the first step."""
        folder.mkdir(parents=True, exist_ok=True)
        orders = {"faults": {str(round_): fault for round_, fault in faults.items()}, "stops": stops}
        (folder / "orders.json").write_text(json.dumps(orders), encoding="utf-8")
        return cls(folder)

    @classmethod
    def taken(cls) -> "Orders":
        """The orders that this process's environment names."""
        return cls(Path(os.environ[VARIABLE]))

    def fault(self, round_: int) -> str | None:
        """How the reply of a round is to be spoilt."""
        return self._read()["faults"].get(str(round_))

    def stop(self, round_: int) -> None:
        """Stop here, if a stop is ordered in this round and none was made yet, until the drill says go."""
        mark = self.folder / f"stopped-{round_}"
        if round_ not in self._read()["stops"] or mark.exists():
            return
        mark.touch()
        deadline = time.monotonic() + LONGEST_STOP_SECONDS
        while not (self.folder / f"go-{round_}").exists() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def is_stopped(self, round_: int) -> bool:
        """Whether a worker has come to the stop of a round."""
        return (self.folder / f"stopped-{round_}").exists()

    def go(self, round_: int) -> None:
        """Let a worker that stopped in a round go on."""
        (self.folder / f"go-{round_}").touch()

    def _read(self) -> dict:
        return json.loads((self.folder / "orders.json").read_text(encoding="utf-8"))
