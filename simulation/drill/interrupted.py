"""A run that is interrupted again and again ends with the same bits as one that is not."""

import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from mtmd_core.tensor_files import DamagedFileError, load_tensors

from .exams import SITES
from .federation import Federation
from .stage import Drill, Stage
from .undisturbed import undisturbed
from .verdict import Event, Findings, StuckError, Verdict, stuck

EVENT = Event(
    "interrupted", "server killed twice, each site once, mid-round", "parameters of an uninterrupted run, bit by bit"
)
ROUNDS = 5
SITES_KILLED = {2: "ankle", 3: "knee", 4: "shoulder"}
"""Rounds in which a site is killed while it trains."""
SERVER_KILLED = (2, 3)
"""Rounds in which the server is killed at the same time."""


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """The verdict on the one event of this stage."""
    findings = Findings()
    try:
        reference = undisturbed(drill, ROUNDS)
        federation = drill.federation("interrupted", f"federation.rounds={ROUNDS}")
        for site in SITES:
            federation.order(site, stops=[round_ for round_, name in SITES_KILLED.items() if name == site])
        with federation:
            federation.start()
            seconds = sum(_interrupt(federation, round_) for round_ in SITES_KILLED)
            ends = [federation.wait_server(), *map(federation.wait_site, federation.sites)]
    except StuckError as error:
        yield stuck(EVENT, error)
        return
    findings.check(not any(ends), "all commands ended well", f"commands ended with {ends}")
    pairs = {name: (f"server/checkpoints/{name}", f"checkpoints/{name}") for name in ("last", "chosen")}
    pairs |= {site: (f"sites/{site}/results/model", f"models/{site}") for site in SITES}
    for name, (own, expected) in pairs.items():
        same = equal(federation.folder / f"{own}.safetensors", reference / f"{expected}.safetensors")
        findings.keeps(same, f"parameters of {name}")
    findings.check(not findings.lost, "shared and private parameters equal", "parameters differ")
    yield findings.verdict(EVENT, seconds)


def equal(first: Path, second: Path) -> bool:
    """Whether two files hold the same tensors, bit by bit; not where one of them is missing or damaged."""
    try:
        one, other = load_tensors(first)[0], load_tensors(second)[0]
    except DamagedFileError:
        return False
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _interrupt(federation: Federation, round_: int) -> float:
    """Kill, start again, and wait for the end of the round; how many seconds that took."""
    site = SITES_KILLED[round_]
    federation.wait_stopped(site, round_)
    began = time.monotonic()
    federation.kill(federation.sites[site])
    if round_ in SERVER_KILLED:
        federation.kill(federation.server)
        federation.start_server()
    federation.start_site(site)
    federation.wait_closed(round_)
    return time.monotonic() - began


STAGE = Stage("interrupted", (EVENT,), run)
