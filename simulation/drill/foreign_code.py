"""A Flower bundle with code of its own, submitted at the coordinator's machine as somebody with an account there could."""

import json
import subprocess

from mtmd_core.processes import child_environment, installed_command

from .federation import Federation
from .premises import COMMAND_SECONDS
from .verdict import StuckError

MARKER = "foreign-code-ran"
"""Begins the name of the file that the bundle's code leaves wherever it is imported as a ClientApp."""
_ANSWERS = "foreign-answers.json"
_PROJECT = """\
[project]
name = "intruder"
version = "0.1.0"
description = "A bundle that the drill tries"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "intruder"

[tool.flwr.app.components]
serverapp = "intruder.at_server:app"
clientapp = "intruder.at_site:app"
"""
_AT_SITE = """\
import os
from pathlib import Path
from flwr.clientapp import ClientApp

Path({marker!r} + f"-{{os.getpid()}}").touch()
app = ClientApp()


@app.train()
def train(message, context):
    Path({marker!r} + f"-trained-{{os.getpid()}}").touch()
    raise RuntimeError("foreign code")
"""
_AT_SERVER = """\
import json
import os
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "train", ttl=600.0) for node in grid.get_node_ids()]
    waiting, answers = list(grid.push_messages(messages)), []
    deadline = time.monotonic() + {seconds}
    while len(answers) < {expected} and time.monotonic() < deadline:
        for reply in grid.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            answers.append(reply.error.reason if reply.has_error() else "an answer")
        time.sleep(0.2)
    draft = Path({answers!r} + ".draft")
    draft.write_text(json.dumps(answers))
    os.replace(draft, {answers!r})
"""


def submit(federation: Federation, expected: int) -> list[str]:
    """Submit the bundle to a federation's SuperLink; what sites answered to its message, one word a site.

    Args:
        federation: at work.
        expected: how many sites can answer.

    Raises:
        StuckError: if Flower does not take the bundle, or it does not run at the server.
    """
    answers = federation.folder / _ANSWERS
    bundle = federation.folder / "intruder"
    (bundle / "intruder").mkdir(parents=True)
    (bundle / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (bundle / "intruder" / "__init__.py").touch()
    (bundle / "intruder" / "at_site.py").write_text(_AT_SITE.format(marker=str(federation.folder / MARKER)))
    code = _AT_SERVER.format(seconds=30, expected=expected, answers=str(answers))
    (bundle / "intruder" / "at_server.py").write_text(code)
    _flwr_run(federation, str(bundle))
    federation.wait(answers.is_file, "the foreign bundle's code ran at the server")
    return json.loads(answers.read_text(encoding="utf-8"))


def _flwr_run(federation: Federation, bundle: str) -> None:
    environment = {
        "FLWR_HOME": str(federation.state / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    done = subprocess.run(
        [installed_command("flwr"), "run", bundle, "mtmd", "--format", "json"], env=child_environment(environment),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    if '"success": true' not in done.stdout:
        raise StuckError(
            f"Flower did not take the foreign bundle: {' '.join((done.stdout + done.stderr).split())[-300:]}"
        )
