"""Finished runs on exams that they have not seen: whose network scores what, and against whom it is held."""

import csv
import gc
import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from page_checks import check_page
from rich.console import Console
from tiny_sites import RUN, SITES, run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.data.site_data import load_site
from mtmd_core.data.split import leave_one_out
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.evaluation import evaluate_exams
from mtmd_core.models import load_model, save_model
from mtmd_core.networks.att_unet import AttUNet
from simulation.command import simulate
from simulation.data import load_sites, make_phantoms
from simulation.found_runs import find_runs
from simulation.recalibration import recalibrate
from simulation.runs import run
from simulation.trained import segmentation_networks

RUNS = {
    "local": ("strategy=individual", "mode=federated"),
    "dsl_2": ("strategy=dsl", "mode=federated"),
    "dsl_pooled": ("strategy=dsl", "mode=centralised"),
    "transfer_knee": ("strategy=transfer_knee", "mode=centralised"),
}
"""Method → words."""
SHORT = ("federation.rounds=1", "training.steps=2", "training.validate_every_steps=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four methods, two of them in two folds, and other exams of the same sites."""
    place = tmp_path_factory.mktemp("external")
    folders = write_sites(place / "sites")
    write_others(place / "others")
    for method, words in RUNS.items():
        for fold in (0, 1) if "dsl" in method else (0,):
            more = (*words, *SHORT, f"fold={fold}", f"data.cache_dir='{place / 'cache'}'")
            config = compose("simulate", run_words(folders, *more))
            run(config, load_sites(config), folder_of(place, method, fold), Console(quiet=True))
            for number, path in enumerate(sorted((folder_of(place, method, fold) / "models").glob("*.safetensors"))):
                _make_unlike(path, seed=100 * len(method) + 10 * fold + number)
    return place


def write_others(folder: Path) -> dict[str, Path]:
    return write_sites(folder, exams=2, slices=7)


def folder_of(place: Path, method: str, fold: int) -> Path:
    return place / f"study/runs/att_unet/{method}/fold_{fold}"


def _make_unlike(path: Path, seed: int) -> None:
    """After two steps all networks see background; with weights for bone drawn at random each sees bones of its own."""
    network, card = load_model(path)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.output.domains.values():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
    save_model(path, network, card)


def words_of(place: Path, sites: str | None = None, *more: str) -> list[str]:
    sites = sites or ", ".join(f"{site}: '{place / 'others' / site}'" for site in SITES)
    cache = f"data.cache_dir='{place / 'cache'}'"
    return ["experiment=external", f"study.folder='{place / 'study'}'", f"sites={{{sites}}}", cache, *more]


def expected_dice(place: Path, method: str, fold: int) -> dict[str, dict[str, float]]:
    """Site → exam → Dice of the run's own networks, loaded by themselves."""
    models = folder_of(place, method, fold) / "models"
    found = {}
    for site in SITES:
        path = models / f"{site}.safetensors"
        network, card = load_model(path if path.is_file() else models / "all_sites.safetensors")
        data = load_site(site, place / "others" / site, 16, "auto", place / "cache")
        scores = evaluate_exams(network, card.site(site).space, data, list(data.exams)).summary
        found[site] = {
            case["case"]: sum(own["dice"] for own in case["metrics"].values()) / len(case["metrics"])
            for case in scores["metric_per_case"]
        }
    return found


def test_methods_are_scored_on_the_other_exams(place: Path, tmp_path: Path) -> None:
    words = words_of(place)
    summary = simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)
    with open(tmp_path / "external.csv", encoding="utf-8", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(RUNS) == [row["method"] for row in summary["rows"]]
    assert {name: (row["folds"], row["exams"]) for name, row in rows.items()} == {
        "local": ("1", "6"), "dsl_2": ("2", "6"), "dsl_pooled": ("2", "6"), "transfer_knee": ("1", "4")
    }  # fmt: skip
    by_exam = json.loads((tmp_path / "external.json").read_text(encoding="utf-8"))
    means = {}
    for method, fold in (("local", 0), ("dsl_2", 0), ("dsl_2", 1), ("dsl_pooled", 0), ("dsl_pooled", 1)):
        expected = expected_dice(place, method, fold)
        assert by_exam[f"att_unet {method}"][str(fold)] == expected
        means[method, fold] = 100 * sum(sum(dice.values()) / 2 for dice in expected.values()) / 3
    assert min(means.values()) > 1  # of nothing but background nothing would be told apart
    assert len({round(mean, 4) for mean in means.values()}) == len(means)

    row = rows["dsl_2"]
    federated, pooled = ((means[method, 0] + means[method, 1]) / 2 for method in ("dsl_2", "dsl_pooled"))
    assert float(row["dice_mean"]) == pytest.approx(federated, abs=1e-4)
    assert float(row["minus_alone"]) == pytest.approx(
        means["dsl_2", 0] - means["local", 0], abs=1e-4
    )  # the fold of both
    assert float(row["minus_pooled"]) == pytest.approx(federated - pooled, abs=1e-4)
    assert rows["local"]["minus_alone"] == rows["dsl_pooled"]["minus_pooled"] == rows["local"]["minus_pooled"] == ""
    assert rows["transfer_knee"]["knee_dice_mean"] == ""  # it is not tested on what it began with
    assert rows["transfer_knee"]["ankle_dice_mean"] != ""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(page, json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")))


def test_statistics_that_are_measured_anew_are_those_of_all_training_slices(place: Path, tmp_path: Path) -> None:
    """Of the first layer, which no other statistics reach; twelve batches are whole passes over twelve slices."""
    found = find_runs(place / "study").finished
    assert {each.title for each in found} == RUNS.keys()
    for each in found:
        networks, sites = segmentation_networks(each.config, each.folder), load_sites(each.config)
        recalibrate(networks, each, 12, str(tmp_path / "cache"))
        for site, own in networks.items():
            exams = [sites[site].exams[name] for name in leave_one_out(list(sites[site].exams), each.key.fold).train]
            images = torch.cat([torch.from_numpy(np.array(exam.images))[:, None] for exam in exams])
            block = own.network.encoder[0][0]
            with torch.no_grad():
                expected = block.conv(images).mean((0, 2, 3))
            measured = block.norm.domains[own.card.space.domain].running_mean
            torch.testing.assert_close(measured, expected, rtol=1e-4, atol=1e-5)

    words = words_of(place, None, f"study.folder='{folder_of(place, 'dsl_pooled', 0)}'", "study.calibration_batches=12")
    (row,) = simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)["rows"]
    before = [100 * sum(dice.values()) / 2 for dice in expected_dice(place, "dsl_pooled", 0).values()]
    assert row["dice_mean"] != pytest.approx(sum(before) / 3, abs=1e-3)


def test_words_that_would_choose_runs_are_refused(place: Path, tmp_path: Path) -> None:
    words = words_of(place, None, "++study.folds=[0]")
    with pytest.raises(ConfigurationError, match=r"does not heed study\.folds=: it scores every run of study\.folder"):
        simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)


