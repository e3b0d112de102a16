"""Phantom datasets: their files, the command that writes them, and the page on them."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from joint_labels import LABELS

from mtmd_core.data.dataset import load_dataset, load_exam
from mtmd_core.errors import ConfigurationError
from simulation.phantom import JOINT_NAMES, make_exam, write_datasets
from simulation.phantom.command import main, parse_exams
from simulation.phantom.pictures import threshold_table, write_pictures

# ---------------------------------------------------------------- files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms")
    write_datasets(out, {"ankle": 2, "shoulder": 1}, seed=4, scale=0.05, workers=1)
    return out


def test_same_seed_same_bytes_with_any_number_of_workers(written: Path, tmp_path: Path) -> None:
    write_datasets(tmp_path, {"shoulder": 1, "ankle": 2}, seed=4, scale=0.05, workers=2)
    assert contents(tmp_path) == contents(written)
    assert len(contents(written)) == 2 * 3 + 2


def test_an_exam_does_not_depend_on_how_many_are_made(written: Path, tmp_path: Path) -> None:
    write_datasets(tmp_path, {"ankle": 1}, seed=4, scale=0.05, workers=1)
    image = "ankle/imagesTr/ankle_001_0000.nii.gz"
    assert contents(tmp_path)[image] == contents(written)[image]
    assert contents(written)[image] != contents(written)["ankle/imagesTr/ankle_002_0000.nii.gz"]


def test_the_project_s_own_reader_takes_a_phantom_dataset(written: Path) -> None:
    dataset = load_dataset(written / "ankle")
    exam = load_exam(dataset.cases[0], dataset.structures)
    made = make_exam("ankle", seed=4, index=0, scale=0.05)
    assert tuple(dataset.structures) == ("calcaneus", "talus", "tibia")
    assert exam.image.size == made.image.size
    assert set(np.unique(exam.labels)) <= {0, 1, 2, 3}


def test_headers_carry_spacing_and_orientation_twice(written: Path) -> None:
    exam = make_exam("shoulder", seed=4, index=0, scale=0.05)
    for part, name in (("imagesTr", "shoulder_001_0000.nii.gz"), ("labelsTr", "shoulder_001.nii.gz")):
        path = written / "shoulder" / part / name
        nifti = nib.load(path)
        qform, qcode = nifti.get_qform(coded=True)
        sform, scode = nifti.get_sform(coded=True)
        assert (qcode, scode) == (1, 1)
        np.testing.assert_allclose(qform, sform, atol=1e-3)
        np.testing.assert_allclose(sform, exam.affine, atol=1e-4)
        np.testing.assert_allclose(nifti.header.get_zooms(), exam.spacing_mm, rtol=1e-6)
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert b"no patient" in nifti.header["descrip"].item()
        stored = exam.image if part == "imagesTr" else exam.labels
        np.testing.assert_array_equal(np.asanyarray(nifti.dataobj), stored)
        assert path.read_bytes()[4:8] == bytes(4)  # gzip's time stamp
        assert gzip.decompress(path.read_bytes())[344:347] == b"n+1"


def test_the_description_says_that_these_are_phantoms(written: Path) -> None:
    description = json.loads((written / "ankle" / "dataset.json").read_text())
    assert "Phantoms, no patients" in description["description"]
    assert description["labels"] == {"background": 0, **LABELS["ankle"]}
    assert (description["numTraining"], description["file_ending"]) == (2, ".nii.gz")
    phantom = description["phantom"]
    assert (phantom["seed"], phantom["scale"], phantom["version"]) == (4, 0.05, "1.1")
    assert list(phantom["exams"]) == ["ankle_001", "ankle_002"]
    assert all(7 <= exam["age_years"] <= 13 for exam in phantom["exams"].values())


def test_an_interrupted_run_is_finished_and_a_finished_one_is_kept(written: Path, tmp_path: Path) -> None:
    order = {"exams": {"ankle": 1}, "seed": 4, "scale": 0.05, "workers": 1}
    write_datasets(tmp_path, **order)
    complete = contents(tmp_path)
    (tmp_path / "ankle" / "dataset.json").unlink()
    (tmp_path / "ankle" / "labelsTr" / "ankle_001.nii.gz").rename(
        tmp_path / "ankle" / "labelsTr" / "ankle_001.nii.gz.part"
    )
    write_datasets(tmp_path, **order)
    assert contents(tmp_path) == complete
    with pytest.raises(ConfigurationError, match="already holds a dataset"):
        write_datasets(tmp_path, **order)
    (tmp_path / "ankle" / "dataset.json").unlink()
    (tmp_path / "ankle" / "imagesTr" / "someone_0000.nii.gz").touch()
    with pytest.raises(ConfigurationError, match="someone_0000"):
        write_datasets(tmp_path, **order)


# ---------------------------------------------------------------- the command


def test_the_command_writes_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--exams", "ankle=1", "--exams", "shoulder=1", "--seed", "4", "--scale", "0.05", "--workers", "1"]
    assert main([str(tmp_path), *words]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"{joint}: 1 exams in {tmp_path / joint}" for joint in ("ankle", "shoulder")]
    assert printed.err == "ankle 1/1\nshoulder 1/1\n"
    assert (tmp_path / "ankle" / "dataset.json").exists()


def test_exam_counts_on_the_command_line() -> None:
    assert parse_exams(["ankle=20", "knee=3"]) == {"ankle": 20, "knee": 3}
    for word in ("ankle", "ankle=", "ankle=-1", "hip=3"):
        with pytest.raises(ConfigurationError, match=word.split("=")[0]):
            parse_exams([word])
    with pytest.raises(ConfigurationError, match="twice"):
        parse_exams(["knee=1", "knee=2"])


@pytest.mark.parametrize(
    "words", [["--exams", "hip=1"], ["--exams", "knee=0"], ["--scale", "2"], ["--workers", "0"], ["--seed", "-3"]]
)
def test_unusable_words_end_the_command_with_two(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith("mtmd-phantom: ")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the page


def test_the_page_s_pictures_and_table(tmp_path: Path) -> None:
    written = write_pictures(tmp_path, seed=0, exams=1, shapes=dict.fromkeys(JOINT_NAMES, (32, 32, 16)))
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert {path.stem for path in written} == {*JOINT_NAMES, "contrasts", "histograms"}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)
    rows = threshold_table(seed=0, exams=1, scale=0.05).splitlines()
    assert len(rows) == 2 + sum(len(labels) for labels in LABELS.values())
    assert rows[2].startswith("| ankle | calcaneus | 0.")
