"""The drill's verdicts for people and for programs."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .verdict import Event, Verdict


def print_verdicts(verdicts: Sequence[Verdict], seconds: float, console: Console) -> None:
    """A table with a line an event, and a last line that counts them."""
    table = Table(show_lines=True)
    table.add_column("event", no_wrap=True)
    table.add_column("expected", ratio=3)
    table.add_column("seen", ratio=5)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("data lost", max_width=12)
    table.add_column("", no_wrap=True)
    for verdict in verdicts:
        passed = "[green]pass[/]" if verdict.passed else "[bold red]FAIL[/]"
        time = "–" if verdict.seconds is None else f"{verdict.seconds:.1f}"
        event = f"[bold]{verdict.event.name}[/]"
        table.add_row(event, verdict.event.expected, escape(verdict.seen), time, escape(verdict.lost), passed)
    console.print(table)
    failed = sum(not verdict.passed for verdict in verdicts)
    console.print(f"{len(verdicts) - failed} of {len(verdicts)} events passed, {failed} failed; {seconds:.0f} s in all")


def as_json(verdicts: Sequence[Verdict], seconds: float) -> str:
    """The same for programs."""
    passed = all(verdict.passed for verdict in verdicts)
    events = [verdict.as_dict() for verdict in verdicts]
    return json.dumps({"passed": passed, "seconds": round(seconds, 1), "events": events}, indent=2)


def print_events(stages: Sequence[tuple[str, Sequence[Event]]], console: Console) -> None:
    """Every event that there is, by stage."""
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "event", "what is done", "expected"):
        table.add_column(title)
    for stage, events in stages:
        for place, event in enumerate(events):
            table.add_row("" if place else stage, f"[bold]{event.name}[/]", event.what, event.expected)
    console.print(table)
