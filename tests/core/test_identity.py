"""When exams count as the same ones, and how it is said that they are not."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from volumes import oblique_affine, ramp, with_voxel, write_case, write_dataset, write_nifti

from mtmd_core.data.dataset import load_image
from mtmd_core.data.identity import differences, voxel_digest
from mtmd_core.data.site_data import SiteData, load_site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three exams a, b, c of 5 × 6 × 4 voxels of 1 mm."""
    return write_dataset(tmp_path / "data")


def load(folder: Path, size: int = 16, axis: str = "auto") -> SiteData:
    return load_site("ankle", folder, size, axis, folder.parent / "cache")


def test_a_volume_has_one_digest_however_it_is_stored(tmp_path: Path) -> None:
    """Another type, another order of axes in memory and in the file, another compression."""
    volume = ramp()
    expected = voxel_digest(volume.astype(np.float32))
    assert voxel_digest(volume) == voxel_digest(np.asfortranarray(volume)) == expected
    assert voxel_digest(np.float32([[[-0.0]]])) == voxel_digest(np.int16([[[0]]]))
    paths = [
        write_nifti(tmp_path / "a.nii.gz", volume),
        write_nifti(tmp_path / "b.nii", volume.astype(np.float64)),
        write_nifti(tmp_path / "c.nii.gz", volume[::-1], np.diag([-1.0, 1.0, 1.0, 1.0])),
    ]
    assert nib.load(paths[2]).get_fdata()[0, 0, 0] == volume[-1, 0, 0]
    assert {voxel_digest(load_image(path)[0]) for path in paths} == {expected}


@pytest.mark.parametrize("other", [with_voxel(3.5), ramp((6, 5, 4)), ramp((5, 6, 3)), ramp() * 2])
def test_another_volume_has_another_digest(other: np.ndarray) -> None:
    assert voxel_digest(other) != voxel_digest(ramp())


def test_a_record_survives_json_and_does_not_depend_on_the_cut(folder: Path) -> None:
    record = load(folder).exam_record()
    assert list(record) == ["a", "b", "c"]
    assert json.loads(json.dumps(record)) == record == load(folder, size=32, axis="0").exam_record()
    image = folder / "imagesTr/b_0000.nii.gz"
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), compresslevel=1, mtime=7))
    assert load(folder).exam_record() == record
    assert differences(record, load(folder).exam_record()) == ""


def test_each_kind_of_change_is_named_with_its_exams(folder: Path) -> None:
    begun = load(folder).exam_record()
    labels = np.zeros((5, 6, 4), np.uint8)
    labels[0, 0, 0] = 2
    write_case(folder, "b", labels=labels)
    write_case(folder, "c", image=with_voxel(99.0), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    write_case(folder, "d")
    for path in (folder / "imagesTr/a_0000.nii.gz", folder / "labelsTr/a.nii.gz"):
        path.unlink()
    changed = differences(begun, load(folder, axis="2").exam_record())
    assert changed == "d is new; a is gone; b has another label map; c has another image and spacing"


def test_several_exams_of_a_kind_are_named_together_and_many_counted() -> None:
    one, other = {"image": "1"}, {"image": "2"}
    assert differences({"a": one, "b": one}, {"a": other, "b": other}) == "a, b have another image"
    many = {f"e{number}": one for number in range(7)}
    assert differences({}, many) == "e0, e1, e2, e3, e4 and 2 more are new"
    assert differences(many, {}) == "e0, e1, e2, e3, e4 and 2 more are gone"


def test_an_oblique_exam_is_known_again(folder: Path) -> None:
    write_case(folder, "a", affine=oblique_affine((0.5, 0.7, 3.0)))
    assert differences(load(folder, axis="2").exam_record(), load(folder, size=32, axis="2").exam_record()) == ""
