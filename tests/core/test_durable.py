import json
import resource
from pathlib import Path

import pytest

from mtmd_core.durable import move, write_csv, write_json, write_text, write_with


def half_written(path: Path) -> None:
    path.write_text("half")
    raise OSError("disk full")


def test_text_and_json_come_back_and_folders_are_made(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "é\n")
    assert (tmp_path / "deep" / "er" / "a.txt").read_text(encoding="utf-8") == "é\n"
    write_json(tmp_path / "b.json", {"x": [1, None]})
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1, None]}
    write_json(tmp_path / "b.json", 2)
    assert (tmp_path / "b.json").read_text() == "2\n"


def test_files_and_folders_are_moved_whole(tmp_path):
    write_text(tmp_path / "folder" / "a.txt", "a")
    write_text(tmp_path / "b.txt", "b")
    (tmp_path / "there").mkdir()
    for name in ("folder", "b.txt"):
        move(tmp_path / name, tmp_path / "there")
    assert (tmp_path / "there" / "folder" / "a.txt").read_text() == "a"
    assert (tmp_path / "there" / "b.txt").read_text() == "b"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("before", ["old", None])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(OSError, match="disk full"):
        write_with(path, half_written)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """The system itself refuses to let a file grow beyond 1000 bytes."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_text(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("content", [float("nan"), object()])
def test_what_json_cannot_hold_is_not_written(tmp_path, content):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"x": content})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_table_has_a_header_and_empty_cells(tmp_path):
    write_csv(tmp_path / "a.csv", [{"name": "a, b", "mean": 0.5}, {"name": "c", "mean": None}])
    assert (tmp_path / "a.csv").read_bytes() == b'name,mean\n"a, b",0.5\nc,\n'


@pytest.mark.parametrize(("rows", "text"), [([], "no row"), ([{"a": 1}, {"b": 1}], r"columns \['b'\]")])
def test_rows_that_make_no_table_are_refused(tmp_path, rows, text):
    with pytest.raises(ValueError, match=text):
        write_csv(tmp_path / "a.csv", rows)
    assert not (tmp_path / "a.csv").exists()
