"""What a stranger gets who can reach the coordinator's machine: real processes, tried from another machine.

That is another network namespace, joined by a wire. Where namespaces are refused, it is another address of this machine
(127.0.0.2), on which nothing that listens on 127.0.0.1 alone can be reached either.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import outsider
import pytest
import two_machines
from enrolled import enroll_site, make_certificates

from mtmd_core.credentials import new_private_key, private_key_file
from mtmd_core.processes import free_port
from server.admission import Admission
from server.flower_internals import SITE_CALLS

ALONE = ("unshare", "--map-root-user", "--net")
SECONDS = 300
SAME_MACHINE = "127.0.0.2"
REFUSED = ("none", "wrong", "revoked")
TASKS = ["/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/runtime/create-task", "/v1/runtime/pull-task-input"]
SITES_CALLS = [f"/v1/fleet/{name}" for name in sorted(SITE_CALLS)]


@dataclass
class Tried:
    """What was tried from the other machine, and what came of it."""

    port: int
    answers: dict[str, dict[str, int]]
    flower: dict[str, str]
    open_ports: list[int]
    here: dict[str, int]
    door_log: str
    server_log: str


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """A server that waits for two sites, one admitted and one revoked, and every call to it with each credential."""
    folder = tmp_path_factory.mktemp("outside")
    state, port = folder / "federation", free_port()
    certificates = make_certificates(state, two_machines.SERVER, SAME_MACHINE)
    admission, now = Admission(state), datetime.now(UTC)
    keys = {"wrong": folder / "wrong.key"}
    keys["wrong"].write_bytes(private_key_file(new_private_key()))
    keys["wrong"].chmod(0o600)
    for site, name in (("ankle", "revoked"), ("knee", "admitted")):
        settings, card = enroll_site(folder / site, site, f"{SAME_MACHINE}:{port}", certificates.authority)
        admission.admit(card, now)
        keys[name] = settings.key_file
    admission.revoke("ankle", now)
    other, order = folder / "other.json", folder / "order.json"
    other.write_text(
        json.dumps(
            {
                "port": port,
                "authority": str(certificates.authority),
                "keys": {name: str(file) for name, file in keys.items()},
                "bundle": str(Path(__file__).parents[1] / "server" / "bundle"),
            }
        )
    )
    page_port = free_port()
    content = {
        "server": [
            "-m", "server.command", "--sites", "ankle,knee", "--port", str(port), "--page-port", str(page_port),
            "--state", str(state),
        ],
        "log": str(folder / "server.log"),
        "superlink_log": str(state / "logs" / "superlink.log"),
        "port": port,
        "paths": TASKS,
        "other": str(other),
        "seconds": SECONDS,
    }  # fmt: skip
    order.write_text(json.dumps(content))
    if _two_machines():
        command = [*ALONE, sys.executable, two_machines.__file__, str(order)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * SECONDS)
        assert done.returncode == 0, done.stderr + (folder / "server.log").read_text()
    else:
        two_machines.run(content, SAME_MACHINE, [], lambda: [page_port])
    found = json.loads((folder / "answers.json").read_text())
    logs = [(state / "logs" / "door.log").read_text(), (folder / "server.log").read_text()]
    here = json.loads((folder / "here.json").read_text())
    return Tried(port, found["answers"], found["flower"], found["open_ports"], here, *logs)


def _two_machines() -> bool:
    if any(shutil.which(command) is None for command in ("ip", "unshare", "nsenter")):
        return False
    make = ["ip", "link", "add", "name", "here", "type", "veth", "peer", "name", "there"]
    return subprocess.run([*ALONE, *make], capture_output=True, check=False).returncode == 0


def test_one_port_can_be_reached_from_another_machine(tried: Tried) -> None:
    """Flower's own port and the live page are listened on, and only from this machine."""
    assert tried.open_ports == [tried.port]


@pytest.mark.parametrize("credential", [*REFUSED, "admitted"])
def test_runs_nodes_and_tasks_are_not_there_whoever_asks(tried: Tried, credential: str) -> None:
    """Every call that Flower's clients for Control and Runtime know is 404, with no, a wrong, a revoked and a good credential."""
    known = outsider.calls()
    assert set(TASKS) <= {*known["control"], *known["runtime"]}
    assert not {404, 405} & set(
        tried.here.values()
    )  # on the SuperLink's own port they are there, and ask for no credential
    answers = tried.answers[credential]
    closed = [*known["control"], *known["runtime"], "/", "/health", "/docs", "/openapi.json"]
    closed += sorted({*known["fleet"]} - {*SITES_CALLS})
    assert {path: answers[path] for path in closed} == dict.fromkeys(closed, 404)


@pytest.mark.parametrize("credential", REFUSED)
def test_a_sites_calls_are_refused_to_whoever_is_not_admitted(tried: Tried, credential: str) -> None:
    calls = [*SITES_CALLS, outsider.KNOCK]
    assert {path: tried.answers[credential][path] for path in calls} == dict.fromkeys(calls, 401)
    reason = {"none": "not signed", "wrong": "is not admitted", "revoked": "ankle was revoked on"}[credential]
    assert tried.door_log.count(reason) == len(calls)


def test_they_reach_the_superlink_when_an_admitted_site_makes_them(tried: Tried) -> None:
    """What it then says of a call with nothing in it is its own business."""
    assert tried.answers["admitted"][outsider.KNOCK] == 200
    assert "knee comes in" in tried.door_log
    assert tried.door_log.count("refused") == len(REFUSED) * (len(SITES_CALLS) + 1)


def test_flower_s_own_commands_get_nothing_with_any_key(tried: Tried) -> None:
    assert set(tried.flower) == {"run", "register wrong", "register revoked", "register admitted"}
    for said in tried.flower.values():
        assert '"success": false' in said
        assert "404" in said
    assert "here: " not in tried.server_log
