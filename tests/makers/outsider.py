"""What somebody tries who can reach the open port: ``python outsider.py ORDER`` leaves ``answers.json`` beside it.

ORDER is a JSON file: ``address``, ``port``, ``authority`` (the certificate that vouches for the server), ``keys`` (name of a
credential → file of a private key; ``none`` is tried in any case), ``bundle`` (what to submit), ``ports`` (others that somebody
listens on at the server).
"""

import inspect
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.supercore.control import control_http_client
from flwr.supercore.runtime import runtime_http_client
from flwr.supernode import fleet_http_client

from mtmd_core.credentials import load_private_key, signed_headers
from mtmd_core.processes import installed_command
from server.flower_internals import MEDIA_TYPE

KNOCK = "/v1/fleet/admission"
CLIENTS = {"control": control_http_client, "runtime": runtime_http_client, "fleet": fleet_http_client}


def calls() -> dict[str, list[str]]:
    """Every call that Flower's own clients know, by API: submitting runs, the tasks of SuperExec and apps, SuperNodes."""
    return {api: re.findall(rf'"(/v1/{api}/[a-z-]+)"', inspect.getsource(room)) for api, room in CLIENTS.items()}


def answers(order: dict, headers: dict[str, str]) -> dict[str, int]:
    """The status of each call with an empty body, and of the pages that a server might have."""
    context = ssl.create_default_context(cafile=order["authority"])
    base = f"https://{order['address']}:{order['port']}"
    paths = [path for known in calls().values() for path in known] + ["/", "/health", "/docs", "/openapi.json"]
    with httpx.Client(base_url=base, verify=context, trust_env=False, timeout=60.0) as client:
        asked = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE, **headers}
        found = {path: client.post(path, content=b"", headers=asked).status_code for path in paths}
        return {**found, KNOCK: client.get(KNOCK, headers=headers).status_code}


def flower_commands(order: dict, folder: Path) -> dict[str, str]:
    """What ``flwr`` says when a run is submitted, and when a node's key is registered: a new one and each that is known."""
    home = folder / "flwr"
    home.mkdir()
    where = f'address = "{order["address"]}:{order["port"]}"\nroot-certificates = "{order["authority"]}"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "it"\n[superlink.it]\n{where}')
    commands = {"run": ("run", order["bundle"])}
    for name, file in order["keys"].items():
        public = folder / f"{name}.pub"
        formats = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        public.write_bytes(load_private_key(Path(file)).public_key().public_bytes(*formats))
        commands[f"register {name}"] = ("supernode", "register", str(public))
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    running = {
        name: subprocess.Popen(
            [installed_command("flwr"), *words, "it", "--format", "json"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, words in commands.items()
    }
    return {name: process.communicate(timeout=300)[0] for name, process in running.items()}


def open_ports(order: dict) -> list[int]:
    """Those of the server's ports that can be connected to from here."""
    found = []
    for port in sorted({*order["ports"], order["port"]}):
        with socket.socket() as probe:
            probe.settimeout(5.0)
            if probe.connect_ex((order["address"], port)) == 0:
                found.append(port)
    return found


def main(order_file: Path) -> None:
    """Try everything."""
    order, folder = json.loads(order_file.read_text()), order_file.parent
    credentials = {"none": {}}
    for name, file in order["keys"].items():
        credentials[name] = signed_headers(load_private_key(Path(file)), datetime.now(UTC))
    result = {
        "open_ports": open_ports(order),
        "answers": {name: answers(order, headers) for name, headers in credentials.items()},
        "flower": flower_commands(order, folder),
    }
    (folder / "answers.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
