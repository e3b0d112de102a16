"""The deployed federation as real processes on loopback: SuperLink, ServerApp, and a SuperNode and a worker a site."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.tensor_files import load_tensors
from simulation.command import simulate

WAIT_SECONDS = 300
WORDS = {
    "dsl": ("federation.rounds=4", "federation.validate_every_rounds=4"),
    "dsl_msc_mjap": (
        "strategy=dsl_msc_mjap",
        "data.slice_size=32",
        "autoencoder.width=4",
        "autoencoder.batch_size=6",
        "federation.rounds=2",
        "federation.autoencoder_rounds=3",
        "federation.validate_every_rounds=9",
    ),
}


@pytest.fixture
def commands() -> Iterator[list[subprocess.Popen]]:
    """Commands of a test; those that still run at its end are killed."""
    running: list[subprocess.Popen] = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(commands: list[subprocess.Popen], log: Path, module: str, *words: str) -> subprocess.Popen:
    with open(log, "ab") as file:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=file, stderr=file, cwd=log.parent)
    commands.append(process)
    return process


def wait_for_round(state: Path, round_: int) -> None:
    """Until the server has finished a round."""
    deadline = time.monotonic() + WAIT_SECONDS
    file = state / "progress.json"
    while time.monotonic() < deadline:
        if file.is_file() and json.loads(file.read_text())["round"] >= round_:
            return
        time.sleep(0.05)
    raise AssertionError(f"round {round_} was not finished within {WAIT_SECONDS} s")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def children_of(pid: int) -> set[int]:
    """A process's descendants."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found |= {child} | children_of(child)
    return found


@pytest.mark.parametrize("strategy", WORDS)
def test_processes_train_the_simulations_model_though_a_client_is_killed(
    strategy: str, tmp_path: Path, commands: list[subprocess.Popen]
) -> None:
    """Bit-identical shared and private parameters, one client killed between two rounds and started again.

    With prototypes and a prior it is killed in the auto-encoder's rounds.
    """
    folders = write_sites(tmp_path / "data", exams=5, slices=6 if strategy == "dsl" else 18)
    words = [word for word in run_words(folders, *WORDS[strategy]) if not word.startswith("sites=")]
    port, state = free_port(), {name: tmp_path / name for name in ("server", *folders)}
    server = start(
        commands, tmp_path / "server.log", "server.command", "--insecure", "--sites", "3", "--port", str(port),
        "--state", str(state["server"]), *words,
    )  # fmt: skip
    clients = {}
    for site, folder in folders.items():
        clients[site] = start(
            commands, tmp_path / f"{site}.log", "client.command", "--insecure", "--site", site, "--data", str(folder),
            "--server", f"127.0.0.1:{port}", "--state", str(state[site]), "--threads", "1", "--strategies", strategy,
        )  # fmt: skip

    wait_for_round(state["server"], 1)
    family = children_of(clients["knee"].pid)
    clients["knee"].kill()
    clients["knee"].wait()
    deadline = time.monotonic() + 30
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, family)), "children outlived a client that was killed"
    clients["knee"] = start(
        commands, tmp_path / "knee.log", "client.command", "--site", "knee", "--state", str(state["knee"])
    )  # everything else is in the site's own folder

    logs = "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(tmp_path.glob("*.log")))
    assert server.wait(WAIT_SECONDS) == 0, logs
    assert {site: client.wait(WAIT_SECONDS) for site, client in clients.items()} == dict.fromkeys(folders, 0), logs
    assert json.loads((state["server"] / "outcome.json").read_text())["exit_code"] == 0

    simulate(
        compose("simulate", run_words(folders, *WORDS[strategy], f"data.cache_dir='{tmp_path / 'cache'}'")),
        tmp_path / "simulation",
        Console(quiet=True),
    )
    pairs = {"shared": (state["server"] / "checkpoints/chosen", tmp_path / "simulation/checkpoints/chosen")}
    pairs |= {site: (state[site] / "results/model", tmp_path / f"simulation/models/{site}") for site in folders}
    if strategy == "dsl_msc_mjap":
        chosen = "checkpoints/autoencoder_chosen"
        pairs["auto-encoder"] = (state["server"] / chosen, tmp_path / "simulation" / chosen)
        pairs["prototypes"] = (state["server"] / "checkpoints/last", tmp_path / "simulation/checkpoints/last")
        sent = load_tensors(Path(f"{pairs['prototypes'][0]}.safetensors"))[0]
        assert {name.split("/")[1] for name in sent if name.startswith("prototypes/")} == set(folders)
    for name, files in pairs.items():
        deployed, simulated = (load_tensors(Path(f"{file}.safetensors"))[0] for file in files)
        assert deployed.keys() == simulated.keys()
        assert all(torch.equal(deployed[key], simulated[key]) for key in deployed), name

    released = (state["server"] / "summary.json").read_text() + (state["server"] / "round_metrics.jsonl").read_text()
    assert "bone" not in released
    assert "_exam_" not in released
    own = json.loads((state["knee"] / "results" / "summary.json").read_text())
    assert list(own["mean"]) == ["knee_bone_1", "knee_bone_2"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_child_on_both_sides(
    tmp_path: Path, commands: list[subprocess.Popen], how: signal.Signals
) -> None:
    folder = write_sites(tmp_path / "data", sites={"knee": 2})["knee"]
    port = free_port()
    server = start(
        commands, tmp_path / "server.log", "server.command", "--insecure", "--sites", "2", "--port", str(port),
        "--state", str(tmp_path / "server"),
    )  # fmt: skip
    client = start(
        commands, tmp_path / "knee.log", "client.command", "--insecure", "--site", "knee", "--data", str(folder),
        "--server", f"127.0.0.1:{port}", "--state", str(tmp_path / "knee"), "--threads", "1",
    )  # fmt: skip
    deadline = time.monotonic() + WAIT_SECONDS
    while "here: knee" not in (tmp_path / "server.log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    families = {process: children_of(process.pid) for process in (server, client)}
    assert all(families.values())
    for process, family in families.items():
        process.send_signal(how)
        assert process.wait(60) == 128 + how
        assert not any(map(alive, family))
