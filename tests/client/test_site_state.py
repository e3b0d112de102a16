import pytest
import torch
from asked import PLAN, shared
from tiny_sites import own_settings, write_sites

from client.site import open_site
from client.site_state import KEPT_RUNS, DiskState, MemoryState, SiteState
from mtmd_core.errors import ConfigurationError


def private(round_: int) -> dict[str, torch.Tensor]:
    return {"norm.weight": torch.full((2,), float(round_))}


def optimiser(round_: int) -> dict[str, torch.Tensor]:
    return {"conv.weight/exp_avg": torch.full((3,), 10.0 * round_)}


@pytest.fixture(params=["memory", "disk"])
def state(request, tmp_path) -> SiteState:
    """A site's memory after three rounds of run a and one of run b."""
    state = MemoryState() if request.param == "memory" else DiskState(tmp_path)
    for run, round_ in (("b", 9), ("a", 1), ("a", 2), ("a", 3)):
        state.save(run, round_, private(round_), optimiser(round_))
    return state


@pytest.fixture
def disk(tmp_path) -> DiskState:
    state = DiskState(tmp_path)
    for round_ in (1, 2, 10):
        state.save("a", round_, private(round_), optimiser(round_))
    return state


def test_the_newest_round_is_remembered_whole(state):
    found = state.newest("a", upto=5)
    assert found.round == 3
    assert torch.equal(found.private["norm.weight"], private(3)["norm.weight"])
    assert torch.equal(found.optimiser["conv.weight/exp_avg"], optimiser(3)["conv.weight/exp_avg"])


def test_private_parameters_of_each_round_are_kept_apart(state):
    for round_ in (1, 2, 3):
        assert torch.equal(state.private_upto("a", round_)["norm.weight"], private(round_)["norm.weight"])
    assert torch.equal(
        state.private_upto("a", 7)["norm.weight"], private(3)["norm.weight"]
    )  # it missed the rounds since
    assert state.private_upto("a", 0) is None
    assert state.private_upto("c", 1) is None
    assert state.newest("c", upto=5) is None
    assert state.newest("a", upto=0) is None


def test_the_round_before_another_is_the_newest_that_is_remembered(state):
    state.save("a", 7, private(7), optimiser(7))
    assert [state.before("a", round_) for round_ in (9, 7, 2, 1)] == [7, 3, 1, -1]
    assert state.before("c", 5) == -1


def test_a_round_that_is_dropped_is_as_if_it_had_never_been(state):
    state.drop("a", 3)
    state.drop("a", 7)
    assert state.newest("a", upto=5).round == 2
    assert torch.equal(state.private_upto("a", 3)["norm.weight"], private(2)["norm.weight"])
    state.save("a", 3, private(30), optimiser(30))
    assert torch.equal(state.newest("a", upto=3).private["norm.weight"], private(30)["norm.weight"])


def test_forgetting_keeps_what_is_asked_for(state):
    state.forget("a", keep={3}, best_round=1)
    assert torch.equal(state.private_upto("a", 2)["norm.weight"], private(1)["norm.weight"])
    assert state.newest("a", upto=3).round == 3


def test_forgetting_keeps_what_a_missed_best_round_will_ask_for(state):
    """The site took part in rounds 1 to 3 and in 5; round 4 became the best one without it."""
    state.save("a", 5, private(5), optimiser(5))
    state.forget("a", keep={5}, best_round=4)
    assert torch.equal(state.private_upto("a", 4)["norm.weight"], private(3)["norm.weight"])


def test_what_is_remembered_does_not_change_with_the_network(state):
    weight = torch.ones(2)
    state.save("a", 4, {"norm.weight": weight}, optimiser(4))
    weight.add_(1)
    assert state.private_upto("a", 4)["norm.weight"].tolist() == [1, 1]


def test_a_visit_that_comes_twice_finds_the_round_before_it(disk):
    assert [disk.newest("a", upto=upto).round for upto in (1, 2, 9, 10, 11)] == [1, 2, 2, 10, 10]


def test_a_new_process_remembers(disk):
    again = DiskState(disk.folder)
    assert again.newest("a", upto=10).round == 10
    assert torch.equal(again.private_upto("a", 1)["norm.weight"], private(1)["norm.weight"])


@pytest.mark.parametrize("part", ["private", "optimiser"])
@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_damaged_round_is_passed_over(disk, part, damage, caplog):
    path = disk.folder / "a" / f"000010.{part}.safetensors"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert disk.newest("a", upto=10).round == 2
    assert ("passed over" in caplog.text) == (not (part == "private" and damage == "gone"))


def test_damaged_private_parameters_of_one_round_are_never_used(disk):
    path = disk.folder / "a" / "000002.private.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(disk.private_upto("a", 2)["norm.weight"], private(1)["norm.weight"])


def test_forgetting_removes_files(disk):
    disk.forget("a", keep={10}, best_round=1)
    assert sorted(path.name for path in (disk.folder / "a").iterdir()) == [
        "000001.private.safetensors",
        "000010.optimiser.safetensors",
        "000010.private.safetensors",
    ]


