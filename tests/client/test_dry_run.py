"""What a site shows of what would leave: exactly what leaves, and nothing is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from asked import PLAN
from recorded_federation import RecordingGrid, open_sites
from records import arrays_in
from tiny_sites import own_settings, run_words, write_sites

from client.dry_run import dry_run
from client.ledger import Ledger
from client.settings import SiteSettings
from client.verify_ledger import verify_ledger
from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.wire import to_record
from server.app import coordinate
from server.run_store import RunStore


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def test_the_plan_of_the_last_round_shows_what_that_round_sent(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "knee"
    sites = open_sites(folders, tmp_path / "cache", release="mean")
    sites["knee"].outbox.ledger = Ledger(state / "ledger.jsonl")
    sites["knee"].last_plan = state / "last_plan.json"
    words = run_words(folders, "federation.rounds=2", "federation.update_encoding=int8")
    config = compose("simulate", words)
    grid = RecordingGrid(sites)
    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False))
    before = {path: path.read_bytes() for path in state.iterdir()}
    settings = own_settings("knee", state, folders["knee"])
    assert dry_run(settings, None) == 0
    shown = capsys.readouterr().out
    assert {path: path.read_bytes() for path in state.iterdir()} == before
    sent = next(
        m for m in reversed(grid.from_sites) if "update" in m.content and m.content["receipt"]["site"] == "knee"
    )
    update = arrays_in(sent.content["update"])
    for name, array in update.items():
        assert f"    {name}  {array.dtype} {'×'.join(map(str, array.shape))}  " in shown
    assert f"  update: {len(update)} arrays, " in shown
    assert all(name in shown for name in sent.content["metrics"])
    tested = [m for m in grid.from_sites if any("test/" in name for name in m.content.get("metrics", {}))]
    assert all(name in shown for message in tested for name in message.content["metrics"])
    assert "round 2 of run" in shown
    assert verify_ledger(state / "ledger.jsonl") == 0
    assert "the chain is whole" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["shared", "dsl"])
def test_every_array_that_a_round_sent_is_shown_and_no_other(
    strategy: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where everything is shared, one domain serves every site, and its output layer has the classes of all."""
    state = tmp_path / "knee"
    state.mkdir()
    sites = open_sites(folders, tmp_path / "cache")
    sites["knee"].last_plan = state / "last_plan.json"
    config = compose("simulate", run_words(folders, "federation.rounds=1", f"strategy={strategy}"))
    grid = RecordingGrid(sites)
    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False))
    sent = [m.content for m in grid.from_sites if "shared" in m.content and m.content["receipt"]["site"] == "knee"]
    shapes = {
        f"{name}  {a.dtype} {'×'.join(map(str, a.shape)) or '1'}" for name, a in arrays_in(sent[0]["shared"]).items()
    }
    assert dry_run(own_settings("knee", state, folders["knee"], strategies=[strategy]), None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.strip().rpartition("  ")[0] for line in lines if line.startswith("    ")} == shapes


def test_a_last_plan_that_does_not_hold_the_sites_structures_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    plan = to_record(replace(PLAN, strategy="shared", label_classes=3, label_offset=1))
    (tmp_path / "last_plan.json").write_text(json.dumps({"plan": plan, "contrast": None}))
    settings = own_settings("knee", tmp_path, folders["knee"], strategies=["shared"])
    with pytest.raises(ConfigurationError, match="puts this site's 2 structures after 1: they do not fit"):
        dry_run(settings, None)


@pytest.mark.parametrize(
    ("settings", "strategy", "there", "absent"),
    [
        ({}, None, ["strategy dsl", "shared: 34 arrays, 34.9 MB", "test/foreground_mean/dice"], ["structure_1"]),
        ({"release": "none"}, None, ["metrics: steps"], ["dice"]),
        ({"release": "structure"}, None, ["test/mean/structure_2/dice"], ["structure_3", "knee_bone"]),
        ({}, "dsl_msc", ["nothing: this site refuses the plan", "takes part in individual, dsl"], ["arrays"]),
        ({"strategies": ["dsl_msc"]}, "dsl_msc", ["prototypes: 82 arrays", "s9/mean  float32 32"], ["exam_0"]),
        (
            {"strategies": ["shared"]},
            "shared",
            ["unknown until the server asks", "output.domains.every_site.weight  float32 3×32×1×1"],
            ["knee."],
        ),
        ({}, "dsl", ["strategy dsl"], ["unknown until the server asks"]),
        ({"strategies": ["individual"]}, None, ["strategy individual", "shared: 0 arrays"], []),
        ({"limits": {"max_parameters": 1000}}, None, ["this site's max_parameters is 1000"], ["arrays"]),
    ],
)
def test_the_sites_own_policy_decides(
    settings: dict,
    strategy: str | None,
    there: list[str],
    absent: list[str],
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dry_run(SiteSettings("knee", tmp_path / "state", folders["knee"], **settings), strategy) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in there), shown
    assert not any(text in shown for text in absent)
    assert not (tmp_path / "state").exists()


def test_what_would_leave_of_a_pretrained_network_is_told_without_its_weights(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    plan = replace(PLAN, network="efficient_unet", encoder_weights="imagenet", slice_size=32)
    (tmp_path / "last_plan.json").write_text(json.dumps({"plan": to_record(plan), "contrast": None}))
    assert dry_run(own_settings("knee", tmp_path, folders["knee"]), None) == 0
    assert "encoder.conv_stem.weight  float32 40×3×3×3" in capsys.readouterr().out


def test_a_plan_that_is_none_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "last_plan.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="does not hold the plan of a round"):
        dry_run(SiteSettings("knee", tmp_path, folders["knee"]), None)


def test_a_ledger_that_was_altered_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append("abc", 1, "metrics", {"loss": 0.1, "steps": 3})
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(DataError, match=r"breaks at line 1.*keep the file as evidence"):
        verify_ledger(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no ledger"):
        verify_ledger(path)
