"""A deployed run with every byte recorded, where there is nothing but loopback: what crosses, and whom the processes call.

Linux lets a test take the network away (a namespace) and then counts what found no way out. Where namespaces are refused, the
other test still holds: it reads what each process itself was about to call, and needs no leave of the system.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import recorded_processes
from leak_search import find_tensors, find_words
from recorded_processes import COUNTERS
from tiny_sites import SMALL_ROUNDS, WHOLE_METHOD, run_words, write_sites

from client.settings import OWN_FILE
from mtmd_core.processes import free_port
from mtmd_core.settings import keep
from mtmd_core.tensor_files import load_tensors

ALONE = ("unshare", "--map-root-user", "--net")
SECONDS = 600
SITES = {"ankle": 3, "knee": 2}
WORDS = (
    *WHOLE_METHOD,
    "federation.rounds=2",
    "federation.autoencoder_rounds=1",
    "federation.local_steps=1",
    "federation.validate_every_rounds=9",
)
LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")


@dataclass
class Deployed:
    """What a deployed run left."""

    folder: Path
    alone: bool
    result: dict

    @property
    def asked(self) -> list[dict]:
        """Every call of a Python process to the network: which program, which call, which address."""
        return [json.loads(line) for line in (self.folder / "asked.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A run of two sites as processes, from roll call to farewell, without a network where the system lets us."""
    folder = tmp_path_factory.mktemp("deployed")
    folders, port = write_sites(folder / "data", exams=5, sites=SITES, slices=18), free_port()
    words = [word for word in run_words(folders, *WORDS) if not word.startswith("sites=")]
    commands = {
        "server": [
            "-m", "server.command", "--insecure", "--sites", "2", "--port", str(port), "--page-port", "0",
            "--state", str(folder / "server"), *words,
        ]
    } | {
        site: [
            "-m", "client.command", "--insecure", "--site", site, "--data", str(data), "--server", "127.0.0.1:PORT",
            "--state", str(folder / site), "--threads", "1", "--strategies", "dsl_msc_mjap",
        ]
        for site, data in folders.items()
    }  # fmt: skip
    for site in folders:
        keep(folder / site / OWN_FILE, "client", {"limits": SMALL_ROUNDS})
    alone = _can_be_alone()
    order = folder / "order.json"
    order.write_text(json.dumps({"server_port": port, "commands": commands, "alone": alone, "seconds": SECONDS}))
    command = [*(ALONE if alone else ()), sys.executable, recorded_processes.__file__, str(order)]
    subprocess.run(command, check=True, timeout=SECONDS + 60)
    result = json.loads((folder / "result.json").read_text())
    logs = "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log")))
    assert result["codes"] == dict.fromkeys(("server", *SITES), 0), logs
    return Deployed(folder, alone, result)


def _can_be_alone() -> bool:
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_run_needs_loopback_alone_and_nothing_reaches_beyond_it(deployed: Deployed) -> None:
    """The kernel counts what had no way to go, be it Python's call or a library's; the count is then shown to count."""
    if not deployed.alone:
        pytest.skip("this system refuses network namespaces: only what Python itself calls was looked at")
    assert deployed.result["interfaces"] == ["lo"]
    assert deployed.result["after"] == deployed.result["before"] == dict.fromkeys(COUNTERS, 0)
    assert deployed.result["reached_out"]["IpOutNoRoutes"] >= 2


def test_no_process_calls_or_looks_up_anything_but_loopback(deployed: Deployed) -> None:
    """As each process was about to do it, whether it would have succeeded or not."""
    asked = deployed.asked
    programs = {" ".join(call["program"]) for call in asked}
    for program in ("server", "client", "supernode", "worker", "superlink", "flwr"):
        assert any(program in words for words in programs), programs
    beyond = [call for call in asked if not _is_here(call["address"])]
    assert beyond == []


def _is_here(address: object) -> bool:
    host = address[0] if isinstance(address, list) else address
    # a name without a host is a socket in the file system
    return host is None or host in LOOPBACK or (isinstance(address, str) and "/" in address)


def test_no_private_tensor_crosses_between_processes(deployed: Deployed) -> None:
    """All that the sites keep on disk, held against all that went through the wire; what is shared was there."""
    crossed, private = (deployed.folder / "crossed.bin").read_bytes(), {}
    chosen = deployed.folder / "server" / "checkpoints"
    shared = load_tensors(chosen / "chosen.safetensors")[0]
    prior = load_tensors(chosen / "autoencoder_chosen.safetensors")[0]
    for site in SITES:
        for path in (deployed.folder / site).rglob("*.safetensors"):
            for name, tensor in load_tensors(path)[0].items():
                ours = prior if path.name == "frozen.safetensors" else shared if "results" in path.parts else {}
                if name not in ours:
                    private.setdefault(f"{site}/{path.name}/{name}", []).append(tensor.numpy())
    for kind in ("running_mean", "running_var", "output", "exp_avg", "frozen", "model", "embeddings"):
        assert any(kind in what for what in private), kind
    assert find_tensors(crossed, private) == []
    telling = {name: [tensor.numpy()] for name, tensor in shared.items() if len(tensor.unique()) >= 3}
    assert {leak.what for leak in find_tensors(crossed, telling)} == set(telling)


def test_no_label_exam_or_path_crosses_between_processes(deployed: Deployed) -> None:
    crossed = (deployed.folder / "crossed.bin").read_bytes()
    words = [f"{site}_bone_{label}" for site, count in SITES.items() for label in range(1, count + 1)]
    words += [f"{site}_exam_{exam}" for site in SITES for exam in range(5)]
    words += [str(deployed.folder), str(Path.home()), str(Path(sys.prefix)), "imagesTr", "labelsTr", ".nii"]
    assert find_words(crossed, words) == []
    assert len(find_words(crossed, SITES)) == len(SITES)
