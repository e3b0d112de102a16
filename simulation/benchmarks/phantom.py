"""How long one phantom exam of 256×256×100 takes on one core, and how much memory.

python -m simulation.benchmarks.phantom [--shape 256 256 100] [--repeats 3]
"""

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass

from simulation.phantom import JOINT_NAMES, make_exam
from simulation.phantom.datasets import to_nifti


@dataclass(frozen=True)
class Cost:
    """Per exam: processor seconds to make it, and to pack both its files; the process's peak memory in MiB."""

    make_seconds: float
    pack_seconds: float
    peak_mib: float


def measure_exam(joint: str, shape: tuple[int, int, int], repeats: int) -> Cost:
    """Make `repeats` exams in this process, after one small one that loads everything; the fastest counts."""
    make_exam(joint, 0, 0, shape=(16, 16, 16))
    make_seconds, pack_seconds = [], []
    for index in range(repeats):
        start = time.process_time()
        exam = make_exam(joint, 0, index, shape=shape)
        made = time.process_time()
        to_nifti(exam, exam.image)
        to_nifti(exam, exam.labels)
        make_seconds.append(made - start)
        pack_seconds.append(time.process_time() - made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(min(make_seconds), min(pack_seconds), peak)


def main() -> None:
    """Print one line a joint; each is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=int, default=(256, 256, 100))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'joint':10}{'make, s':>10}{'pack, s':>10}{'peak, MiB':>12}")
    for joint in JOINT_NAMES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = pool.apply(measure_exam, (joint, tuple(arguments.shape), arguments.repeats))
        print(f"{joint:10}{cost.make_seconds:10.1f}{cost.pack_seconds:10.1f}{cost.peak_mib:12.0f}", flush=True)


if __name__ == "__main__":
    main()
