import numpy as np
import pytest
from volumes import ramp, write_case, write_dataset, write_description, write_dicom_series, write_nifti

from client.check import check
from client.import_case import import_case
from mtmd_core.errors import DataError


def test_check_prints_a_table_and_ends_with_0(tmp_path, capsys):
    write_dataset(tmp_path)
    assert check(tmp_path, "ankle") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Site ankle: {tmp_path}"
    table = [line.split() for line in lines]
    assert ["exam", "shape", "spacing,", "mm", "intensity", "tibia", "talus"] in table
    assert ["b", "5×6×4", "1×1×1", "0", "to", "119", "4", "2"] in table
    assert lines[-1] == "3 exams, no problem"


def test_check_prints_each_problem_on_one_line_and_ends_with_4(tmp_path, capsys):
    folder = tmp_path / ("long_folder_name_" * 10) / "[red]brackets[/red]"
    write_dataset(folder)
    write_nifti(folder / "imagesTr/b_0000.nii.gz", np.full((5, 6, 4), np.inf, np.float32))
    (folder / "labelsTr/c.nii.gz").write_bytes(b"")
    assert check(folder, "ankle") == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        f"problem {folder}/imagesTr/b_0000.nii.gz: 120 of 120 voxels are NaN or infinite. "
        "Export the image again without masking, or fill these voxels."
    )
    assert lines[2] == (
        f"problem {folder}/labelsTr/c.nii.gz: the file is empty. Copy or export the file again from its source."
    )
    assert ["c", "5×6×4", "1×1×1", "0", "to", "119", "–", "–"] in [line.split() for line in lines]
    assert lines[-1] == "3 exams, 2 problems"


def test_check_lists_many_structures_line_by_line(tmp_path, capsys):
    structures = tuple(f"structure_{number}" for number in range(1, 21))
    write_description(tmp_path, structures=structures)
    for case in "abc":
        write_case(tmp_path, case, labels=(ramp() % 21).astype(np.uint8))
    assert check(tmp_path, "ankle") == 0
    output = capsys.readouterr().out
    assert output.count("structure_20: 5") == 3
    assert max(map(len, output.splitlines()[1:])) <= 160


def test_warnings_alone_do_not_fail_the_check(tmp_path, capsys):
    write_dataset(tmp_path)
    write_description(tmp_path, numTraining=9)
    assert check(tmp_path, "ankle") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"warning {tmp_path}/dataset.json: 'numTraining' is 9")
    assert lines[-1] == "3 exams, no problem, 1 warning"


def test_import_says_what_was_written_and_what_is_missing(tmp_path, capsys):
    write_dicom_series(tmp_path / "series", ramp((8, 6, 4)))
    assert import_case(tmp_path / "series", "patella_1", tmp_path / "data", None) == 0
    lines = capsys.readouterr().out.splitlines()
    image = tmp_path / "data/imagesTr/patella_1_0000.nii.gz"
    assert lines[0].startswith(f"wrote {image}: 8×6×4 voxels of 0.5×0.7×3 mm")
    assert image.is_file()
    assert lines[1].startswith(f"missing {tmp_path}/data/labelsTr/patella_1.nii.gz: draw")
    assert lines[2].startswith(f"missing {tmp_path}/data/dataset.json: name the structures")
    with pytest.raises(DataError, match="exists already"):
        import_case(tmp_path / "series", "patella_1", tmp_path / "data", None)


def test_import_of_a_complete_case_lacks_nothing(tmp_path, capsys):
    write_dicom_series(tmp_path / "series", ramp((8, 6, 4)))
    write_description(tmp_path / "data")
    affine = np.array([[-0.5, 0, 0, 10], [0, -0.7, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    label = write_nifti(tmp_path / "drawn.nii.gz", (ramp((8, 6, 4)) % 3).astype(np.uint8), affine)
    assert import_case(tmp_path / "series", "case", tmp_path / "data", label) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1] == f"wrote {tmp_path}/data/labelsTr/case.nii.gz"