def test_neither_rounds_that_run_backwards_nor_ever_new_runs_fill_the_disk(disk, caplog):
    for round_ in range(90, 20, -10):
        disk.save("a", round_, private(round_), optimiser(round_))
        disk.forget("a", {round_}, best_round=0)
    kept = sorted({int(path.name[:6]) for path in (disk.folder / "a").iterdir()})
    assert kept == [30, 60, 70, 80, 90]  # the one in hand, and the last ones, which it must not undo
    for number in range(2 * KEPT_RUNS):
        for run in (f"run_{number}-autoencoder", f"run_{number}"):
            disk.save(run, 1, private(1), optimiser(1))
        disk.finish(f"run_{number}")
    kept = {
        "run_15",
        *(f"run_{number}" for number in range(10, 15)),
        "a",
    }  # the one in hand, finished ones, one that rests
    kept |= {"run_9"}
    assert {folder.name.removesuffix("-autoencoder") for folder in disk.folder.iterdir()} == kept
    assert len(list(disk.folder.iterdir())) == 2 * len(kept) - 1
    assert disk.newest("a", 90).round == 90
    for number in range(KEPT_RUNS):
        disk.save(f"resting_{number}", 1, private(1), optimiser(1))
    assert "run a, which is not finished, is forgotten" in caplog.text
    assert disk.newest("a", 90) is None


def test_of_a_finished_run_what_further_rounds_would_need_is_forgotten_when_another_begins(disk):
    disk.save("b", 1, private(1), optimiser(1))
    disk.finish("a")
    disk.save("b", 2, private(2), optimiser(2))
    assert disk.newest("a", 10).round == 10  # its last message may come once more
    disk.save("c", 1, private(1), optimiser(1))
    assert disk.newest("a", 10) is None
    assert torch.equal(disk.private_upto("a", 10)["norm.weight"], private(10)["norm.weight"])
    assert disk.newest("b", 2).round == 2


def test_a_site_finishes_a_run_when_it_is_told_that_it_is_done_and_not_when_it_failed(tmp_path):
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    rounds = tmp_path / "state" / "rounds"
    (rounds / "run").mkdir(parents=True)
    (rounds / "run" / ".000001.private.safetensors.x.tmp").write_text("of a process that was killed")
    site = open_site(own_settings("knee", tmp_path / "state", folder))
    site.train(PLAN, shared())
    kept = ["000001.optimiser.safetensors", "000001.private.safetensors", "exams.json"]
    for exit_code, there in ((1, kept), (0, [*kept, "finished"])):
        site.part(exit_code)
        assert (site.exit_code, sorted(path.name for path in (rounds / "run").iterdir())) == (exit_code, there)


@pytest.mark.parametrize("run", ["..", "../b", "/tmp/b", "a/b", "", ".", "a\n", "a" * 65])
def test_a_runs_name_cannot_lead_out_of_the_sites_folder(disk, run):
    """The name comes from the coordinator."""
    with pytest.raises(ConfigurationError, match="cannot name a run"):
        disk.save(run, 1, private(1), optimiser(1))
    with pytest.raises(ConfigurationError, match="cannot name a run"):
        disk.newest(run, upto=1)
    with pytest.raises(ConfigurationError, match="cannot name a run"):
        disk.forget(run, keep=set(), best_round=0)


def test_a_frozen_network_is_that_of_its_run_and_round(state):
    assert state.frozen("a", 3) is None
    network = {"conv.weight": torch.arange(3.0)}
    state.freeze("a", 3, network)
    network["conv.weight"] += 1
    assert torch.equal(state.frozen("a", 3)["conv.weight"], torch.arange(3.0))
    assert state.frozen("a", 2) is None
    assert state.frozen("b", 3) is None
    state.forget("a", set(), 2)
    assert state.frozen("a", 3) is not None
    assert state.newest("a", upto=5) is None
    assert torch.equal(state.private_upto("a", 3)["norm.weight"], private(2)["norm.weight"])


def test_a_frozen_network_that_was_damaged_is_passed_over(disk):
    disk.freeze("a", 2, {"conv.weight": torch.arange(3.0)})
    path = next(disk.folder.rglob("frozen.safetensors"))
    path.write_bytes(path.read_bytes()[:-2])
    assert disk.frozen("a", 2) is None


def test_the_exams_of_a_run_are_those_that_it_was_begun_with(state):
    assert state.exams("a") is None
    state.note_exams("a", {"A1": {"image": "ab", "spacing_mm": [0.5, 0.7, 3.0]}})
    state.note_exams("a", {"A2": {"image": "cd"}})
    state.forget("a", keep={3}, best_round=1)
    assert state.exams("a") == {"A1": {"image": "ab", "spacing_mm": [0.5, 0.7, 3.0]}}
    assert state.exams("b") is None
    assert state.newest("a", upto=5).round == 3


def test_a_damaged_note_of_a_runs_exams_is_passed_over(disk, caplog):
    disk.note_exams("a", {"A1": {"image": "ab"}})
    path = disk.folder / "a" / "exams.json"
    path.write_text(path.read_text()[:-5])
    assert disk.exams("a") is None
    assert "passed over" in caplog.text
    disk.note_exams("a", {"A2": {"image": "cd"}})
    assert disk.exams("a") == {"A2": {"image": "cd"}}
