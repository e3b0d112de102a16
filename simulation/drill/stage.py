"""What all stages of the drill have in common: a stage breaks one federation in several ways, one after another."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtmd_core.errors import MtmdError

from .exams import SITES
from .federation import Federation
from .premises import Premises
from .verdict import Event, Findings, StuckError, Verdict, stuck


@dataclass
class Drill:
    """One drill: its premises, the words that the caller adds to every run's configuration, and where to say things."""

    premises: Premises
    folder: Path
    words: Sequence[str] = ()
    say: Callable[[str], None] = lambda line: None
    _federations: int = 0

    def federation(self, name: str, *words: str) -> Federation:
        """A new federation in a folder of its own; the caller's words win over the stage's."""
        self._federations += 1
        return Federation(self.folder / f"{self._federations:02d}-{name}", self.premises, [*words, *self.words])


@dataclass(frozen=True)
class Stage:
    """Events that share federations.

    ``run(drill, events)`` gives verdicts on the first of the events as they come, on one at least: where an event leaves nothing
    to go on with, the others get a federation of their own.
    """

    name: str
    events: tuple[Event, ...]
    run: Callable[[Drill, Sequence[Event]], Generator[Verdict, None, None]]

    def verdicts(self, drill: Drill, wanted: Sequence[Event]) -> list[Verdict]:
        """Verdicts on the wanted events of this stage, in the stage's order."""
        left = [event for event in self.events if event in wanted]
        verdicts: list[Verdict] = []
        while left:
            drill.say(f"{self.name}: {', '.join(event.name for event in left)}")
            for verdict in self._coming(drill, tuple(left)):
                drill.say(f"  {said(verdict)}")
                verdicts.append(verdict)
                left.remove(verdict.event)
        return verdicts

    def _coming(self, drill: Drill, events: Sequence[Event]) -> Generator[Verdict, None, None]:
        """Verdicts as they come; what the drill itself trips over fails the event that it was about to judge."""
        count = 0
        try:
            with contextlib.closing(self.run(drill, events)) as coming:  # its processes end with it, come what may
                for verdict in coming:
                    count += 1
                    yield verdict
        except (OSError, LookupError, ValueError, MtmdError) as error:
            if count < len(events):
                yield stuck(events[count], StuckError(f"{type(error).__name__}: {error}"))


def said(verdict: Verdict) -> str:
    """A verdict in a line."""
    time = "" if verdict.seconds is None else f" ({verdict.seconds:.1f} s)"
    return f"{verdict.event.name}: {f'pass{time}' if verdict.passed else f'FAIL{time}: {verdict.seen}'}"


def check_round(findings: Findings, federation: Federation, round_: int, without: Sequence[str] = ()) -> None:
    """Note whether a round used one reply of every site but those named."""
    expected, used = sorted(set(SITES) - set(without)), federation.records().used(round_)
    who = "all three sites" if not without else "the other sites" if len(without) == 1 else ", ".join(expected)
    findings.check(
        used == expected,
        f"round {round_} used {who}",
        f"round {round_} used {', '.join(used) or 'nobody'}, expected {', '.join(expected)}",
    )
