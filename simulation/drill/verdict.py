"""What the drill says of one event: what was expected, what was seen, and whether that is the same."""

from dataclasses import asdict, dataclass, field

NOTHING = "none"
"""What an event may cost in data."""
UNKNOWN = "not known"
"""What it cost where it was not seen to its end."""


class StuckError(Exception):
    """Something that must come did not come in time, or cannot come any more; the text says what."""


@dataclass(frozen=True)
class Event:
    """One way of breaking a federation: its name, what is done, and what must come of it."""

    name: str
    what: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """What came of an event.

    ``seconds`` from the break until the federation worked again; None where nothing stood still. ``lost`` names finished work
    that is gone and should not be; ``none`` otherwise.
    """

    event: Event
    seen: str
    seconds: float | None
    lost: str
    passed: bool

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        event = asdict(self.event)
        return {
            "event": event["name"],
            "what": event["what"],
            "expected": event["expected"],
            "seen": self.seen,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "lost": self.lost,
            "passed": self.passed,
        }


@dataclass
class Findings:
    """Collects what was seen of one event; one thing that is not as expected is enough to fail it."""

    seen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def check(self, fits: bool, seen: str, otherwise: str) -> None:
        """Note ``seen`` if something is as it must be, else ``otherwise``, which fails the event."""
        (self.seen if fits else self.wrong).append(seen if fits else otherwise)

    def keeps(self, fits: bool, lost: str) -> None:
        """Note that something is ``lost`` unless it is there as it must be; that fails the event, too."""
        if not fits:
            self.lost.append(lost)

    def verdict(self, event: Event, seconds: float | None) -> Verdict:
        """The verdict on all that was collected: what is wrong comes first."""
        said = "; ".join(line for line in (*self.wrong, *self.seen) if line) or "nothing"
        passed = not self.wrong and not self.lost
        return Verdict(event, said, seconds, "; ".join(self.lost) or NOTHING, passed)


def stuck(event: Event, error: Exception) -> Verdict:
    """The verdict on an event that was not seen to its end, and so cannot have passed."""
    return Verdict(event, str(error), None, UNKNOWN, False)
