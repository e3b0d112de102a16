"""Writes phantom exams as nnU-Net raw folders, one a joint, the same bytes for the same seed."""

import contextlib
import gzip
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from mtmd_core.errors import ConfigurationError, RunFailedError

from .exam import ANATOMIES, GENERATOR_VERSION, JOINT_NAMES, PhantomExam, make_exam

Progress = Callable[[str, int, int], None]
"""Called after each exam with its joint, how many of the joint are done, and how many are asked for."""


@dataclass(frozen=True)
class _Order:
    """One exam to make and where to put it."""

    joint: str
    seed: int
    index: int
    scale: float
    folder: Path

    @property
    def case(self) -> str:
        return f"{self.joint}_{self.index + 1:03d}"


def write_datasets(
    out: Path | str,
    exams: dict[str, int],
    seed: int = 0,
    scale: float = 0.5,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write `exams[joint]` exams of each joint to OUT/<joint>, in nnU-Net's raw layout. Returns the folders.

    Exam i of a joint depends on (seed, joint, i, scale) alone: neither on how many are made nor on `workers` (processes;
    None takes one for each core that this process may use; more than one are spawned, so a script that calls this needs
    the usual `if __name__ == "__main__"`). `dataset.json` is written last: a folder without one is an unfinished run, and
    the same call finishes it.

    Raises ConfigurationError for unknown joints, counts below 1, bad numbers or a folder that holds something else, and
    RunFailedError when a worker dies.
    """
    if not exams:
        raise ConfigurationError(f"no exams are asked for; give a count for at least one of {', '.join(JOINT_NAMES)}")
    for joint, count in exams.items():
        if joint not in ANATOMIES:
            raise ConfigurationError(f"joint is {joint!r}; choose among {', '.join(JOINT_NAMES)}")
        if count < 1:
            raise ConfigurationError(f"{joint} is given {count} exams; ask for 1 or more, or leave the joint out")
    if seed < 0:
        raise ConfigurationError(f"seed is {seed}; it must be 0 or more")
    if not 0.05 <= scale <= 1:
        raise ConfigurationError(f"scale is {scale}; it must lie between 0.05 and 1 (the paper's resolution)")
    if workers is not None and workers < 1:
        raise ConfigurationError(f"workers is {workers}; it must be 1 or more")

    folders = {joint: Path(out) / joint for joint in exams}
    orders = [
        _Order(joint, seed, index, scale, folders[joint]) for joint, count in exams.items() for index in range(count)
    ]
    for joint, folder in folders.items():
        _open_folder(folder, {order.case for order in orders if order.joint == joint})
    facts: dict[str, dict[str, dict]] = {joint: {} for joint in exams}
    for order, exam_facts in _carry_out(orders, workers or usable_cores()):
        facts[order.joint][order.case] = exam_facts
        if progress:
            progress(order.joint, len(facts[order.joint]), exams[order.joint])
    for joint, folder in folders.items():
        description = describe_dataset(joint, seed, scale, dict(sorted(facts[joint].items())))
        _write(folder / "dataset.json", (json.dumps(description, indent=2) + "\n").encode())
    return folders


def usable_cores() -> int:
    """Cores that this process may use, where the system says so; all of the machine's elsewhere."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_dataset(joint: str, seed: int, scale: float, exams: dict[str, dict]) -> dict:
    """The contents of a phantom's `dataset.json`."""
    return {
        "name": f"{joint} phantoms",
        "description": f"Phantoms, no patients: synthetic T1-weighted MR of the paediatric {joint}, "
        "made from an adult bone atlas by mtmd-phantom",
        "licence": "Apache-2.0; bone geometry derived from myo_sim 0.2.4, see NOTICE.txt of simulation/phantom",
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, **ANATOMIES[joint].labels},
        "numTraining": len(exams),
        "file_ending": ".nii.gz",
        "phantom": {"version": GENERATOR_VERSION, "seed": seed, "scale": scale, "exams": exams},
    }


def to_nifti(exam: PhantomExam, volume: np.ndarray) -> bytes:
    """A gzipped NIfTI-1 file of an exam's image or labels: qform and sform alike, millimetres, no time stamp."""
    nifti = nib.Nifti1Image(volume, exam.affine)
    nifti.set_qform(exam.affine, code="scanner")
    nifti.set_sform(exam.affine, code="scanner")
    nifti.header.set_xyzt_units("mm", "sec")
    nifti.header["descrip"] = f"mtmd phantom {GENERATOR_VERSION}, no patient".encode()
    return gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0)


def _open_folder(folder: Path, cases: set[str]) -> None:
    """Make a dataset's folders; refuse what is finished or has other cases."""
    if (folder / "dataset.json").exists():
        raise ConfigurationError(f"{folder} already holds a dataset; choose another folder or remove this one")
    try:
        for part, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            expected = {case + suffix for case in cases}
            for path in (folder / part).iterdir():
                if path.name.endswith(".part"):
                    path.unlink()
                elif path.name not in expected:
                    raise ConfigurationError(
                        f"{path} is in the way: it is no exam of this order; choose another folder or remove it"
                    )
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error


def _carry_out(orders: list[_Order], workers: int) -> Iterator[tuple[_Order, dict]]:
    if workers == 1 or len(orders) == 1:
        for order in orders:
            yield order, _make_and_write(order)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(orders)), context) as pool:
        try:
            with _ignored_by_children(signal.SIGINT):  # Ctrl-C reaches all of them, and it is this process that answers
                futures = {pool.submit(_make_and_write, order): order for order in orders}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RunFailedError(
                "a worker died before its exam was done, most likely for want of memory; use fewer workers"
            ) from error
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ignored_by_children(number: signal.Signals) -> Iterator[None]:
    """Have processes that are started here ignore a signal from their first instruction on.

    Elsewhere than in the main thread, which alone may say what signals do, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _make_and_write(order: _Order) -> dict:
    """Make one exam, write its two files and say what is known of it."""
    exam = make_exam(order.joint, order.seed, order.index, order.scale)
    try:
        _write(order.folder / "imagesTr" / f"{order.case}_0000.nii.gz", to_nifti(exam, exam.image))
        _write(order.folder / "labelsTr" / f"{order.case}.nii.gz", to_nifti(exam, exam.labels))
    except OSError as error:
        raise RunFailedError(f"cannot write {order.case} to {order.folder}: {error.strerror}") from error
    return {
        "age_years": round(exam.age_years, 2),
        "laterality": exam.laterality,
        "shape": list(exam.image.shape),
        "spacing_mm": [round(h, 4) for h in exam.spacing_mm],
    }


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all: a run cut short leaves no half file under a final name."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
