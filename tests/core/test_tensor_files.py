import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mtmd_core.tensor_files import DamagedFileError, load_tensors, save_tensors

TENSORS = {
    "float": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).T,
    "short": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "count": torch.tensor([1, 2**40]),
    "flag": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}
FACTS = {"run": "abc", "round": 3, "name": "é", "nothing": None}


@pytest.fixture
def path(tmp_path) -> Path:
    save_tensors(tmp_path / "deep" / "a.safetensors", TENSORS, FACTS)
    return tmp_path / "deep" / "a.safetensors"


def test_tensors_and_facts_come_back(path):
    tensors, facts = load_tensors(path)
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
        assert torch.equal(tensor, TENSORS[name])
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_no_tensors_are_a_file_too(tmp_path):
    save_tensors(tmp_path / "a", {}, {})
    assert load_tensors(tmp_path / "a") == ({}, {})


def test_any_altered_byte_is_noticed(path, tmp_path):
    content = path.read_bytes()
    for place in range(len(content)):
        (tmp_path / "b").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedFileError):
            load_tensors(tmp_path / "b")


def test_a_file_cut_short_or_prolonged_is_refused(path, tmp_path):
    content = path.read_bytes()
    for altered in (*(content[:length] for length in range(0, len(content), 50)), content[:-1], content + b"\0"):
        (tmp_path / "b").write_bytes(altered)
        with pytest.raises(DamagedFileError, match="b "):
            load_tensors(tmp_path / "b")


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    save_file({"a": torch.ones(2)}, tmp_path / "unsigned", {"facts": "{}"})
    for name in ("missing", ".", "foreign", "unsigned"):
        with pytest.raises(DamagedFileError):
            load_tensors(tmp_path / name)


def test_facts_that_json_cannot_hold_leave_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(path, TENSORS, {"path": path})
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_an_os_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    """As on a full disk: here no file may grow beyond 1 kB."""
    path, before = tmp_path / "a.safetensors", {"a": torch.ones(2)}
    save_tensors(path, before, {"round": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match=r"a\.safetensors cannot be written"):
            save_tensors(path, {"a": torch.ones(10_000)}, {"round": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tensors, facts = load_tensors(path)
    assert (torch.equal(tensors["a"], before["a"]), facts) == (True, {"round": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
