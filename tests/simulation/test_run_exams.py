"""A run is its exams too: neither finished nor gone on with once these have changed."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from finished_runs import finish
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.data import load_sites
from simulation.run_exams import EXAMS, note_exams, noted_exams
from simulation.study import PlannedRun, carry_out, compose_network, plan_runs

SHORT = ("mode=centralised", "strategy=dsl", "training.steps=2", "training.validate_every_steps=2")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place with two sites of four exams, knee and ankle."""
    write_sites(tmp_path / "data", sites={"ankle": 1, "knee": 2})
    return tmp_path


def words_of(place: Path, *words: str) -> list[str]:
    folders = {site: place / "data" / site for site in ("ankle", "knee")}
    return run_words(folders, f"data.cache_dir='{place / 'cache'}'", *words)


def run(place: Path) -> dict:
    given = words_of(place, *SHORT)
    return simulate(compose("simulate", given), place / "out", Console(quiet=True), given)


def add_exam(place: Path) -> None:
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        own = place / "data/knee" / folder
        shutil.copy(own / f"knee_exam_3{ending}", own / f"aaa_new{ending}")


def correct_label(place: Path) -> None:
    path = place / "data/knee/labelsTr/knee_exam_2.nii.gz"
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(labels, image.affine, image.header), path)


CHANGES = [(add_exam, "aaa_new is new"), (correct_label, "knee_exam_2 has another label map")]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_a_finished_run_is_not_told_of_other_exams(place: Path, change, told: str) -> None:
    first = run(place)
    assert run(place) == first
    change(place)
    with pytest.raises(
        ConfigurationError, match=rf"out holds a run with other exams of knee \({told}\).*remove this one"
    ):
        run(place)
    assert json.loads((place / "out/summary.json").read_text()) == first


def test_an_unfinished_run_is_not_gone_on_with_on_other_exams(place: Path) -> None:
    run(place)
    (place / "out/summary.json").unlink()
    noted = (place / "out" / EXAMS).read_text()
    correct_label(place)
    with pytest.raises(ConfigurationError, match=r"other exams of knee \(knee_exam_2"):
        run(place)
    assert (place / "out" / EXAMS).read_text() == noted


def test_a_run_of_an_earlier_version_that_is_finished_is_taken_as_it_is(place: Path) -> None:
    first = run(place)
    (place / "out" / EXAMS).unlink()
    add_exam(place)
    assert run(place) == first
    assert noted_exams(place / "out") == {}  # nobody knows


def test_a_run_of_an_earlier_version_that_goes_on_is_held_to_its_exams_from_then_on(place: Path) -> None:
    run(place)
    for name in (EXAMS, "summary.json"):
        (place / "out" / name).unlink()
    run(place)
    assert list(noted_exams(place / "out")["knee"]) == [f"knee_exam_{number}" for number in range(4)]
    add_exam(place)
    with pytest.raises(ConfigurationError, match="aaa_new is new"):
        run(place)


@pytest.fixture
def planned(place: Path) -> list[PlannedRun]:
    """The two runs of a study, one finished, the other begun; both with the exams that are there."""
    words = words_of(place, "experiment=study", "study.strategies=[dsl]", "study.folds=[0,1]")
    runs = plan_runs(compose("simulate", words), {"att_unet": compose_network(words, "att_unet")}, place / "out")
    finish(runs[0])
    for each in runs:
        note_exams(load_sites(each.config), each.folder)
    return runs


@pytest.mark.parametrize(("change", "told"), CHANGES)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_study_says_so_before_anything_runs(
    place: Path, planned: list[PlannedRun], fold: int, change, told: str
) -> None:
    (planned[1 - fold].folder / EXAMS).unlink()
    change(place)
    with pytest.raises(ConfigurationError, match=rf"fold_{fold} holds a run with other exams of knee \({told}"):
        carry_out(planned, planned[0].config, place / "out", Console(quiet=True))
    assert not list((place / "out").glob("runs/**/worker.log"))


def test_a_finished_study_needs_no_exams(place: Path, planned: list[PlannedRun]) -> None:
    shutil.rmtree(place / "data")
    shutil.rmtree(place / "cache")
    outcome = carry_out(planned[:1], planned[0].config, place / "out", Console(quiet=True))
    assert list(outcome.summaries) == [planned[0].key]


def test_pictures_are_not_drawn_of_other_exams(place: Path, planned: list[PlannedRun]) -> None:
    correct_label(place)
    words = [
        "experiment=figures",
        f"study.folder='{place / 'out'}'",
        "study.networks=[att_unet]",
        "study.strategies=[dsl]",
    ]
    with pytest.raises(ConfigurationError, match=r"fold_0 holds a run with other exams of knee \(knee_exam_2"):
        simulate(compose("simulate", words), place / "pictures", Console(quiet=True), words)
