import hashlib
import json
import resource

import numpy as np
import pytest

from client.ledger import Ledger, verify
from mtmd_core.errors import DataError

ARRAY = np.array([[3.0, -4.0], [0.0, 12.0]], np.float32)


@pytest.fixture
def path(tmp_path):
    """A ledger of five lines."""
    path = tmp_path / "site" / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("", 0, "facts", {"site": "ankle", "structures": 3})
    ledger.append("abc", 1, "metrics", {"loss": 0.1})
    ledger.append("abc", 1, "shared", {"conv.weight": ARRAY, "turned": ARRAY.T})
    return path


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_left(path):
    first, _, loss, weight, turned = lines(path)
    assert (first["record"], first["name"], first["value"]) == ("facts", "site", "ankle")
    assert (loss["run"], loss["round"], loss["record"], loss["name"], loss["value"]) == (
        "abc",
        1,
        "metrics",
        "loss",
        0.1,
    )
    assert (weight["shape"], weight["dtype"], weight["bytes"], weight["norm"]) == ([2, 2], "float32", 16, 13.0)
    assert weight["digest"] == hashlib.sha256(ARRAY.tobytes()).hexdigest()
    assert turned["digest"] == hashlib.sha256(ARRAY.T.tobytes()).hexdigest()
    assert all(isinstance(line["time"], float) for line in lines(path))
    assert verify(path) == 5


def test_a_new_process_goes_on_where_the_last_one_stopped(path):
    before = path.read_text()
    Ledger(path).append("abc", 2, "metrics", {"loss": 0.05, "steps": 20})
    assert path.read_text().startswith(before)
    assert verify(path) == 7


def test_entries_of_no_content_write_no_line(path):
    ledger = Ledger(path)
    ledger.append("abc", 2, "metrics", {})
    assert verify(path) == 5
    ledger.append("abc", 2, "metrics", {"loss": 0.05})
    assert verify(path) == 6


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("field", ["time", "run", "round", "record", "name", "previous", "chain"])
def test_an_altered_line_is_noticed(path, number, field):
    content = lines(path)
    content[number - 1][field] = "0" * 32
    if number == 1 and field == "previous":
        content[0][field] = "1" * 32
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    with pytest.raises(ValueError, match=f"line {number}"):
        verify(path)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda text: text[1:], 1),
        (lambda text: text[:2] + text[3:], 3),
        (lambda text: text[:2] + [text[1]] + text[2:], 3),
        (lambda text: text[:1] + [text[2], text[1]] + text[3:], 2),
        (lambda text: text[:1] + ["3"] + text[1:], 2),
        (lambda text: text[:1] + ["[]"] + text[1:], 2),
        (lambda text: text[:1] + ["{}"] + text[1:], 2),
        (lambda text: text[:1] + [""] + text[1:], 2),
        (lambda text: text[:4] + [text[4][:-9]], 5),
    ],
    ids=["first removed", "removed", "repeated", "swapped", "number", "list", "empty", "blank", "cut"],
)
def test_a_line_removed_inserted_or_moved_is_noticed(path, change, number):
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=f"line {number}"):
        verify(path)


def test_a_line_that_a_crash_cut_short_is_removed_and_the_chain_goes_on(path, caplog):
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:40])
    Ledger(path).append("abc", 2, "metrics", {"loss": 0.05})
    assert "cut short" in caplog.text
    assert path.read_text().startswith(text)
    assert verify(path) == 6


def test_a_ledger_that_ends_in_something_else_is_not_continued(path):
    path.write_text(path.read_text() + "hello\n")
    with pytest.raises(DataError, match="keep the file as evidence"):
        Ledger(path)


def test_a_full_disk_leaves_no_half_line(path):
    """The system itself refuses to let the file grow; with room again, the chain goes on."""
    ledger, before = Ledger(path), path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 700, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            ledger.append("abc", 2, "metrics", {f"loss_{n}": 0.05 for n in range(9)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    ledger.append("abc", 2, "metrics", {"loss": 0.05})
    assert verify(path) == 6
