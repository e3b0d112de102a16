"""The run that nothing happens to, which others are held against.

It is the simulation of the same federation: with the same number of threads both end with the
same bits, and it takes a few seconds.
"""

import subprocess
from pathlib import Path

from mtmd_core.processes import child_environment, installed_command

from .exams import SITES
from .federation import TRAINING
from .premises import COMMAND_SECONDS
from .records import Records
from .stage import Drill
from .verdict import Findings, StuckError


def undisturbed(drill: Drill, rounds: int) -> Path:
    """The folder of a run of so many rounds that ran to its end; made when it is first asked for.

    Raises:
        StuckError: if it does not end well.
    """
    folder = drill.folder / f"undisturbed-{rounds}"
    if not folder.exists():
        exams = ", ".join(f"{site}: '{drill.premises.exams(site)}'" for site in SITES)
        words = [
            *TRAINING,
            f"federation.rounds={rounds}",
            *drill.words,
            f"sites={{{exams}}}",
            f"hydra.run.dir='{folder}'",
        ]
        _simulate(["mode=federated", f"data.cache_dir='{drill.folder / 'cache'}'", *words])
    return folder


def check_figures(findings: Findings, records: Records, reference: Records, rounds: range) -> None:
    """Note whether all sites' figures of some rounds are, to the last bit, those of the undisturbed run.

    A round's losses and norms follow from every shared and private parameter that it began with.
    """
    own, expected = records.figures(rounds), reference.figures(rounds)
    differing = sorted({key[0] for key in own.keys() | expected.keys() if own.get(key) != expected.get(key)})
    findings.keeps(bool(expected), "there is nothing to compare with")
    findings.keeps(not differing, f"figures of round {', '.join(map(str, differing))}")
    findings.check(not differing and bool(expected), "same figures", "other figures than undisturbed")


def _simulate(words: list[str]) -> None:
    done = subprocess.run(
        [installed_command("mtmd-simulate"), *words], env=child_environment({"OMP_NUM_THREADS": "1"}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * COMMAND_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise StuckError(f"the run that nothing happens to ended with {done.returncode}: {said}")
