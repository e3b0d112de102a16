import nibabel as nib
import numpy as np
import pytest
from volumes import ramp, write_case, write_dataset, write_description, write_nifti

from mtmd_core.data.dataset import load_dataset
from mtmd_core.data.validation import ExamSummary, check_dataset
from mtmd_core.errors import DataError


def found(report):
    """Problems as (file name, problem), warnings marked."""
    return [(("? " if p.warning else "") + p.file.name, p.problem) for p in report.problems]


def test_a_good_dataset_has_no_problem_and_a_summary_an_exam(tmp_path):
    write_dataset(tmp_path)
    labels = np.zeros((5, 6, 4), np.uint8)
    labels[0, 0, :3] = 2
    write_case(tmp_path, "d", ramp() * 2 + 5, labels, np.diag([-1, 1.5, 1.25, 1]))

    report = check_dataset(tmp_path)

    assert report.problems == []
    assert report.is_usable
    assert [exam.name for exam in report.exams] == ["a", "b", "c", "d"]
    assert report.exams[0] == ExamSummary("a", (5, 6, 4), (1, 1, 1), 0, 119, {"tibia": 4, "talus": 2})
    assert report.exams[3] == ExamSummary("d", (5, 6, 4), (1, 1.5, 1.25), 5, 243, {"tibia": 0, "talus": 3})


def test_all_problems_are_found_in_one_go(tmp_path):
    write_dataset(tmp_path, cases=("good", "nan", "cut", "shape", "values", "turned", "four"))
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    volume = ramp(dtype=np.float32)
    volume[0, 0, 0] = np.nan
    write_nifti(images / "nan_0000.nii.gz", volume)
    whole = (images / "cut_0000.nii.gz").read_bytes()
    (images / "cut_0000.nii.gz").write_bytes(whole[:-20])
    write_nifti(labels / "cut.nii.gz", ramp(dtype=np.uint8))  # wrong values are found without the image, too
    write_nifti(labels / "shape.nii.gz", np.ones((5, 6, 5), np.uint8))
    write_nifti(labels / "values.nii.gz", ramp(dtype=np.uint8) % 4, np.diag([1, 1, 2, 1]))
    write_nifti(images / "turned_0000.nii.gz", ramp(), qform_code=0, sform_code=0)
    nib.save(nib.Nifti1Image(ramp((5, 6, 4, 2)), np.eye(4)), images / "four_0000.nii.gz")
    write_nifti(images / "lonely_0000.nii.gz", ramp())
    write_nifti(labels / "orphan.nii.gz", ramp())
    write_nifti(images / "good_0001.nii.gz", ramp())

    report = check_dataset(tmp_path)

    problems = found(report)
    expected = [
        ("good_0001.nii.gz", "it is channel 0001"),
        ("lonely_0000.nii.gz", "the image has no label map"),
        ("orphan.nii.gz", "the label map has no image"),
        ("cut_0000.nii.gz", "it is cut short"),
        ("cut.nii.gz", "its values 3, 4, 5, 6, 7, ... are no labels"),
        ("four_0000.nii.gz", "it is 4D"),
        ("nan_0000.nii.gz", "1 of 120 voxels are NaN"),
        ("shape.nii.gz", "not on its image's grid: 5×6×5 voxels against 5×6×4"),
        ("turned_0000.nii.gz", "its orientation is unknown"),
        # nibabel's affine of a file without any matrix is the grid's centre: the label map lies elsewhere.
        ("turned.nii.gz", "not on its image's grid"),
        ("values.nii.gz", "not on its image's grid: voxels of 1×1×2 mm against 1×1×1 mm"),
        ("values.nii.gz", "its values 3 are no labels"),
    ]
    assert len(problems) == len(expected)
    for (file, problem), (expected_file, expected_problem) in zip(problems, expected, strict=True):
        assert file == expected_file
        assert expected_problem in problem
    assert not report.is_usable
    assert {exam.name for exam in report.exams if exam.shape is None} == {"cut", "four"}
    assert {exam.name for exam in report.exams if exam.voxels_per_structure is None} == {"cut", "values"}
    with pytest.raises(DataError, match="channel 0001"):  # what loading would have shown: one at a time
        load_dataset(tmp_path)


def test_one_file_may_have_several_problems(tmp_path):
    write_dataset(tmp_path)
    affine = np.eye(4)
    affine[0, 1] = 0.5
    volume = np.full((5, 6, 4), np.nan, np.float32)
    path = write_nifti(tmp_path / "imagesTr/a_0000.nii.gz", volume)
    image = nib.load(path)
    image.header.set_sform(affine, code=1)
    nib.save(nib.Nifti1Image(volume, affine, image.header), path)
    problems = [problem for file, problem in found(check_dataset(tmp_path)) if file == path.name]
    assert len(problems) == 3
    assert "sheared by 27°" in problems[0]
    assert "qform and sform disagree" in problems[1]
    assert "120 of 120 voxels are NaN" in problems[2]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_a_folder_that_is_no_dataset_is_reported_not_raised(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    report = check_dataset(tmp_path / name)
    assert len(report.problems) == 1
    assert report.problems[0].file == tmp_path / name / "dataset.json"
    assert report.exams == []
    assert not report.is_usable


def test_missing_folders_and_no_exam_are_reported(tmp_path):
    write_description(tmp_path)
    assert [file for file, _ in found(check_dataset(tmp_path))] == ["imagesTr", "labelsTr"]
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    assert found(check_dataset(tmp_path)) == [(tmp_path.name, "it holds no exam")]


@pytest.mark.parametrize(("cases", "words"), [(("a",), "it holds 1 exam"), (("a", "b"), "it holds 2 exams")])
def test_too_few_exams_for_a_split_are_a_problem(tmp_path, cases, words):
    write_dataset(tmp_path, cases)
    report = check_dataset(tmp_path)
    assert found(report) == [(tmp_path.name, words)]
    assert not report.is_usable


def test_a_structure_that_no_exam_shows_is_a_problem(tmp_path):
    write_dataset(tmp_path)
    write_description(tmp_path, structures=("tibia", "talus", "fibula"))
    report = check_dataset(tmp_path)
    assert found(report) == [("dataset.json", "no exam has a voxel of structure 'fibula'")]
    assert not report.is_usable


def test_oddities_that_may_be_meant_are_warnings(tmp_path):
    write_dataset(tmp_path, cases=("a", "b", "c", "far", "empty"))
    write_description(tmp_path, numTraining=7)
    write_case(tmp_path, "far", affine=np.diag([1, 1, 2.5, 1]))
    write_nifti(tmp_path / "labelsTr/empty.nii.gz", np.zeros((5, 6, 4), np.uint8))
    report = check_dataset(tmp_path)
    assert found(report) == [
        ("? empty.nii.gz", "no voxel is labelled"),
        ("? dataset.json", "'numTraining' is 7, found are 5 exams"),
        (f"? {tmp_path.name}", "exam 'far' has voxels of 1×1×2.5 mm, usual are 1×1×1 mm"),
    ]
    assert report.is_usable


def test_another_order_of_axes_is_no_other_protocol(tmp_path):
    write_dataset(tmp_path)
    for case, diagonal in {"a": (3, 1, 1), "b": (1, 3, 1), "c": (1, 1, 3)}.items():
        write_case(tmp_path, case, affine=np.diag([*diagonal, 1]))
    assert check_dataset(tmp_path).problems == []
