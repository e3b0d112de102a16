"""A run's memory on the coordinator's disk: what was configured, how far it is, its parameters and its metrics."""

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from mtmd_core.config import AUTOENCODER, RunConfig
from mtmd_core.config_files import decisive_words, load_config, save_config
from mtmd_core.durable import write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.event_log import EventLog
from mtmd_core.tensor_files import DamagedFileError

from .checkpoints import Arrays, Checkpoint, Shelved, is_damaged, load_checkpoint, run_of, save_checkpoint
from .standing import Standing

log = logging.getLogger(__name__)

AUDIT = "audit.jsonl"
"""Name of the log for machines."""
SEGMENTATION = "segmentation"
"""What the run's last phase is called in it."""
PARTS = (AUTOENCODER,)
"""Phases with files of their own, beside the run's last."""


class RunStore:
    """The files of one run in one folder.

    ``config.yaml`` (resolved), ``run.json`` (its name), ``round_metrics.jsonl`` (a line a site and round),
    ``checkpoints/last.safetensors`` and ``…/best.safetensors``, ``progress.json``, ``standing.json`` (who was refused),
    ``audit.jsonl`` (what happened, an event a line) and in the end ``summary.json``. A phase before has files of its own beside
    them, such as ``checkpoints/autoencoder_last.safetensors``.

    Args:
        folder: of the run; made if it is not there.
        config: of the run.
        every_round: whether to write a checkpoint after every round, so that the run can go on after a crash.
        remake: whether a finished run in this folder gives way to a new one.

    Raises:
        ConfigurationError: if the folder holds a finished run that is not to give way, or one that is not finished and another.
    """

    def __init__(self, folder: Path, config: RunConfig, every_round: bool, remake: bool = False) -> None:
        self.folder = folder
        self.config = config
        self.every_round = every_round
        self.rounds = config.federation.rounds
        self.standing = Standing(folder, config.federation.refusals_before_set_aside)
        self._part = ""
        self._last_is_whole = False  # what is damaged must not take the place of the checkpoint before
        self._audit = EventLog(folder / AUDIT)
        self._progress: dict[str, object] = {"here": []}  # one for all phases
        folder.mkdir(parents=True, exist_ok=True)
        facts = self._facts()
        if facts.get("finished") and not remake:
            raise ConfigurationError(
                f"{folder} holds a finished run, which is not overwritten: `mtmd-server --new` sets it aside and begins another."
            )
        self.name = self._continued(facts) or self._begun()

    def phase(self, part: str, rounds: int) -> "RunStore":
        """The same run's store of one of its phases: metrics and checkpoints go into files of their own.

        Args:
            part: name of the phase; one of :data:`PARTS`.
            rounds: how many it has.
        """
        store = copy(self)
        store._part, store.rounds = part, rounds
        return store

    def sites(self) -> dict[str, int] | None:
        """The sites of this run and their numbers of structures, if it ever had all of them."""
        return self._facts().get("sites")

    def remember_sites(self, structures: Mapping[str, int]) -> None:
        """Keep which sites the run began with: it goes on with the same."""
        write_json(self.folder / "run.json", self._facts() | {"sites": dict(structures)})

    def progress(self, phase: str, round_: int, message: str, sites: Sequence[str] = ()) -> None:
        """Say how far the run is, and which sites are asked for something now."""
        self._tell(phase=phase, round=round_, rounds=self.rounds, sites=list(sites), message=message)

    def here(self, sites: Sequence[str]) -> None:
        """Say which sites are connected."""
        joining = {"message": f"here: {', '.join(sites)}"} if self._progress.get("phase") == "joining" else {}
        self._tell(here=list(sites), **joining)

    def note(self, event: str, **facts: object) -> None:
        """Add an event to ``audit.jsonl``: words, numbers and names of sites alone."""
        self._audit.note(event, run=self.name, phase=self._part or SEGMENTATION, **facts)

    def _tell(self, **content: object) -> None:
        self._progress.update(content, time=time.time())
        draft = self.folder / ".progress.json"  # replaced as a whole, and worth no flush to the disk
        draft.write_text(json.dumps(self._progress), encoding="utf-8")
        draft.replace(self.folder / "progress.json")

    def append_metrics(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to ``round_metrics.jsonl``."""
        with open(self._metrics_file, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

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

    def save_last(
        self,
        round_: int,
        shared: Arrays,
        optimiser: Mapping[str, Tensor] | None = None,
        prototypes: Mapping[str, Shelved] | None = None,
    ) -> None:
        """Keep the shared parameters that a round ended with, the server optimiser's state and the prototypes that are known."""
        if self.every_round or round_ == self.rounds:
            last = self._checkpoint_file("last")
            if self._last_is_whole:
                last.replace(self._checkpoint_file("previous"))  # for the case that the new one is damaged
            self._save("last", Checkpoint(round_, shared, optimiser or {}, prototypes or {}))
            self._last_is_whole = True

    def save_best(self, round_: int, shared: Arrays, choice: Mapping[str, Any] | None = None) -> None:
        """Keep the shared parameters of the best round so far, and what makes it the best."""
        if self.every_round:
            self._save("best", Checkpoint(round_, shared, choice=choice or {}))

    def last(self) -> Checkpoint | None:
        """Where the run stopped, if it did; metrics of later rounds are dropped, for these rounds come again.

        Where the last checkpoint is damaged or was not finished, it is the one before.

        Raises:
            ConfigurationError: if both are damaged: the run is not begun anew over what may be put back.
        """
        last = self._load("last")
        self._last_is_whole = last is not None
        checkpoint = last or self._load("previous")
        kept = [path for path in map(self._checkpoint_file, ("last", "previous")) if path.is_file()]
        if checkpoint is None and kept and all(map(is_damaged, kept)):
            raise ConfigurationError(
                f"{' and '.join(map(str, kept))} cannot be read, from which the run would go on: put one back from a copy, or "
                "give another --state folder to begin a new run."
            )
        if self._metrics_file.is_file():
            finished = checkpoint.round if checkpoint else 0
            lines = [line for line in self.metrics() if line["round"] <= finished]
            write_text(self._metrics_file, "".join(json.dumps(line) + "\n" for line in lines))
        return checkpoint

    def best(self) -> Checkpoint | None:
        """The best round so far."""
        return self._load("best")

    def choose(self, checkpoint: Checkpoint) -> None:
        """Keep the parameters that the phase ends with."""
        self._save("chosen", checkpoint)

    def chosen(self) -> Checkpoint | None:
        """What the phase ended with, if it has."""
        return self._load("chosen")

    def finish(self, summary: Mapping[str, object] | None, checkpoint: Checkpoint) -> None:
        """Write the chosen parameters, and the run's summary if there is one; from then on nothing is begun over it."""
        self.choose(checkpoint)
        if summary is not None:
            write_json(self.folder / "summary.json", summary)
        write_json(self.folder / "run.json", self._facts() | {"finished": True})
        self.note("finished", chosen_round=checkpoint.round)

    @property
    def _metrics_file(self) -> Path:
        return self.folder / f"{self._prefix}round_metrics.jsonl"

    @property
    def _prefix(self) -> str:
        return f"{self._part}_" if self._part else ""

    def _checkpoint_file(self, which: str) -> Path:
        return self.folder / "checkpoints" / f"{self._prefix}{which}.safetensors"

    def _facts(self) -> dict:
        """What ``run.json`` says; of a run whose file is lost or damaged, what its checkpoints say of it."""
        try:
            return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._facts_of_checkpoints()
        except (OSError, ValueError):
            log.warning("run.json is damaged and passed over: the run's name is taken from its checkpoints")
            return self._facts_of_checkpoints()

    def _facts_of_checkpoints(self) -> dict:
        """The name of the run that a checkpoint here is of; which sites it has is learnt anew."""
        for path in self._checkpoints():
            with contextlib.suppress(DamagedFileError):
                return {"name": run_of(path), "finished": False}
        return {}

    def _checkpoints(self) -> list[Path]:
        """The checkpoints of all phases from which a run goes on."""
        files = [part._checkpoint_file(which) for part in self._parts() for which in ("last", "previous")]
        return [path for path in files if path.is_file()]

    def _continued(self, facts: dict) -> str | None:
        """The name of the run that this folder holds, by what its files say, if it is this one and not finished.

        Raises:
            ConfigurationError: if it is another one that finished some rounds and not all, or that cannot be told: nothing is
                overwritten.
        """
        if not self.every_round or facts.get("finished", True):
            return None
        begun = bool(self._checkpoints())
        path = self.folder / "config.yaml"
        try:
            changed = decisive_words(load_config(path)).items() ^ decisive_words(self.config).items()
        except ConfigurationError as error:
            if not begun:
                return None
            raise ConfigurationError(
                f"{self.folder} holds a run that is not finished, and its configuration cannot be read ({error}): put "
                f"{path.name} back from a copy to go on with it, or give another --state folder to begin a new one."
            ) from None
        if changed and begun:
            words = ", ".join(sorted({word for word, _ in changed}))
            raise ConfigurationError(
                f"{self.folder} holds a run that is not finished, of another configuration ({words}): give the same words "
                "to go on with it, or another --state folder to begin a new one."
            )
        if changed:
            return None
        write_json(self.folder / "run.json", facts)  # whole again, where it was not
        return facts["name"]

    def _begun(self) -> str:
        """A new run: nothing of an older one in this folder may be taken for its own."""
        (self.folder / "summary.json").unlink(missing_ok=True)
        self.standing.begin()
        for part in self._parts():
            part._metrics_file.unlink(missing_ok=True)
            for which in ("last", "previous", "best", "chosen"):
                part._checkpoint_file(which).unlink(missing_ok=True)
        name = uuid.uuid4().hex[:12]
        save_config(self.config, self.folder / "config.yaml")
        write_json(self.folder / "run.json", {"name": name, "finished": False})
        return name

    def _parts(self) -> list["RunStore"]:
        return [self, *(self.phase(part, self.rounds) for part in PARTS)]

    def _save(self, which: str, checkpoint: Checkpoint) -> None:
        save_checkpoint(self._checkpoint_file(which), self.name, checkpoint)

    def _load(self, which: str) -> Checkpoint | None:
        return load_checkpoint(self._checkpoint_file(which), self.name)


def mark_finished(folder: Path) -> None:
    """Let nothing go on from a folder's checkpoints any more; a folder without a federation stays as it is."""
    path = folder / "run.json"
    if path.is_file():
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # damaged: that it is finished is all that need be known of it
            facts = {}
        write_json(path, facts | {"finished": True})
