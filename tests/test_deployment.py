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
import yaml
from connect_proxy import ConnectProxy
from rich.console import Console
from tiny_sites import SMALL_ROUNDS, WHOLE_METHOD, run_words, write_sites

from client.settings import OWN_FILE
from mtmd_core.config_files import compose
from mtmd_core.settings import keep
from mtmd_core.tensor_files import load_tensors
from simulation.command import simulate

WAIT_SECONDS = 300
HOST = "127.0.0.2"
"""Where hospitals find the server; unlike 127.0.0.1 an address that may lie behind a proxy."""
WORDS = (
    *WHOLE_METHOD,
    "federation.rounds=2",
    "federation.autoencoder_rounds=2",
    "federation.validate_every_rounds=9",
    "training.channels_last=true",  # memory's layout must come back after a client's end too
    "federation.update_encoding=int8",  # what rounding left behind is a site's to keep, over its end too
)


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


def start(
    commands: list[subprocess.Popen], log: Path, module: str, *words: str, **environment: str
) -> subprocess.Popen:
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdout=file,
            stderr=file,
            cwd=log.parent,
            env={**os.environ, **environment},
        )
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


def test_processes_train_the_simulations_model_though_a_client_is_killed(
    tmp_path: Path, commands: list[subprocess.Popen]
) -> None:
    """Bit-identical parameters, shared and private, and prototypes; a client is killed in the auto-encoder's rounds."""
    folders = write_sites(tmp_path / "data", exams=5, slices=18)
    words = [word for word in run_words(folders, *WORDS) if not word.startswith("sites=")]
    port, state = free_port(), {name: tmp_path / name for name in ("server", *folders)}
    server = start(
        commands, tmp_path / "server.log", "server.command", "--insecure", "--sites", "3", "--port", str(port),
        "--state", str(state["server"]), *words,
    )  # fmt: skip
    clients = {}
    for site, folder in folders.items():
        own = {"data": folder, "server": f"127.0.0.1:{port}", "insecure": True, "threads": 1, "limits": SMALL_ROUNDS}
        keep(state[site] / OWN_FILE, "client", {**own, "strategies": ["dsl_msc_mjap"]})
        words = ("--site", site, "--state", str(state[site]))
        clients[site] = start(commands, tmp_path / f"{site}.log", "client.command", *words)

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
        compose("simulate", run_words(folders, *WORDS, f"data.cache_dir='{tmp_path / 'cache'}'")),
        tmp_path / "simulation",
        Console(quiet=True),
    )
    pairs = {"shared": (state["server"] / "checkpoints/chosen", tmp_path / "simulation/checkpoints/chosen")}
    pairs |= {site: (state[site] / "results/model", tmp_path / f"simulation/models/{site}") for site in folders}
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


def test_a_signal_ends_every_child_on_both_sides(tmp_path: Path, commands: list[subprocess.Popen]) -> None:
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
    signals = {server: signal.SIGINT, client: signal.SIGTERM}  # what comes of either is the same code on both sides
    for process, family in families.items():
        process.send_signal(signals[process])
        assert process.wait(60) == 128 + signals[process]
        assert not any(map(alive, family))
    for log, how in (("server.log", signal.SIGINT), ("knee.log", signal.SIGTERM)):
        said = (tmp_path / log).read_text()
        assert f"{how.name}: ending all that it started; the same command" in said
        assert said.index("ending all") < said.index(f"ended by {how.name}")


def mtmd(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


def wait_for_words(log: Path, words: str) -> None:
    """Until a log says them."""
    deadline = time.monotonic() + WAIT_SECONDS
    while words not in log.read_text():
        assert time.monotonic() < deadline, f"{log} never said '{words}': {log.read_text()}"
        time.sleep(0.05)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as proxy:
        yield proxy


def test_enrolled_sites_train_over_one_encrypted_port(
    tmp_path: Path, commands: list[subprocess.Popen], proxy: ConnectProxy
) -> None:
    """From `init` to the last round: refused before it is admitted, admitted while the server runs, revoked in mid-run.

    One hospital has no way out but its proxy.
    """
    folders, port, server = write_sites(tmp_path / "data", sites={"ankle": 2, "knee": 1}), free_port(), "server.command"
    assert mtmd(tmp_path, server, "init", "--name", HOST).returncode == 0
    authority = tmp_path / "federation" / "tls" / "authority.pem"
    enrolled = [
        mtmd(
            tmp_path, "client.command", "enroll", "--site", site, "--data", str(folder), "--threads", "1",
            "--server", f"{HOST}:{port}", "--authority", str(authority),
        ) for site, folder in folders.items()
    ]  # fmt: skip
    assert [done.returncode for done in enrolled] == [0, 0], enrolled
    for site in folders:
        with open(tmp_path / "sites" / site / OWN_FILE, "a", encoding="utf-8") as file:
            yaml.safe_dump({"limits": SMALL_ROUNDS}, file)
    assert mtmd(tmp_path, server, "admit", "sites/knee/knee-card.json").returncode == 0

    rounds = ("federation.rounds=8", "federation.quorum=1", "federation.validate_every_rounds=99")
    running = start(
        commands, tmp_path / "server.log", server, "--sites", "2", "--port", str(port),
        *(word for word in run_words(folders, *rounds) if not word.startswith("sites=")),
    )  # fmt: skip
    knee = start(commands, tmp_path / "knee.log", "client.command", "--site", "knee", **proxy.environment)
    wait_for_words(tmp_path / "knee.log", f"joined {HOST}")
    early = mtmd(tmp_path, "client.command", "--site", "ankle")
    assert (early.returncode, "does not let ankle in" in early.stderr) == (3, True), early
    assert mtmd(tmp_path, server, "admit", "sites/ankle/ankle-card.json").returncode == 0
    ankle = start(commands, tmp_path / "ankle.log", "client.command", "--site", "ankle")

    wait_for_round(tmp_path / "federation", 2)
    assert mtmd(tmp_path, server, "revoke", "ankle").returncode == 0
    assert ankle.wait(WAIT_SECONDS) == 3
    assert "ankle was revoked on" in (tmp_path / "ankle.log").read_text()
    assert (running.wait(WAIT_SECONDS), knee.wait(WAIT_SECONDS)) == (0, 0), (tmp_path / "server.log").read_text()
    again = mtmd(tmp_path, server)
    assert (again.returncode, "is finished, and nothing is begun over it" in again.stdout) == (0, True), again
    assert (tmp_path / "federation" / "checkpoints" / "chosen.safetensors").is_file()
    visible = "\n".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log"))
    assert "PRIVATE KEY" not in visible
    assert {line.split(" HTTP")[0] for line in proxy.asked} == {f"CONNECT {HOST}:{port}"}
    lines = (json.loads(text) for text in (tmp_path / "federation" / "round_metrics.jsonl").read_text().splitlines())
    arrays = sum(line["bytes_to_site"] + line["bytes_from_site"] for line in lines if line["site"] == "knee")
    assert proxy.carried > arrays > 0
