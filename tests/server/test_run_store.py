import json

import numpy as np
import pytest

from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from server.checkpoints import Checkpoint, Shelved
from server.run_store import RunStore


def config(*overrides: str) -> RunConfig:
    return compose("federation", ["federation.rounds=3", *overrides])


def arrays(round_: int) -> dict[str, np.ndarray]:
    return {"conv.weight": np.full((2, 1), round_, np.float32)}


def after_two_rounds(folder) -> RunStore:
    """A run that stopped in its third round, when metrics were written and the checkpoint was not."""
    store = RunStore(folder, config(), every_round=True)
    for round_ in (1, 2, 3):
        store.append_metrics([{"round": round_, "site": site, "loss": 0.1} for site in ("ankle", "knee")])
        if round_ < 3:
            store.save_best(round_, arrays(round_))
            store.save_last(round_, arrays(round_))
    return store


def assert_new(store: RunStore, old: RunStore) -> None:
    assert store.name != old.name
    assert store.last() is None
    assert store.best() is None
    assert store.metrics() == []


def test_a_run_goes_on_from_its_last_checkpoint_and_drops_later_metrics(tmp_path):
    stopped = after_two_rounds(tmp_path)
    store = RunStore(tmp_path, config(), every_round=True)
    assert store.name == stopped.name
    last, best = store.last(), store.best()
    assert (last.round, best.round) == (2, 2)
    np.testing.assert_array_equal(last.shared["conv.weight"], arrays(2)["conv.weight"])
    assert last.shared["conv.weight"].dtype == np.float32
    assert [(line["round"], line["site"]) for line in store.metrics()] == [
        (1, "ankle"),
        (1, "knee"),
        (2, "ankle"),
        (2, "knee"),
    ]


def test_metrics_of_a_first_round_without_a_checkpoint_are_dropped_too(tmp_path):
    RunStore(tmp_path, config(), every_round=True).append_metrics([{"round": 1, "site": "ankle"}])
    store = RunStore(tmp_path, config(), every_round=True)
    assert store.last() is None
    assert store.metrics() == []


@pytest.mark.parametrize("override", ["seed=1", "federation.rounds=4", "network.width=16"])
def test_another_configuration_does_not_touch_a_run_that_is_not_finished(tmp_path, override):
    stopped = after_two_rounds(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"not finished.*{override.split('=')[0]}"):
        RunStore(tmp_path, config(override), every_round=True)
    again = RunStore(tmp_path, config(), every_round=True)
    assert (again.name, again.last().round) == (stopped.name, 2)


@pytest.mark.parametrize("override", ["federation.join_timeout_seconds=9", "device=cpu", "threads=1"])
def test_words_that_decide_no_result_may_change_when_a_run_goes_on(tmp_path, override):
    assert RunStore(tmp_path, config(override), every_round=True).name
    stopped = after_two_rounds(tmp_path / "run")
    assert RunStore(tmp_path / "run", config(override), every_round=True).name == stopped.name


def test_before_its_first_checkpoint_a_run_gives_way_to_another(tmp_path):
    first = RunStore(tmp_path, config(), every_round=True)
    assert_new(RunStore(tmp_path, config("seed=1"), every_round=True), first)


def test_a_run_goes_on_with_the_sites_that_it_began_with(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    assert store.sites() is None
    store.remember_sites({"knee": 4, "ankle": 3})
    assert RunStore(tmp_path, config(), every_round=True).sites() == {"knee": 4, "ankle": 3}


def test_a_finished_run_is_neither_continued_nor_overwritten_unless_it_is_to_be_made_again(tmp_path):
    store = after_two_rounds(tmp_path)
    store.finish({"mean": {"dice": 0.9}}, Checkpoint(2, arrays(2)))
    assert json.loads((tmp_path / "summary.json").read_text()) == {"mean": {"dice": 0.9}}
    assert (tmp_path / "checkpoints" / "chosen.safetensors").is_file()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in ((), ("seed=1",)):
        with pytest.raises(ConfigurationError, match=r"finished run.*mtmd-server --new"):
            RunStore(tmp_path, config(*words), every_round=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert_new(RunStore(tmp_path, config(), every_round=True, remake=True), store)
    assert not (tmp_path / "summary.json").exists()


LOST = pytest.mark.parametrize("content", [None, "", "{", "\0"])
"""What may be left of a file: nothing, not even its name, or some of it."""


def damage(path, content: str | None) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)


@LOST
def test_a_run_whose_name_is_lost_goes_on_by_its_checkpoints(tmp_path, content):
    stopped = after_two_rounds(tmp_path)
    damage(tmp_path / "run.json", content)
    store = RunStore(tmp_path, config(), every_round=True)
    assert (store.name, store.last().round, store.sites()) == (stopped.name, 2, None)
    assert json.loads((tmp_path / "run.json").read_text()) == {"name": stopped.name, "finished": False}


@LOST
def test_a_run_whose_name_is_lost_before_its_first_checkpoint_is_a_new_one(tmp_path, content):
    first = RunStore(tmp_path, config(), every_round=True)
    damage(tmp_path / "run.json", content)
    assert_new(RunStore(tmp_path, config(), every_round=True), first)


@LOST
def test_a_run_whose_configuration_is_lost_is_left_as_it_is(tmp_path, content):
    stopped = after_two_rounds(tmp_path)
    kept = (tmp_path / "config.yaml").read_text()
    damage(tmp_path / "config.yaml", content)
    with pytest.raises(ConfigurationError, match=r"(?s)not finished.*put config\.yaml back"):
        RunStore(tmp_path, config(), every_round=True)
    (tmp_path / "config.yaml").write_text(kept)
    store = RunStore(tmp_path, config(), every_round=True)
    assert (store.name, store.last().round) == (stopped.name, 2)


def test_a_line_cut_short_is_passed_over(tmp_path, caplog):
    store = after_two_rounds(tmp_path)
    path = tmp_path / "round_metrics.jsonl"
    path.write_text(path.read_text()[:-10])
    assert len(store.metrics()) == 5
    assert "cut short" in caplog.text


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog):
    stopped = after_two_rounds(tmp_path)
    path = tmp_path / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    store = RunStore(tmp_path, config(), every_round=True)
    assert store.name == stopped.name
    assert store.last().round == 1
    assert [line["round"] for line in store.metrics()] == [1, 1]
    assert "passed over" in caplog.text


