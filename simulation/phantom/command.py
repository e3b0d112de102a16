"""mtmd-phantom: writes phantom datasets."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtmd_core.arguments import exit_code_of
from mtmd_core.errors import ConfigurationError

from .datasets import write_datasets
from .exam import JOINT_NAMES

PAPER_EXAMS = {"ankle": 20, "knee": 17, "shoulder": 15}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 the run failed, 2 unusable arguments, 130 ended by Ctrl-C)."""
    arguments = _parser().parse_args(argv)
    return exit_code_of("mtmd-phantom", lambda: _write(arguments))


def _write(arguments: argparse.Namespace) -> int:
    exams = parse_exams(arguments.exams) if arguments.exams else PAPER_EXAMS
    folders = _write_with_progress(arguments, exams)
    for joint, folder in folders.items():
        print(f"{joint}: {exams[joint]} exams in {folder.resolve()}")
    return 0


def parse_exams(words: Sequence[str]) -> dict[str, int]:
    """["ankle=20", "knee=17"] → {"ankle": 20, "knee": 17}; raises ConfigurationError for anything else."""
    exams: dict[str, int] = {}
    for word in words:
        joint, equals, count = word.partition("=")
        if not equals or not count.isdecimal():
            raise ConfigurationError(f"--exams was given {word!r}; write JOINT=COUNT, as in ankle=20")
        if joint not in JOINT_NAMES:
            raise ConfigurationError(f"--exams was given the joint {joint!r}; choose among {', '.join(JOINT_NAMES)}")
        if joint in exams:
            raise ConfigurationError(f"--exams names {joint} twice; name each joint once")
        exams[joint] = int(count)
    return exams


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtmd-phantom", description="Write phantom exams of children's joints as nnU-Net raw folders, one a joint."
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder for the datasets: OUT/ankle, OUT/knee, OUT/shoulder"
    )
    parser.add_argument(
        "--exams",
        nargs="+",
        action="extend",
        metavar="JOINT=COUNT",
        help="how many exams of which joints (default, as in the paper: ankle=20 knee=17 shoulder=15)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    parser.add_argument(
        "--scale",
        type=float,
        default=0.5,
        help="share of the paper's matrix along each axis, at the same field of view: 0.05 to 1 (default 0.5)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    return parser


def _write_with_progress(arguments: argparse.Namespace, exams: dict[str, int]) -> dict[str, Path]:
    def write(progress: Callable[[str, int, int], None]) -> dict[str, Path]:
        return write_datasets(
            arguments.out, exams, arguments.seed, arguments.scale, arguments.workers, progress=progress
        )

    console = Console(stderr=True)
    if not console.is_terminal:
        return write(lambda joint, done, count: print(f"{joint} {done}/{count}", file=sys.stderr, flush=True))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {joint: bars.add_task(joint, total=count) for joint, count in exams.items()}
        return write(lambda joint, done, count: bars.update(tasks[joint], completed=done))


if __name__ == "__main__":
    sys.exit(main())
