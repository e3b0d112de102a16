"""Two machines on one wire: ``python two_machines.py ORDER`` under ``unshare --map-root-user --net``.

This namespace is the server's machine, with the address ``SERVER``; another one, joined to it by a pair of virtual interfaces, is
the other's. ORDER is a JSON file: ``server`` (words of its command), ``log``, ``superlink_log``, ``port`` (to wait for),
``paths`` (to be called on the SuperLink's own port too), ``other`` (the order of :mod:`outsider`, to which address and ports
are added) and ``seconds``.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import outsider
from recorded_processes import TIED, raise_loopback

from server.flower_internals import MEDIA_TYPE

SERVER, OTHER = "10.77.0.1", "10.77.0.2"
_LISTENS = "0A"


def wire() -> subprocess.Popen:
    """A process that holds the other machine's namespace, and the wire to it."""
    raise_loopback()
    other = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    mine = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{other.pid}/ns/net") == mine:
        time.sleep(0.01)
    for words in (
        f"ip link add name here type veth peer name there netns {other.pid}",
        f"ip address add {SERVER}/24 dev here",
        "ip link set here up",
        f"nsenter --target {other.pid} --net ip address add {OTHER}/24 dev there",
        f"nsenter --target {other.pid} --net ip link set there up",
        f"nsenter --target {other.pid} --net ip link set lo up",
    ):
        subprocess.run(words.split(), check=True)
    return other


def listened_on() -> list[int]:
    """Every TCP port that somebody listens on in this namespace, on whatever address."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def wait_for_port(address: str, port: int, process: subprocess.Popen, seconds: float) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on {address}:{port}")


def status_here(port: int, path: str) -> int:
    """What a call without any credential is answered on this machine itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    connection.request("POST", path, b"", {"content-type": MEDIA_TYPE})
    status = connection.getresponse().status
    connection.close()
    return status


def run(order: dict, address: str, on_other: list[str], ports: Callable[[], list[int]]) -> None:
    """Start the server, try everything from the other machine, end the server; ``ports`` are then listened on here."""
    folder = Path(order["log"]).parent
    with open(order["log"], "wb") as log:
        server = subprocess.Popen([*TIED, sys.executable, *order["server"]], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_port(address, order["port"], server, order["seconds"])
        own = int(re.search(r"on 127\.0\.0\.1:(\d+)", Path(order["superlink_log"]).read_text())[1])
        here = {path: status_here(own, path) for path in order["paths"]}
        (folder / "here.json").write_text(json.dumps(here))
        task = Path(order["other"])
        task.write_text(json.dumps(json.loads(task.read_text()) | {"address": address, "ports": [own, *ports()]}))
        command = [*on_other, sys.executable, outsider.__file__, str(task)]
        subprocess.run(command, check=True, timeout=order["seconds"])
    finally:
        server.terminate()
        server.wait(60)


def main(order_file: Path) -> None:
    """Carry out an order."""
    other = wire()
    try:
        on_other = ["nsenter", "--target", str(other.pid), "--net"]
        run(json.loads(order_file.read_text()), SERVER, on_other, listened_on)
    finally:
        other.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
