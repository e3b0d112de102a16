"""All exams of one site, cut into slices and kept on disk, so that no file is decoded twice."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..processes import in_turn
from .batches import SliceSource
from .dataset import Case, Dataset, load_dataset, load_exam
from .identity import voxel_digest
from .nifti import load_grid
from .slices import SliceGrid, common_slice_axis, cut_image, cut_labels, normalise, slice_grid

CACHE_FORMAT = 1
"""Raised whenever what is cached, or how it is computed, changes; an exam that only lacks something is cut anew where it is."""
_DRAFT = ".cutting-"
UNREADABLE = (OSError, EOFError, ValueError, KeyError)
"""What reading an exam from the cache raises that is not there yet, or was cut short by a crash."""


@dataclass(frozen=True)
class CutExam:
    """One exam as slices, with its ground truth in the exam's own canonical grid; arrays are memory-mapped or in memory.

    ``images`` [S, size, size] float32, normalised; ``labels`` [S, size, size] uint8; ``truth`` [X, Y, Z] uint8. ``digests``:
    ``image`` and ``labels`` → digest of what was cut (:func:`.identity.voxel_digest`).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    grid: SliceGrid
    spacing_mm: tuple[float, float, float]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class SiteData:
    """A site's labelled exams, in the order of their names; all cut along one axis."""

    site: str
    structures: tuple[str, ...]
    axis: int
    exams: dict[str, CutExam]

    def source(self, names: Sequence[str], offset: int = 0) -> SliceSource:
        """The slices of some exams as a stream of training slices."""
        chosen = [self.exams[name] for name in names]
        return SliceSource(self.site, [exam.images for exam in chosen], [exam.labels for exam in chosen], offset)

    def exam_record(self) -> dict[str, dict[str, object]]:
        """What tells the exams from others: digests of image and label map, and ``spacing_mm`` along X, Y, Z."""
        return {name: {**exam.digests, "spacing_mm": list(exam.spacing_mm)} for name, exam in self.exams.items()}


def load_site(
    site: str, folder: Path, slice_size: int, slice_axis: str, cache_dir: Path, in_memory: bool = False
) -> SiteData:
    """Read a site's data folder through the cache.

    Args:
        slice_axis: ``auto`` or ``0``, ``1``, ``2`` in canonical orientation.
        cache_dir: where cut exams are kept; an exam is cut anew when its files, the size or the axis change.
        in_memory: whether to read cut exams whole now, or from the cache as they are needed.

    Raises:
        DataError: for anything in the folder that cannot be used.
    """
    dataset = load_dataset(folder)
    axis = _common_axis(dataset) if slice_axis == "auto" else int(slice_axis)
    exams = {case.name: _cut_exam(dataset, case, axis, slice_size, cache_dir, in_memory) for case in dataset.cases}
    return SiteData(site, dataset.structures, axis, exams)


def forget_cuts(cache_dir: Path, kept: int) -> None:
    """Remove from a cache all cut exams but the ``kept`` that were read last; whoever has read others already keeps them."""
    with in_turn(cache_dir):
        cuts = [(_stamp(place), place) for place in cache_dir.iterdir() if not place.name.startswith(_DRAFT)]
        for _, place in sorted(cuts, reverse=True)[kept:]:
            shutil.rmtree(place, ignore_errors=True)


def _stamp(place: Path) -> int:
    """When a cut exam was read last, in nanoseconds since 1970."""
    return place.stat().st_mtime_ns


def _common_axis(dataset: Dataset) -> int:
    grids = [load_grid(case.image_path) for case in dataset.cases]
    return common_slice_axis((grid.shape, grid.spacing_mm) for grid in grids)


def _cut_exam(dataset: Dataset, case: Case, axis: int, size: int, cache_dir: Path, in_memory: bool) -> CutExam:
    place = cache_dir / _fingerprint(case, dataset.structures, axis, size)
    try:
        return _read_cache(place, case, in_memory)
    except UNREADABLE:
        with in_turn(cache_dir):  # of the processes that begin together one cuts, the others wait for it
            try:
                return _read_cache(place, case, in_memory)
            except UNREADABLE:
                _fill_cache(place, dataset, case, axis, size)
                return _read_cache(place, case, in_memory)


def _read_cache(place: Path, case: Case, in_memory: bool) -> CutExam:
    """A cut exam, with a note of when it was read: the date of its folder."""
    facts = json.loads((place / "exam.json").read_text(encoding="utf-8"))
    arrays = {
        name: np.load(place / f"{name}.npy", mmap_mode=None if in_memory else "r")
        for name in ("images", "labels", "truth")
    }
    grid = SliceGrid(facts["axis"], tuple(facts["shape"]), facts["size"], (facts["content"][0], facts["content"][1]))
    spacing_mm, digests = tuple(facts["spacing_mm"]), facts["digests"]
    with contextlib.suppress(OSError):  # a cache of somebody else's may be read all the same
        now = time.time_ns()
        os.utime(place, ns=(now, now))
    return CutExam(case.name, **arrays, grid=grid, spacing_mm=spacing_mm, digests=digests)


def _fill_cache(place: Path, dataset: Dataset, case: Case, axis: int, size: int) -> None:
    exam = load_exam(case, dataset.structures)
    grid = slice_grid(exam.image.shape, exam.spacing_mm, axis, size)
    for leftover in place.parent.glob(f"{_DRAFT}*"):  # of one that was killed, for the folder is ours
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=place.parent, prefix=_DRAFT))
    try:
        np.save(draft / "images.npy", cut_image(normalise(exam.image), grid))
        np.save(draft / "labels.npy", cut_labels(exam.labels, grid))
        np.save(draft / "truth.npy", exam.labels)
        digests = {"image": voxel_digest(exam.image), "labels": voxel_digest(exam.labels)}
        facts = {**asdict(grid), "spacing_mm": [float(length) for length in exam.spacing_mm], "digests": digests}
        (draft / "exam.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)  # what could not be read
        draft.replace(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fingerprint(case: Case, structures: Sequence[str], axis: int, size: int) -> str:
    stamps = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (case.image_path, case.label_path)
    ]
    words = json.dumps([CACHE_FORMAT, stamps, len(structures), axis, size])
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