def test_a_run_that_is_not_tested_on_any_of_the_sites_is_left_out(place: Path, tmp_path: Path) -> None:
    words = words_of(place, f"knee: '{place / 'others/knee'}'")
    summary = simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)
    assert [row["method"] for row in summary["rows"]] == ["dsl_2", "dsl_pooled", "local"]


class Watched(io.StringIO):
    """What is printed, and the networks that are in memory while each run's line is."""

    def __init__(self) -> None:
        super().__init__()
        self.networks: list[int] = []

    def write(self, text: str) -> int:
        if "/6 att_unet" in text:
            self.networks.append(networks_in_memory())
        return super().write(text)


def networks_in_memory() -> int:
    gc.collect()
    return sum(type(each) is AttUNet for each in gc.get_objects())


def test_no_more_than_one_runs_networks_are_in_memory(place: Path, tmp_path: Path) -> None:
    """None while it is announced; what other tests have left in this process is there all the time."""
    words, watched = words_of(place), Watched()
    before = networks_in_memory()
    simulate(compose("simulate", words), tmp_path, Console(file=watched, width=200), words)
    assert watched.networks == [before] * 6


def test_a_network_that_is_missing_is_said_before_anything_is_scored(place: Path, tmp_path: Path) -> None:
    study = shutil.copytree(place / "study", tmp_path / "study")
    (study / "runs/att_unet/transfer_knee/fold_0/models/ankle.safetensors").unlink()
    words = words_of(place, None, f"study.folder='{study}'")
    with open(tmp_path / "printed", "w+", encoding="utf-8") as printed:
        with pytest.raises(ConfigurationError, match=r"ankle.safetensors is missing, though its run is finished"):
            simulate(compose("simulate", words), tmp_path / "out", Console(file=printed, width=200), words)
        assert "/6" not in Path(printed.name).read_text(encoding="utf-8")


def test_any_number_of_sites_may_be_named() -> None:
    sites = ", ".join(f"site_{number}: DIR" for number in range(5))
    assert len(compose("simulate", ["experiment=external", f"sites={{{sites}}}"]).sites) == 5


