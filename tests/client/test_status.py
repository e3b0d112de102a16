"""What a site's status file says, and how it is shown."""

import json
from pathlib import Path

import pytest

from client.site_status import StatusFile, read_status
from client.status import lines, status, view
from mtmd_core.processes import exclusive
from mtmd_core.wire import Notice, to_record

LATER = 4e9


def notice(round_: int, set_aside: bool = False, reason: str = "not_finite", in_a_row: int = 1) -> dict:
    return {"event": "notice", **to_record(Notice("abc", round_, reason, in_a_row, set_aside))}


def pulled(round_: int, run: str = "abc", kind: str = "train") -> dict:
    return {"event": "pulled", "kind": kind, "run": run, "round": round_, "rounds": 10, "bytes": 1000}


@pytest.fixture
def file(tmp_path: Path) -> StatusFile:
    """Three rounds answered, the fourth in its second step of five."""
    file = StatusFile(tmp_path, "knee")
    for round_ in (1, 2, 3):
        file.hear(pulled(round_))
        file.hear({"event": "replied", "kind": "train", "bytes": 500})
    file.hear(pulled(4))
    file.hear({"event": "step", "done": 2, "steps": 5})
    file.status.answered = [100.0, 160.0, 220.0]
    file.now("training")
    return file


def test_a_site_at_work(file: StatusFile, tmp_path: Path) -> None:
    now = view(file.status, held=True, now=LATER)
    assert (now["state"], now["round"], now["rounds"], now["step"], now["steps"]) == ("training", 4, 10, 2, 5)
    assert (now["bytes_received"], now["bytes_sent"], now["seconds_left"]) == (4000, 1500, 360.0)
    assert "  run abc: train, round 4 of 10, step 2 of 5" in lines(now)
    assert "  about 6 min left in this phase, 1 min a round" in lines(now)
    assert read_status(tmp_path).step == 2


def test_after_a_crash_it_says_what_was_going_on(file: StatusFile) -> None:
    now = view(file.status, held=False, now=LATER)
    assert lines(now)[0].startswith("knee: not running (last: training)")
    assert now["seconds_left"] is None


def test_a_notice_is_news_once_and_a_site_that_is_asked_again_is_not_set_aside(file: StatusFile) -> None:
    assert file.hear(notice(4))
    assert not file.hear(notice(4))
    assert file.hear(notice(5, in_a_row=2))
    assert file.hear(notice(5, in_a_row=2, set_aside=True))
    assert (file.status.refusals, file.status.set_aside) == (2, True)
    assert any(
        "the reply of round 5: not_finite (its parameters hold NaN or infinity); after 2 in a row this site is set aside"
        in line
        for line in lines(view(file.status, True, LATER))
    )
    file.hear(pulled(8))
    assert not file.status.set_aside


def test_words_that_no_server_of_this_version_sends_are_not_shown(file: StatusFile) -> None:
    file.hear(notice(4, reason="\x1b[31mcall this number"))
    assert "call" not in "\n".join(lines(view(file.status, True, LATER)))


def test_another_run_begins_anew_and_another_process_goes_on(file: StatusFile, tmp_path: Path) -> None:
    again = StatusFile(tmp_path, "knee")
    again.hear(pulled(4))
    assert again.status.bytes_received == 5000
    again.hear(pulled(1, run="xyz"))
    assert (again.status.bytes_received, again.status.answered, again.status.round) == (1000, [], 1)


def test_an_error_is_shown_as_its_word(file: StatusFile) -> None:
    file.hear({"event": "failed", "kind": "train", "error": "disk"})
    assert "  round 4 could not be answered: disk; see logs/worker.log" in lines(view(file.status, True, LATER))


def test_programs_read_the_same(file: StatusFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(tmp_path, "mtmd-client"):
        assert status("knee", tmp_path, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["running"], shown["round"], shown["seconds_a_round"]) == (True, 4, 60.0)


def test_a_status_that_cannot_be_written_ends_no_site(tmp_path: Path) -> None:
    folder = tmp_path / "a file, where the folder should be"
    folder.touch()
    status = StatusFile(tmp_path, "ankle")
    status._folder = folder
    status.now("training")
    assert status.status.state == "training"
