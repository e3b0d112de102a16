"""What a site remembers of a run: its private parameters and its optimiser's state, round by round, and its exams.

Rounds are remembered apart, so that a visit that comes twice starts both times from where it should, and a round that
turns out to be the best one is still there.
"""

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mtmd_core.config import AUTOENCODER
from mtmd_core.data.identity import ExamRecord
from mtmd_core.durable import write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.tensor_files import DamagedFileError, load_if_whole, load_tensors, save_tensors

log = logging.getLogger(__name__)

_FINISHED = "finished"
"""In a run's folder: no round of it will come."""
KEPT_RUNS = 8
"""Of how many runs a site's disk remembers something, that of their auto-encoders with them."""
_PHASE = f"-{AUTOENCODER}"
"""How the name of the run ends that trains a run's auto-encoder."""
KEPT_LATER = 4
"""Rounds after the one in hand that are kept, the last ones; a run that goes back leaves three."""


@dataclass(frozen=True)
class Remembered:
    """State at the end of a round."""

    round: int
    private: dict[str, Tensor]
    optimiser: dict[str, Tensor]


class SiteState(Protocol):
    """Memory of one site."""

    def save(self, run: str, round_: int, private: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """Remember the state at the end of a round."""

    def newest(self, run: str, upto: int) -> Remembered | None:
        """The newest state of a run that is not later than round ``upto``."""

    def private_upto(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """Private parameters at the end of a round, or of the last one before it that the site took part in."""

    def before(self, run: str, round_: int) -> int:
        """The newest round of a run before ``round_`` of which something is remembered; -1 if there is none."""

    def drop(self, run: str, round_: int) -> None:
        """Forget the state at the end of a round, if it is remembered: the next one goes on from the round before."""

    def freeze(self, run: str, round_: int, network: Mapping[str, Tensor]) -> None:
        """Keep a whole network as it was chosen: that of a round of a run which is over."""

    def frozen(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """What :meth:`freeze` kept of that very round, if it is there and whole."""

    def note_exams(self, run: str, exams: ExamRecord) -> None:
        """Keep which exams a run was begun with; those that are kept of it already stay."""

    def exams(self, run: str) -> ExamRecord | None:
        """The exams that a run was begun with; None if it was not begun here, or nothing is known of them."""

    def forget(self, run: str, keep: set[int], best_round: int) -> None:
        """Forget all rounds but ``keep`` and what :meth:`private_upto` would find for ``best_round``.

        On disk, the last rounds after those of ``keep`` stay too: a message that comes late must not undo them, and a run that
        goes back to an earlier round overwrites them one by one.
        """

    def finish(self, run: str) -> None:
        """No further round of a run will come: what only these would need is forgotten once another run begins."""


class MemoryState:
    """A site's memory inside one process, for simulations."""

    def __init__(self) -> None:
        self._private: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._optimiser: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._frozen: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._exams: dict[str, ExamRecord] = {}

    def save(self, run: str, round_: int, private: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """See :class:`SiteState`."""
        self._private[run, round_] = {name: tensor.detach().clone() for name, tensor in private.items()}
        self._optimiser[run, round_] = {name: tensor.detach().clone() for name, tensor in optimiser.items()}

    def newest(self, run: str, upto: int) -> Remembered | None:
        """See :class:`SiteState`."""
        rounds = [round_ for known, round_ in self._optimiser if known == run and round_ <= upto]
        if not rounds:
            return None
        return Remembered(max(rounds), self._private[run, max(rounds)], self._optimiser[run, max(rounds)])

    def private_upto(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """See :class:`SiteState`."""
        return self._private.get((run, _newest_upto(self._rounds(run), round_)))

    def before(self, run: str, round_: int) -> int:
        """See :class:`SiteState`."""
        return _newest_upto(self._rounds(run), round_ - 1)

    def drop(self, run: str, round_: int) -> None:
        """See :class:`SiteState`."""
        self._private.pop((run, round_), None)
        self._optimiser.pop((run, round_), None)

    def freeze(self, run: str, round_: int, network: Mapping[str, Tensor]) -> None:
        """See :class:`SiteState`."""
        self._frozen = {(run, round_): {name: tensor.detach().clone() for name, tensor in network.items()}}

    def frozen(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """See :class:`SiteState`."""
        return self._frozen.get((run, round_))

    def note_exams(self, run: str, exams: ExamRecord) -> None:
        """See :class:`SiteState`."""
        self._exams.setdefault(run, exams)

    def exams(self, run: str) -> ExamRecord | None:
        """See :class:`SiteState`."""
        return self._exams.get(run)

    def forget(self, run: str, keep: set[int], best_round: int) -> None:
        """See :class:`SiteState`."""
        kept = keep | {_newest_upto(self._rounds(run), best_round)}
        self._private = {key: value for key, value in self._private.items() if key[0] == run and key[1] in kept}
        self._optimiser = {key: value for key, value in self._optimiser.items() if key[0] == run and key[1] in keep}

    def finish(self, run: str) -> None:
        """See :class:`SiteState`. Another run's first round forgets this one whole."""

    def _rounds(self, run: str) -> list[int]:
        return [round_ for known, round_ in self._private if known == run]


class DiskState:
    """A site's memory on its own disk: ``FOLDER/RUN/000012.private.safetensors`` and ``….optimiser.safetensors``.

    A network that is trained no more is ``FOLDER/RUN/frozen.safetensors``, what tells a run's exams from others
    ``FOLDER/RUN/exams.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, run: str, round_: int, private: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """See :class:`SiteState`. The private file is written last: where it is, the round is complete."""
        if not self._rounds(run):
            self._forget_finished()
            self._forget_oldest(run)
        facts = {"run": run, "round": round_}
        save_tensors(self._path(run, round_, "optimiser"), optimiser, facts)
        save_tensors(self._path(run, round_, "private"), private, facts)

    def newest(self, run: str, upto: int) -> Remembered | None:
        """See :class:`SiteState`. A damaged file is passed over, and the round before it used."""
        for round_ in sorted(self._rounds(run), reverse=True):
            if round_ > upto:
                continue
            try:
                private, _ = load_tensors(self._path(run, round_, "private"))
                optimiser, _ = load_tensors(self._path(run, round_, "optimiser"))
            except DamagedFileError as error:
                log.warning("the state of round %d is passed over: %s", round_, error)
                continue
            return Remembered(round_, private, optimiser)
        return None

    def private_upto(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """See :class:`SiteState`. A damaged file is passed over, and the round before it used."""
        for known in sorted(self._rounds(run), reverse=True):
            if known <= round_ and (found := load_if_whole(self._path(run, known, "private"))) is not None:
                return found[0]
        return None

    def before(self, run: str, round_: int) -> int:
        """See :class:`SiteState`."""
        return _newest_upto(self._rounds(run), round_ - 1)

    def drop(self, run: str, round_: int) -> None:
        """See :class:`SiteState`."""
        for part in ("private", "optimiser"):
            self._path(run, round_, part).unlink(missing_ok=True)

    def freeze(self, run: str, round_: int, network: Mapping[str, Tensor]) -> None:
        """See :class:`SiteState`."""
        save_tensors(self._frozen_file(run), network, {"run": run, "round": round_})

    def frozen(self, run: str, round_: int) -> dict[str, Tensor] | None:
        """See :class:`SiteState`."""
        found = load_if_whole(self._frozen_file(run))
        return found[0] if found is not None and found[1] == {"run": run, "round": round_} else None

    def note_exams(self, run: str, exams: ExamRecord) -> None:
        """See :class:`SiteState`."""
        if self.exams(run) is None:
            write_json(self._exams_file(run), exams)

    def exams(self, run: str) -> ExamRecord | None:
        """See :class:`SiteState`. A damaged file is passed over."""
        path = self._exams_file(run)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            log.warning("which exams the run was begun with is passed over: %s: %s", path, error)
            return None

    def forget(self, run: str, keep: set[int], best_round: int) -> None:
        """See :class:`SiteState`."""
        rounds, last = self._rounds(run), max(keep, default=math.inf)
        best, later = _newest_upto(rounds, best_round), sorted(round_ for round_ in rounds if round_ > last)
        for round_ in rounds:
            if round_ not in keep and round_ not in later[-KEPT_LATER:]:
                self._path(run, round_, "optimiser").unlink(missing_ok=True)
                if round_ != best:
                    self._path(run, round_, "private").unlink()

    def finish(self, run: str) -> None:
        """See :class:`SiteState`."""
        if self._folder(run).is_dir():
            write_text(self._folder(run) / _FINISHED, "")

    def _forget_finished(self) -> None:
        """Most of what is kept of a round is the optimiser's; runs that are over need none."""
        for marker in self.folder.glob(f"*/{_FINISHED}"):
            for path in marker.parent.glob("*.optimiser.safetensors"):
                path.unlink(missing_ok=True)

    def _forget_oldest(self, run: str) -> None:
        """All of too many runs, so that none fills the disk: of finished ones first, then of those that rest longest."""
        runs: dict[str, list[Path]] = {}
        for folder in self.folder.glob("*"):
            if folder.is_dir():
                runs.setdefault(folder.name.removesuffix(_PHASE), []).append(folder)
        runs.pop(run.removesuffix(_PHASE), None)

        def worth(name: str) -> tuple[bool, int]:
            folders = runs[name]
            finished = any((folder / _FINISHED).exists() for folder in folders)
            return not finished, max(folder.stat().st_mtime_ns for folder in folders)

        for name in sorted(runs, key=worth, reverse=True)[KEPT_RUNS - 1 :]:
            if worth(name)[0]:
                log.warning("run %s, which is not finished, is forgotten: %d others went on since", name, KEPT_RUNS)
            for folder in runs[name]:
                shutil.rmtree(folder, ignore_errors=True)

    def _rounds(self, run: str) -> list[int]:
        return [int(path.name.split(".")[0]) for path in self._folder(run).glob("[0-9]*.private.safetensors")]

    def _path(self, run: str, round_: int, part: str) -> Path:
        return self._folder(run) / f"{round_:06d}.{part}.safetensors"

    def _frozen_file(self, run: str) -> Path:
        return self._folder(run) / "frozen.safetensors"

    def _exams_file(self, run: str) -> Path:
        return self._folder(run) / "exams.json"

    def _folder(self, run: str) -> Path:
        # The name comes from the coordinator and must not lead out of this site's own folder.
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run):
            raise ConfigurationError(
                f"'{run}' cannot name a run: letters, digits, '_' and '-' are expected, 64 at most."
            )
        return self.folder / run


def _newest_upto(rounds: list[int], last: int) -> int:
    return max((round_ for round_ in rounds if round_ <= last), default=-1)