def test_what_says_nothing_is_refused_before_anything_is_scored(place: Path, tmp_path: Path) -> None:
    bones = write_sites(tmp_path / "bones", exams=2, sites={"knee": 3}, slices=8)
    again = write_sites(tmp_path / "again")
    sites = ", ".join(f"{site}: '{place / 'others' / site}'" for site in SITES)
    several = f"study.folder='{place / 'several'}'"
    for number in (1, 2):
        shutil.copytree(place / "study", place / f"several/{number}", dirs_exist_ok=True)
    cases = (
        (["experiment=external"], "give study.folder=DIR"),
        (
            words_of(place, f"knee: '{again['knee']}'"),
            "knee's knee_exam_0 is knee_exam_0 of .*, which att_unet .* has seen",
        ),
        (
            words_of(place, f"knee: '{bones['knee']}'"),
            "knows knee_bone_1, knee_bone_2 at knee, .* has knee_bone_1, .*3",
        ),
        (words_of(place, f"{sites}, nee: DIR"), "'nee', which no run knows; did you mean 'knee'"),
        (words_of(place, f"anckle: '{place / 'others/knee'}'"), "'anckle', which no run knows; did you mean 'ankle'"),
        (["experiment=external", f"study.folder='{place / 'study'}'"], "other exams than phantoms of one resolution"),
        ([*words_of(place), several], "holds 2 studies or single runs"),
    )
    for words, text in cases:
        with pytest.raises((ConfigurationError, DataError), match=text):
            simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
        assert not (tmp_path / "out/external.csv").exists()


@pytest.mark.parametrize("noted", [True, False])
def test_exams_that_were_only_packed_anew_or_moved_are_none_that_no_run_has_seen(
    place: Path, tmp_path: Path, noted: bool
) -> None:
    """Known by what the run noted of its exams, or, of an earlier version's run, by those that lie where they lay."""
    study = tmp_path / "study"
    shutil.copytree(place / "study/runs/att_unet/local/fold_0", study)
    if not noted:
        (study / "exams.json").unlink()
    given = shutil.copytree(place / "sites/knee", tmp_path / "given")
    exam = given / "imagesTr/knee_exam_2_0000.nii.gz"
    packed = gzip.compress(gzip.decompress(exam.read_bytes()), compresslevel=1, mtime=1)
    assert packed != exam.read_bytes()
    exam.write_bytes(packed)
    for number in (0, 1, 3):
        (given / f"imagesTr/knee_exam_{number}_0000.nii.gz").unlink()
        (given / f"labelsTr/knee_exam_{number}.nii.gz").unlink()
    words = ["experiment=external", f"study.folder='{study}'", f"sites={{knee: '{given}'}}"]
    words.append(f"data.cache_dir='{place / 'cache'}'")
    with pytest.raises(
        ConfigurationError, match=r"knee's knee_exam_2 is knee_exam_2 of .*, which att_unet .* has seen"
    ):
        simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    assert not (tmp_path / "out/external.csv").exists()


def test_what_a_run_noted_is_enough_to_know_its_exams_again(place: Path, tmp_path: Path) -> None:
    """Without it, and without the exams, nothing can be told, which is said once a folder."""
    study = shutil.copytree(place / "study", tmp_path / "study")
    for path in study.rglob("config.yaml"):
        path.write_text(path.read_text().replace(str(place / "sites"), str(tmp_path / "gone")))
    words = ["experiment=external", f"study.folder='{study}'", f"sites={{knee: '{place / 'sites/knee'}'}}"]
    words.append(f"data.cache_dir='{place / 'cache'}'")
    with pytest.raises(ConfigurationError, match=r"knee's knee_exam_0 is knee_exam_0 of .*gone/knee, which att_unet"):
        simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    for path in study.rglob("exams.json"):
        path.unlink()
    with open(tmp_path / "printed", "w+", encoding="utf-8") as printed:
        simulate(compose("simulate", words), tmp_path / "out", Console(file=printed, width=300), words)
        text = Path(printed.name).read_text(encoding="utf-8")
    assert text.count("saw these exams cannot be told") == len(SITES)


def test_phantoms_of_the_runs_own_seed_are_no_fresh_ones(phantom_cache: Path, tmp_path: Path) -> None:
    """They are found by what is in the files, wherever these lie; and fresh ones have the resolution of the runs' own."""
    words = [*RUN, *SHORT, "mode=centralised", "strategy=dsl", f"data.cache_dir='{phantom_cache}'"]
    config = compose("simulate", [*words, "phantoms.exams=3", "phantoms.scale=0.06"])
    config.sites = make_phantoms(config, Console(quiet=True))
    run(config, load_sites(config), tmp_path / "run", Console(quiet=True))
    words = [
        "experiment=external",
        f"study.folder='{tmp_path / 'run'}'",
        f"data.cache_dir='{phantom_cache}'",
    ]
    words += ["phantoms.exams=3"]
    with pytest.raises(ConfigurationError, match=r"ankle's ankle_001 is ankle_001 of .* has seen"):
        simulate(compose("simulate", [*words, "phantoms.seed=0"]), tmp_path / "out", Console(quiet=True), words)
    summary = simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    assert [(row["method"], row["exams"]) for row in summary["rows"]] == [("dsl", 9)]
    assert len(list((phantom_cache.parent / "phantoms").glob("*_exams_3_scale_0.06_seed_1"))) == 1