def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    after_two_rounds(tmp_path)
    path = tmp_path / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    store = RunStore(tmp_path, config(), every_round=True)
    assert store.last().round == 1
    with monkeypatch.context() as full:
        full.setattr("server.checkpoints.save_tensors", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            store.save_last(2, arrays(2))
    assert RunStore(tmp_path, config(), every_round=True).last().round == 1
    store.save_last(2, arrays(2))
    store.save_last(3, arrays(3))
    path.write_bytes(path.read_bytes()[:-1])
    assert RunStore(tmp_path, config(), every_round=True).last().round == 2


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path):
    after_two_rounds(tmp_path)
    for which in ("last", "previous"):
        path = tmp_path / "checkpoints" / f"{which}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    store = RunStore(tmp_path, config(), every_round=True)
    with pytest.raises(
        ConfigurationError, match=r"last.safetensors and .*previous.safetensors cannot be read.*from a copy"
    ):
        store.last()
    assert len(store.metrics()) == 6  # nothing was dropped


def test_what_makes_a_round_the_best_is_kept_with_it(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    store.save_best(2, arrays(2), {"": {"scores": {"ankle": 0.5}, "round": 2}})
    assert RunStore(tmp_path, config(), every_round=True).best().choice == {"": {"scores": {"ankle": 0.5}, "round": 2}}


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    after_two_rounds(tmp_path / "other")
    store = RunStore(tmp_path / "this", config(), every_round=True)
    (tmp_path / "this" / "checkpoints").mkdir()
    (tmp_path / "other/checkpoints/last.safetensors").rename(tmp_path / "this/checkpoints/last.safetensors")
    assert store.last() is None


def test_a_simulation_writes_its_last_round_only(tmp_path):
    store = RunStore(tmp_path, config(), every_round=False)
    store.save_last(1, arrays(1))
    store.save_best(1, arrays(1))
    assert store.last() is None
    assert store.best() is None
    store.save_last(3, arrays(3))
    assert store.last().round == 3
    assert RunStore(tmp_path, config(), every_round=False).name != store.name


def test_progress_is_told(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    store.here(["ankle", "knee"])
    store.progress("training", 1, "round 2 of 3", ["ankle"])
    told = json.loads((tmp_path / "progress.json").read_text())
    assert isinstance(told.pop("time"), float)
    assert told == {
        "here": ["ankle", "knee"],
        "phase": "training",
        "round": 1,
        "rounds": 3,
        "sites": ["ankle"],
        "message": "round 2 of 3",
    }


def test_metrics_that_json_cannot_hold_are_not_written(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    with pytest.raises(ValueError, match="JSON compliant"):
        store.append_metrics([{"round": 1, "loss": float("nan")}])


def test_prototypes_are_part_of_a_checkpoint(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    kept = {"knee": Shelved(1, {"s1/mean": np.float32([1, 0])}), "ankle": Shelved(2, {"s1/mean": np.float32([0, 1])})}
    store.save_last(2, arrays(2), prototypes=kept)
    last = RunStore(tmp_path, config(), every_round=True).last()
    assert last.shared.keys() == {"conv.weight"}
    assert {site: own.round for site, own in last.prototypes.items()} == {"knee": 1, "ankle": 2}
    for site, own in kept.items():
        np.testing.assert_array_equal(last.prototypes[site].arrays["s1/mean"], own.arrays["s1/mean"])
    store.save_last(3, arrays(3))
    assert store.last().prototypes == {}


def test_a_phase_has_files_of_its_own_beside_the_runs(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    first = store.phase("autoencoder", 5)
    first.append_metrics([{"round": 1, "site": "knee"}])
    first.save_last(1, arrays(1))
    assert (store.last(), store.metrics(), first.chosen()) == (None, [], None)
    first.choose(Checkpoint(1, arrays(1)))
    store.save_last(2, arrays(2))
    again = RunStore(tmp_path, config(), every_round=True)
    assert again.name == store.name
    assert (again.last().round, again.phase("autoencoder", 5).last().round) == (2, 1)
    assert again.phase("autoencoder", 5).chosen().round == 1
    again.phase("autoencoder", 5).progress("autoencoder", 1, "")
    assert json.loads((tmp_path / "progress.json").read_text())["rounds"] == 5


def test_a_run_that_stopped_in_its_first_phase_is_not_overwritten_and_a_new_one_takes_nothing_of_it(tmp_path):
    store = RunStore(tmp_path, config(), every_round=True)
    store.phase("autoencoder", 5).save_last(1, arrays(1))
    with pytest.raises(ConfigurationError, match="seed"):
        RunStore(tmp_path, config("seed=1"), every_round=True)
    store.finish(None, Checkpoint(3, arrays(3)))
    assert not (tmp_path / "summary.json").exists()
    new = RunStore(tmp_path, config("seed=1"), every_round=True, remake=True)
    assert new.phase("autoencoder", 5).last() is None
