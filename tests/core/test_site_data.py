import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from volumes import oblique_affine, ramp, write_case, write_dataset

from mtmd_core.data.site_data import SiteData, forget_cuts, load_site
from mtmd_core.data.slices import cut_labels
from mtmd_core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Three exams a, b, c of 5 × 6 × 4 voxels of 1 mm."""
    return write_dataset(tmp_path / "data")


def load(folder, size: int = 16, axis: str = "auto") -> SiteData:
    return load_site("ankle", folder, size, axis, folder.parent / "cache")


def cached(folder) -> dict[str, int]:
    """What lies in the cache, and when it was written."""
    cache = folder.parent / "cache"
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_a_site_is_its_exams_in_the_order_of_their_names(folder):
    data = load(folder)
    assert list(data.exams) == ["a", "b", "c"]
    assert (data.site, data.structures, data.axis) == ("ankle", ("tibia", "talus"), 2)
    exam = data.exams["a"]
    assert (exam.name, exam.spacing_mm, exam.grid.shape, exam.grid.content) == ("a", (1, 1, 1), (5, 6, 4), (13, 16))
    assert (exam.images.shape, exam.images.dtype) == ((4, 16, 16), np.float32)
    assert (exam.labels.shape, exam.labels.dtype) == ((4, 16, 16), np.uint8)
    truth = np.zeros((5, 6, 4), np.uint8)
    truth[1:3, 2:4, 1] = 1
    truth[3, 3, 2:] = 2
    np.testing.assert_array_equal(exam.truth, truth)
    np.testing.assert_array_equal(exam.labels, cut_labels(truth, exam.grid))
    values = (ramp() - ramp().mean()) / ramp().std()
    assert exam.images.min() == pytest.approx(values.min())  # padding
    assert exam.images[(slice(None), *exam.grid.window)].mean() == pytest.approx(0, abs=0.01)


def test_all_exams_are_cut_along_the_axis_of_most(folder):
    for case in ("a", "c"):
        write_case(folder, case, affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    data = load(folder)
    assert data.axis == 0
    assert {exam.grid.axis for exam in data.exams.values()} == {0}
    assert [len(exam.images) for exam in data.exams.values()] == [5, 5, 5]
    assert load(folder, axis="1").axis == 1


def test_spacing_is_the_files_whatever_its_orientation(folder):
    write_case(folder, "a", affine=oblique_affine((0.5, 0.7, 3.0)))
    assert load(folder, axis="2").exams["a"].spacing_mm == pytest.approx((0.5, 0.7, 3.0))


def test_a_second_time_nothing_is_cut(folder):
    first = load(folder)
    before = cached(folder)
    second = load(folder)
    assert cached(folder) == before
    for name, exam in first.exams.items():
        assert exam.grid == second.exams[name].grid
        np.testing.assert_array_equal(exam.images, second.exams[name].images)


def test_a_changed_exam_or_size_or_axis_is_cut_anew(folder):
    (folder.parent / "cache" / ".cutting-killed").mkdir(parents=True)
    load(folder)
    assert len(list((folder.parent / "cache").iterdir())) == 3
    labels = np.zeros((5, 6, 4), np.uint8)
    labels[0, 0, 0] = 2
    write_case(folder, "b", labels=labels)
    np.testing.assert_array_equal(load(folder).exams["b"].truth, labels)
    assert len(list((folder.parent / "cache").iterdir())) == 4
    os.utime(folder / "imagesTr/b_0000.nii.gz", ns=(0, 0))  # another file of the same length
    load(folder)
    assert len(list((folder.parent / "cache").iterdir())) == 5
    assert load(folder, size=32).exams["b"].images.shape == (4, 32, 32)
    assert load(folder, axis="0").exams["b"].images.shape == (5, 16, 16)


@pytest.mark.parametrize("name", ["exam.json", "images.npy", "labels.npy", "truth.npy"])
@pytest.mark.parametrize("keep", [None, 0, 40])
def test_a_damaged_cache_is_cut_anew(folder, name, keep):
    expected = {exam: cut.images.copy() for exam, cut in load(folder).exams.items()}
    for path in (folder.parent / "cache").glob(f"*/{name}"):
        if keep is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:keep])
    for exam, cut in load(folder).exams.items():
        np.testing.assert_array_equal(cut.images, expected[exam])
        assert cut.labels.max() == cut.truth.max() == 2
    before = cached(folder)
    load(folder)
    assert cached(folder) == before


def test_an_exam_that_was_cut_by_an_earlier_version_is_cut_anew_in_its_place(folder):
    expected = {name: exam.digests for name, exam in load(folder).exams.items()}
    for path in (folder.parent / "cache").glob("*/exam.json"):
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "digests"})
        )
    assert {name: exam.digests for name, exam in load(folder).exams.items()} == expected
    assert len(list((folder.parent / "cache").iterdir())) == 3


def test_runs_that_begin_together_cut_each_exam_once(folder):
    together = threading.Barrier(8)

    def begin(_: int) -> SiteData:
        together.wait()
        return load(folder)

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(begin, range(8)))
    for other in loaded[1:]:
        for name, exam in loaded[0].exams.items():
            np.testing.assert_array_equal(other.exams[name].images, exam.images)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder.parent / "cache") in line]
    assert mapped
    assert not [line for line in mapped if line.endswith("(deleted)")]  # nobody put another copy in its place


def test_a_cache_forgets_what_was_read_longest_ago_and_cuts_it_anew_when_asked(folder):
    cache = folder.parent / "cache"
    small = load(folder, 16)
    of_small = set(cached(folder))
    load(folder, 24)
    of_middle = set(cached(folder)) - of_small
    load(folder, 16)  # again: the middle one is now the one that was read longest ago
    load(folder, 32)
    forget_cuts(cache, 2 * len(small.exams))
    left = set(cached(folder))
    assert of_small < left
    assert not of_middle & left
    assert load(folder, 24).exams["a"].images.shape == (4, 24, 24)
    forget_cuts(cache, 2 * len(small.exams))
    assert not of_small & set(cached(folder))
    assert small.exams["a"].images.max() > 0  # whoever holds it keeps it


def test_an_exam_that_cannot_be_used_leaves_nothing_half_cut(folder):
    write_case(folder, "c", image=np.full((5, 6, 4), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        load(folder)
    assert not [name for name in cached(folder) if name.startswith(".")]


def test_slices_in_memory_are_those_of_the_cache(folder):
    mapped = load(folder)
    held = load_site("ankle", folder, 16, "auto", folder.parent / "cache", in_memory=True)
    for name, exam in mapped.exams.items():
        assert isinstance(exam.images, np.memmap)
        assert not isinstance(held.exams[name].images, np.memmap)
        assert np.array_equal(exam.images, held.exams[name].images)


def test_a_source_holds_the_slices_of_the_named_exams(folder):
    data = load(folder)
    source = data.source(["a", "c"], offset=4)
    assert (source.site, len(source)) == ("ankle", 8)
    _, labels = source.pick(0, 0, 8)
    assert set(labels.flatten().tolist()) == {0, 5, 6}
