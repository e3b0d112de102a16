"""A log for machines: whole lines, in files that do not grow for ever."""

from pathlib import Path

from mtmd_core.event_log import KEPT, EventLog, events


def test_events_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "logs" / "audit.jsonl")
    log.note("started", run="abc")
    log.note("refused", site="knee", round=3)
    first, second = events(log.path)
    assert (first["event"], first["run"]) == ("started", "abc")
    assert (second["event"], second["site"], second["round"]) == ("refused", "knee", 3)
    assert second["time"] >= first["time"] > 0


def test_full_files_are_put_aside_and_the_oldest_given_up(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "audit.jsonl", limit_bytes=1)
    for number in range(KEPT + 3):
        log.note("round_closed", round=number)
    assert len(list(tmp_path.iterdir())) == KEPT + 1
    assert [event["round"] for event in events(log.path)] == list(range(2, KEPT + 3))


def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "audit.jsonl")
    log.note("started")
    log.path.write_text(log.path.read_text() + '{"time": 1, "ev')
    log.note("resumed")
    assert [event["event"] for event in events(log.path)] == ["started", "resumed"]


def test_without_a_file_there_are_no_events(tmp_path: Path) -> None:
    assert list(events(tmp_path / "audit.jsonl")) == []
