"""Summaries of sites and runs, and what a site lets out of them."""

import json
import math

import numpy as np
import pytest

from mtmd_core.errors import ConfigurationError
from mtmd_core.scores import METRICS_2D, METRICS_3D, Scores, SliceScores, released, summarise_run, summarise_site

NAN = math.nan
EXAMS = {
    "knee_02": [Scores(0.5, 0.4, 0.99, 4.0, 1.0, 0.2), Scores(0.0, NAN, 0.9, 30.0, 30.0, NAN)],
    "knee_01": [Scores(0.9, 0.8, 0.97, 2.0, 0.5, 0.1), Scores(0.6, 0.7, 0.8, 10.0, 3.0, 0.5)],
}
STRUCTURES = ["femur", "patella"]
SLICES = {
    "knee_01": SliceScores(*map(np.array, ([3, 4, 5], [0.9, 0.6, 0.3], [1.0, 0.5, 0.0], [0.9, NAN, 0.7]))),
    "knee_02": SliceScores(*map(np.array, ([7], [1.0], [0.1], [1.0]))),
}


def test_site_by_hand() -> None:
    site = summarise_site(EXAMS, STRUCTURES)
    assert site["mean"]["femur"] == pytest.approx(
        {"dice": 0.7, "sensitivity": 0.6, "specificity": 0.98, "mssd_mm": 3.0, "assd_mm": 0.75, "ravd": 0.15}
    )
    assert site["mean"]["patella"] == pytest.approx(
        {"dice": 0.3, "sensitivity": 0.7, "specificity": 0.85, "mssd_mm": 20.0, "assd_mm": 16.5, "ravd": 0.5}
    )
    # Over structures, as nnU-Net does: with values left out not the same as over all exams and structures.
    assert site["foreground_mean"] == pytest.approx(
        {
            "dice": 0.5,
            "sensitivity": 0.65,
            "specificity": 0.915,
            "mssd_mm": 11.5,
            "assd_mm": 8.625,
            "ravd": 0.325,
        }
    )
    assert site["undefined"] == {
        "dice": 0,
        "sensitivity": 1,
        "specificity": 0,
        "mssd_mm": 0,
        "assd_mm": 0,
        "ravd": 1,
    }
    first, second = site["metric_per_case"]
    assert first == {
        "case": "knee_01",
        "metrics": {name: scores._asdict() for name, scores in zip(STRUCTURES, EXAMS["knee_01"], strict=True)},
    }
    assert second["case"] == "knee_02"
    assert second["metrics"]["patella"]["sensitivity"] is None


def test_slices_and_foreign_shares() -> None:
    site = summarise_site(EXAMS, STRUCTURES, SLICES, {"knee_02": 1e-5})
    assert site["foreground_mean"]["dice_2d"] == pytest.approx(0.7)  # over the four slices, not the two exams
    assert site["foreground_mean"]["sensitivity_2d"] == pytest.approx(0.4)
    assert site["foreground_mean"]["specificity_2d"] == pytest.approx((0.9 + 0.7 + 1.0) / 3)
    assert (site["undefined"]["specificity_2d"], site["undefined"]["dice_2d"]) == (1, 0)
    first, second = site["metric_per_case"]
    assert first["slices"] == pytest.approx({"dice_2d": 0.6, "sensitivity_2d": 0.5, "specificity_2d": 0.8})
    assert "foreign_share" not in first
    assert second["foreign_share"] == 1e-5
    assert tuple(site["foreground_mean"]) == METRICS_3D + METRICS_2D


def test_nothing_defined_is_null_and_json_has_no_nan() -> None:
    nowhere = Scores(0.0, NAN, 1.0, math.inf, 5.0, NAN)
    none = SliceScores(*(np.zeros(0) for _ in range(4)))
    site = summarise_site({"a": [nowhere]}, ["bone"], {"a": none}, {"a": NAN})
    assert site["foreground_mean"]["sensitivity"] is None
    assert site["foreground_mean"]["dice_2d"] is None
    assert site["metric_per_case"][0]["foreign_share"] is None
    run = summarise_run({"here": site})
    assert run["mean"]["sensitivity"] is None
    assert run["undefined"]["sensitivity"] == 1
    for summary in (site, run, released(site, "structure")):
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_exam_at_all() -> None:
    site = summarise_site({}, STRUCTURES)
    assert site["foreground_mean"] == dict.fromkeys(METRICS_3D)
    assert site["metric_per_case"] == []


