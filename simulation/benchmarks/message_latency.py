"""What a round costs beside training, between processes: ours and Flower as it is shipped, side by side.

    python -m simulation.benchmarks.message_latency [--rounds 6] [--repeats 3] [--width 32]

Three sites and the shared parameters of Att-UNet (34.9 MB each way at width 32). *mtmd* is a whole ``mtmd-server`` and three
``mtmd-client``, certificates, TLS, the open port, gate, checkpoint and ledger included; only the sites do not train.
*Flower* is ``flower-superlink`` and three ``flower-supernode`` with their defaults (a process for each message, default polling),
without encryption, under FedAvg and a ClientApp that returns what it received. Both run on this machine, one after the other in
each repeat. Printed are medians of seconds from round to round, the first round left out.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from client.enroll import enroll
from client.settings import load_settings
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, shapes
from mtmd_core.processes import (
    child_environment,
    end,
    free_port,
    installed_command,
    is_healthy,
    signals_as_exceptions,
    start,
)
from mtmd_core.site_card import read_card
from mtmd_core.strategies import Sharing
from server.admission import Admission
from server.authority import certificates_in, create_authority, issue_server_certificate

from .flower_default import ORDER_VARIABLE

SITES = ("ankle", "knee", "shoulder")
WAIT_SECONDS = 600.0
ASKED = 0.75
_TIED = [sys.executable, "-m", "mtmd_core.processes"]
"""A command after these words ends with this process."""
_SWITCHES = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_BUNDLE = """
[project]
name = "latency"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "mtmd"

[tool.flwr.app.components]
serverapp = "simulation.benchmarks.flower_default:server_app"
clientapp = "simulation.benchmarks.flower_default:client_app"
"""


@contextmanager
def children() -> Iterator[list[subprocess.Popen]]:
    """Processes that end with the block."""
    running: list[subprocess.Popen] = []
    try:
        yield running
    finally:
        for process in reversed(running):
            end(process, grace_seconds=5.0)


def our_rounds(folder: Path, rounds: int, width: int) -> list[float]:
    """Seconds of each round after the first."""
    state, port = folder / "federation", free_port()
    certificates, now = certificates_in(state), datetime.now(UTC)
    create_authority(certificates, now)
    issue_server_certificate(certificates, ["localhost"], now)
    for site in SITES:
        own = folder / site
        (own / "data").mkdir(parents=True)
        (own / "data" / "dataset.json").write_text("{}")  # an idle site reads no exams
        given = {"state": own, "server": f"localhost:{port}", "data": own / "data"}
        with redirect_stdout(io.StringIO()):
            enroll(load_settings(site, given), given, certificates.authority)
        Admission(state).admit(read_card(own / f"{site}-card.json"), now)
    words = [f"network.width={width}", f"federation.rounds={rounds}", "federation.validate_every_rounds=1000000"]
    command = [
        sys.executable,
        "-m",
        "server.command",
        "--sites",
        ",".join(SITES),
        "--port",
        str(port),
        "--page-port",
        "0",
    ]
    with children() as running:
        running.append(
            start([*command, "--state", str(state), *words], folder / "server.log", child_environment(_SWITCHES))
        )
        for site in SITES:
            member = [sys.executable, "-m", "simulation.benchmarks.idle_site", str(folder / site), site]
            running.append(start(member, folder / f"{site}.log", child_environment(_SWITCHES)))
        _await(running[0], folder / "server.log")
    closed = [
        line.split(" INFO ")[0] for line in (state / "logs" / "run.log").read_text().splitlines() if "is closed" in line
    ]
    times = [datetime.strptime(each, "%Y-%m-%d %H:%M:%S,%f").timestamp() for each in closed]
    return _gaps(times)


def flower_rounds(folder: Path, rounds: int, width: int) -> list[float]:
    """Seconds of each round after the first."""
    port, order, times = free_port(), folder / "order.json", folder / "times.json"
    network = build_network(NetworkConfig(width=width), {}, seed=0)
    sizes = {
        name: shape for name, (_, shape) in shapes(network, partition(network, Sharing.CONVOLUTIONS).shared).items()
    }
    order.write_text(json.dumps({"shapes": sizes, "rounds": rounds, "sites": len(SITES), "times": str(times)}))
    bundle = folder / "latency"
    bundle.mkdir()
    (bundle / "pyproject.toml").write_text(_BUNDLE)

    def environment(name: str) -> dict[str, str]:
        home = folder / name
        home.mkdir(exist_ok=True)
        return child_environment({**_SWITCHES, ORDER_VARIABLE: str(order), "FLWR_HOME": str(home)})

    with children() as running:
        command = [
            *_TIED,
            installed_command("flower-superlink"),
            "--insecure",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        command += ["--disable-runtime-dependency-installation"]  # there is nothing to install, and no look for it
        running.append(start(command, folder / "superlink.log", environment("server")))
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_healthy("127.0.0.1", port) and time.monotonic() < deadline:
            time.sleep(0.1)
        for site in SITES:
            command = [*_TIED, installed_command("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
            command += ["--port", str(free_port())]
            running.append(start(command, folder / f"{site}.log", environment(site)))
        (folder / "server" / "config.toml").write_text(
            f'[superlink]\ndefault = "it"\n[superlink.it]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        submit = [installed_command("flwr"), "run", str(bundle), "it"]
        subprocess.run(submit, env=environment("server"), check=True, capture_output=True)
        while not times.exists():
            ended = [process for process in running if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                words = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in folder.glob("*.log"))
                raise RuntimeError(
                    f"Flower's run did not end within {WAIT_SECONDS:g} s, or a part of it ended: {words}"
                )
            time.sleep(0.5)
    return _gaps(json.loads(times.read_text())[1:])


def _gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def _await(server: subprocess.Popen, log: Path) -> None:
    if code := server.wait(WAIT_SECONDS):
        raise RuntimeError(f"mtmd-server ended with {code}: {log.read_text()}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    table = Table("repeat", "mtmd, s a round", "Flower, s a round", "mtmd / Flower")
    ratios = []
    for repeat in range(1, given.repeats + 1):
        with tempfile.TemporaryDirectory() as folder, signals_as_exceptions():
            seconds = []
            for name, measure in (("mtmd", our_rounds), ("flower", flower_rounds)):
                (Path(folder) / name).mkdir()
                seconds.append(median(measure(Path(folder) / name, given.rounds, given.width)))
        ratios.append(seconds[0] / seconds[1])
        table.add_row(str(repeat), *(f"{each:.2f}" for each in seconds), f"{ratios[-1]:.2f}")
        Console().print(f"repeat {repeat}: {seconds[0]:.2f} s and {seconds[1]:.2f} s", highlight=False)
    Console().print(table)
    print(f"median ratio {median(ratios):.2f}; asked at most {ASKED}")


if __name__ == "__main__":
    main()
