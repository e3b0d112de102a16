"""What a federation wrote about itself, as the drill reads it: the server's audit log and the figures of its rounds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtmd_core.durable import read_json_lines
from mtmd_core.event_log import events

_COMPARED = ("round", "site", "steps", "loss", "update_norm")
"""Figures that equal runs have in common; how long something took differs from run to run."""

Figures = Mapping[tuple[int, str], Mapping[str, Any]]
"""(round, site) → the figures of its line."""


@dataclass(frozen=True)
class Records:
    """``audit``: events in order; ``lines``: one a round and site whose reply was used."""

    audit: tuple[Mapping[str, Any], ...] = ()
    lines: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, state: Path) -> "Records":
        """From the coordinator's folder; a line that is just being written is left out."""
        return cls(tuple(events(state / "audit.jsonl")), tuple(read_json_lines(state / "round_metrics.jsonl")))

    def of(self, event: str, round_: int | None = None) -> list[Mapping[str, Any]]:
        """The events of one kind, of one round where it is given."""
        return [
            entry for entry in self.audit if entry["event"] == event and round_ in (None, entry.get("round", round_))
        ]

    def last_closed(self) -> int:
        """The last round that was closed, 0 before the first."""
        return max((entry["round"] for entry in self.of("round_closed")), default=0)

    def closed_at(self, round_: int) -> float | None:
        """When a round was closed last, in seconds since 1970; None if it never was."""
        return max((entry["time"] for entry in self.of("round_closed", round_)), default=None)

    def used(self, round_: int) -> list[str]:
        """The sites whose replies a round used, once for each time that it did."""
        return sorted(line["site"] for line in self.lines if line["round"] == round_ and "steps" in line)

    def figures(self, rounds: Iterable[int]) -> Figures:
        """All figures of some rounds that two equal runs have in common."""
        wanted = set(rounds)
        return {
            (line["round"], line["site"]): {name: line.get(name) for name in _COMPARED}
            for line in self.lines
            if line["round"] in wanted
        }
