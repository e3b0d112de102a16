"""A run's memory on the coordinator's disk: what was configured, how far it is, its parameters and its metrics."""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mtmd_core.config import RunConfig, load_config, save_config
from mtmd_core.durable import write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.tensor_files import DamagedFileError, load_tensors, save_tensors

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """Shared parameters at the end of a round."""

    round: int
    shared: Arrays


class RunStore:
    """The files of one run in one folder.

    ``config.yaml`` (resolved), ``run.json`` (its name), ``round_metrics.jsonl`` (a line a site and round),
    ``checkpoints/last.safetensors`` and ``…/best.safetensors``, ``progress.json``, and in the end ``summary.json``.

    Args:
        folder: of the run; made if it is not there.
        config: of the run.
        every_round: whether to write a checkpoint after every round, so that the run can go on after a crash.
    """

    def __init__(self, folder: Path, config: RunConfig, every_round: bool) -> None:
        self.folder = folder
        self.config = config
        self.every_round = every_round
        folder.mkdir(parents=True, exist_ok=True)
        self.name = self._continued() or self._begun()

    def progress(self, phase: str, round_: int, message: str, sites: Sequence[str] = ()) -> None:
        """Say how far the run is."""
        rounds = self.config.federation.rounds
        content = {
            "phase": phase,
            "round": round_,
            "rounds": rounds,
            "sites": list(sites),
            "message": message,
        }
        write_json(self.folder / "progress.json", content)

    def append_metrics(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to ``round_metrics.jsonl``."""
        with open(self._metrics_file, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    def metrics(self) -> list[dict]:
        """The lines of ``round_metrics.jsonl``; a last one that a crash cut short is left out."""
        lines = []
        if self._metrics_file.is_file():
            for text in self._metrics_file.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:
                    log.warning("a line of %s was cut short and is left out", self._metrics_file.name)
        return lines

    def save_last(self, round_: int, shared: Arrays) -> None:
        """Keep the shared parameters that a round ended with."""
        if self.every_round or round_ == self.config.federation.rounds:
            self._save("last", round_, shared)

    def save_best(self, round_: int, shared: Arrays) -> None:
        """Keep the shared parameters of the best round so far."""
        if self.every_round:
            self._save("best", round_, shared)

    def last(self) -> Checkpoint | None:
        """Where the run stopped, if it did; metrics of later rounds are dropped, for these rounds come again."""
        checkpoint = self._load("last")
        if self._metrics_file.is_file():
            finished = checkpoint.round if checkpoint else 0
            lines = [line for line in self.metrics() if line["round"] <= finished]
            write_text(self._metrics_file, "".join(json.dumps(line) + "\n" for line in lines))
        return checkpoint

    def best(self) -> Checkpoint | None:
        """The best round so far."""
        return self._load("best")

    def finish(self, summary: Mapping[str, object], checkpoint: Checkpoint) -> None:
        """Write the run's summary and the chosen parameters; the next run in this folder is a new one."""
        self._save("chosen", checkpoint.round, checkpoint.shared)
        write_json(self.folder / "summary.json", summary)
        write_json(self.folder / "run.json", {"name": self.name, "finished": True})

    @property
    def _metrics_file(self) -> Path:
        return self.folder / "round_metrics.jsonl"

    def _continued(self) -> str | None:
        """The name of the run that this folder holds, if it is this one and not finished."""
        try:
            facts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            same = load_config(self.folder / "config.yaml") == self.config
        except (OSError, ValueError, ConfigurationError):
            return None
        return facts["name"] if same and not facts["finished"] and self.every_round else None

    def _begun(self) -> str:
        """A new run: nothing of an older one in this folder may be taken for its own."""
        for old in (
            "round_metrics.jsonl",
            "summary.json",
            "checkpoints/last.safetensors",
            "checkpoints/best.safetensors",
        ):
            (self.folder / old).unlink(missing_ok=True)
        name = uuid.uuid4().hex[:12]
        save_config(self.config, self.folder / "config.yaml")
        write_json(self.folder / "run.json", {"name": name, "finished": False})
        return name

    def _save(self, which: str, round_: int, shared: Arrays) -> None:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in shared.items()}
        save_tensors(self.folder / "checkpoints" / f"{which}.safetensors", tensors, {"run": self.name, "round": round_})

    def _load(self, which: str) -> Checkpoint | None:
        path = self.folder / "checkpoints" / f"{which}.safetensors"
        if not path.is_file():
            return None
        try:
            tensors, facts = load_tensors(path)
        except DamagedFileError as error:
            log.warning("%s; the run starts from its beginning", error)
            return None
        if facts["run"] != self.name:
            return None
        return Checkpoint(facts["round"], {name: tensor.numpy() for name, tensor in tensors.items()})