def test_order_of_exams_and_sites_does_not_matter() -> None:
    assert summarise_site(dict(reversed(EXAMS.items())), STRUCTURES) == summarise_site(EXAMS, STRUCTURES)
    sites = {
        name: {"foreground_mean": {"dice": dice}} for name, dice in zip("abcde", (0.1, 0.7, 0.3, 0.1, 0.9), strict=True)
    }
    forth, back = summarise_run(sites), summarise_run(dict(reversed(sites.items())))
    assert json.dumps(forth) == json.dumps(back)


def test_run_by_hand() -> None:
    ankle = summarise_site({"x": [Scores(0.8, 0.8, 1.0, 3.0, 1.0, 0.1)]}, ["talus"])
    knee = summarise_site(EXAMS, STRUCTURES)  # more exams and structures, the same weight
    run = summarise_run({"knee": knee, "ankle": ankle})
    assert run["mean"]["dice"] == pytest.approx(0.65)
    assert run["mean"]["assd_mm"] == pytest.approx((8.625 + 1) / 2)
    assert run["deviation"]["assd_mm"] == pytest.approx((8.625 - 1) / 2**0.5)
    assert run["worst_site"] == {"name": "knee", "foreground_mean": knee["foreground_mean"]}
    assert run["sites"] == {"ankle": ankle, "knee": knee}
    assert set(run["undefined"].values()) == {0}


def test_run_with_sites_that_let_out_nothing() -> None:
    knee = summarise_site(EXAMS, STRUCTURES)
    run = summarise_run({"a": released(knee, "none"), "b": released(knee, "mean")})
    assert run["worst_site"]["name"] == "b"
    assert run["mean"] == pytest.approx(knee["foreground_mean"])
    assert set(run["deviation"].values()) == {None}
    assert set(run["undefined"].values()) == {1}
    silent = summarise_run({"a": {}})
    assert (silent["mean"], silent["worst_site"], silent["sites"]) == ({}, None, {"a": {}})


def test_of_equally_bad_sites_the_first_by_name_is_worst_and_zero_is_a_score() -> None:
    sites = {name: {"foreground_mean": {"dice": dice}} for name, dice in (("c", 0.0), ("b", 0.0), ("a", 0.4))}
    assert summarise_run(sites)["worst_site"]["name"] == "b"


def test_released_holds_no_name_and_no_exam() -> None:
    site = summarise_site(EXAMS, STRUCTURES, SLICES, {"knee_01": 0.25})
    site["foreground_mean"]["knee_01"] = 1.0  # what is not a metric stays in, whoever put it there
    site["mean"]["femur"]["case"] = "knee_01"
    assert released(site, "none") == {}
    assert released(site, "mean") == {
        "foreground_mean": {metric: site["foreground_mean"][metric] for metric in METRICS_3D + METRICS_2D}
    }
    per_structure = released(site, "structure")
    assert per_structure["foreground_mean"] == released(site, "mean")["foreground_mean"]
    assert list(per_structure["mean"]) == ["structure_1", "structure_2"]
    assert per_structure["mean"]["structure_2"] == site["mean"]["patella"]
    for level in ("mean", "structure"):
        text = json.dumps(released(site, level))
        for word in (*EXAMS, *STRUCTURES, "case", "foreign", "undefined"):
            assert word not in text


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"everything.*none, mean, structure"):
        released(summarise_site(EXAMS, STRUCTURES), "everything")
    with pytest.raises(ConfigurationError, match=r"knee_0\d has 2 scores"):
        summarise_site(EXAMS, ["femur"])
    with pytest.raises(ConfigurationError, match="names of their own"):
        summarise_site(EXAMS, ["femur", "femur"])
    with pytest.raises(ConfigurationError, match="knee_03"):
        summarise_site(EXAMS, STRUCTURES, {"knee_03": SLICES["knee_01"]})
