"""A deployed federation whose every byte is recorded, and whose every word with the network is noted.

``python recorded_processes.py ORDER`` runs the commands of a JSON file, ORDER, side by side until they end, and leaves beside it
``crossed.bin`` (all that went through the recording proxy, both ways), ``asked.jsonl`` (every address that a Python process
connected to, sent to or looked up) and ``result.json``. Run under ``unshare --map-root-user --net`` it has loopback alone, and
the kernel counts what did not find a way out.
"""

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

GUARD = """
import json, os, sys

EVENTS = {"connect": 1, "sendto": 1, "sendmsg": 1, "getaddrinfo": 0, "gethostbyname": 0, "gethostbyaddr": 0}
_file = os.open(os.environ["MTMD_TEST_ASKED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note(event, arguments):
    room, _, name = event.partition(".")
    if room == "socket" and name in EVENTS:
        line = {"program": sys.argv[:3] if hasattr(sys, "argv") else [], "call": name, "address": arguments[EVENTS[name]]}
        os.write(_file, json.dumps(line, default=repr).encode() + b"\\n")


sys.addaudithook(_note)
"""
"""``sitecustomize.py`` of every process: Python tells it of each call before it is made."""
COUNTERS = ("IpOutNoRoutes", "Ip6OutNoRoutes", "UdpOutDatagrams", "Udp6OutDatagrams")
"""Of the kernel, for a namespace: packets that had no way to go, and datagrams (a look-up of a name is one)."""
TIED = (sys.executable, "-m", "mtmd_core.processes")
"""A command after these words ends with this process, whatever ends it."""
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


class RecordingProxy:
    """Hands on connections to a port of loopback, and keeps the bytes of both directions, each connection's together."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.streams: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:  # it does not listen yet: neither does the proxy, then
                client.close()
                continue
            for source, target in ((client, server), (server, client)):
                stream = bytearray()
                self.streams.append(stream)
                threading.Thread(target=_hand_on, args=(source, target, stream), daemon=True).start()


def _hand_on(source: socket.socket, target: socket.socket, stream: bytearray) -> None:
    try:
        while piece := source.recv(1 << 20):
            stream += piece
            target.sendall(piece)
    except OSError:
        pass  # whoever went away is told below
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def raise_loopback() -> None:
    """Switch on the only interface of a new namespace, as ``ip link set lo up`` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


def interfaces() -> list[str]:
    """Names of this namespace's network interfaces."""
    return [name for _, name in socket.if_nameindex()]


def counters() -> dict[str, int]:
    """This namespace's :data:`COUNTERS`."""
    rows = Path("/proc/net/snmp").read_text().splitlines()
    found = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    for names, values in zip(rows[::2], rows[1::2], strict=True):
        kind = names.partition(":")[0]
        found |= {kind + name: value for name, value in zip(names.split()[1:], values.split()[1:], strict=True)}
    return {name: int(found[name]) for name in COUNTERS}


def reach_out() -> None:
    """Do what nobody should: look a name up, and call an address that is not here."""
    for attempt in (
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.create_connection(("192.0.2.1", 443), timeout=1.0),
    ):
        with contextlib.suppress(OSError):
            attempt()


def main(order_file: Path) -> None:
    """Carry out an order: ``server_port``, ``commands`` (name → words; PORT stands for the proxy's), ``alone``, ``seconds``."""
    order, folder = json.loads(order_file.read_text()), order_file.parent
    if order["alone"]:
        raise_loopback()
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    environment = {**os.environ, "MTMD_TEST_ASKED": str(folder / "asked.jsonl"), "MTMD_PARENT": str(os.getpid())}
    environment["PYTHONPATH"] = os.pathsep.join([str(guard), *filter(None, [os.environ.get("PYTHONPATH")])])
    proxy = RecordingProxy(order["server_port"])
    before = counters() if order["alone"] else {}
    running = {}
    for name, words in order["commands"].items():
        words = [word.replace("PORT", str(proxy.port)) for word in words]
        with open(folder / f"{name}.log", "wb") as log:
            running[name] = subprocess.Popen(
                [*TIED, sys.executable, *words],
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
    deadline = time.monotonic() + order["seconds"]
    codes = {}
    for name, process in running.items():
        try:
            codes[name] = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            codes[name] = None
    result = {"codes": codes, "interfaces": interfaces()}
    if order["alone"]:
        result |= {"before": before, "after": counters()}
        reach_out()
        result["reached_out"] = counters()
    (folder / "crossed.bin").write_bytes(b"\n".join(proxy.streams))
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
