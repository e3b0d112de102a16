"""Bundles that Flower itself builds, sent to a worker through a SuperNode's own API: ours is answered, others are refused."""

import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.clientapp import ClientApp
from local_supernode import BUNDLE, SECRET, serving

from client.bundle import LARGEST_DESCRIPTION_BYTES, ForeignBundleError, check_bundle
from client.flower_internals import APP_FAILED, Runtime
from client.worker import answer

OURS = (BUNDLE / "pyproject.toml").read_text()
CODE = """
from pathlib import Path
Path({marker!r}).touch()
from flwr.clientapp import ClientApp
app = ClientApp()
"""


def bundle_with(folder: Path, description: str = OURS, **files: str) -> bytes:
    """What ``flwr run`` would send for an app with these files."""
    app = folder / "app"
    app.mkdir(parents=True)
    for name, text in {"pyproject.toml": description, **{f"{name}.py": text for name, text in files.items()}}.items():
        (app / name).write_text(text)
    return build_fab_from_disk(app)


def test_code_that_comes_with_a_run_is_refused_logged_and_never_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundle's own ``client/app.py`` would be found under the very name that the installed app has."""
    marker, asked = tmp_path / "dropped", []
    bundle = bundle_with(tmp_path, evil_app=CODE.format(marker=str(marker)))
    app, events = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked.append(message)
        return Message(RecordDict(), reply_to=message)

    def tell(event: str, **details: Any) -> None:
        events.append({"event": event, **details})

    with serving(SECRET, bundle) as supernode:
        supernode.receive()
        runtime = Runtime(supernode.address, SECRET)
        answer(runtime, runtime.claim(), app, tell)
        runtime.close()
        (reply,) = supernode.replies()
        outcomes = supernode.outcomes()
    assert (reply.error.code, reply.error.reason) == (APP_FAILED, "bundle_refused")
    assert outcomes == [("finished", "failed", "bundle_refused")]
    assert [(event["event"], event.get("error")) for event in events] == [
        ("pulled", None),
        ("failed", "bundle_refused"),
    ]
    assert (asked, marker.exists()) == ([], False)
    assert "evil_app" not in sys.modules
    assert importlib.util.find_spec("evil_app") is None
    assert "it holds '.info/CONTENT', 'evil_app.py', 'pyproject.toml', where mtmd's holds" in caplog.text
    assert "evil_app" not in json.dumps(events)


def test_our_own_bundle_is_none_of_another_kind() -> None:
    check_bundle(build_fab_from_disk(BUNDLE))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("client.app:app", "evil:app"), "names the components"),
        (("server.app:app", "evil:app"), "names the components"),
        (("dependencies = []", 'dependencies = ["evil"]'), "wants 'evil' installed"),
    ],
)
def test_a_description_that_asks_for_something_else_is_refused(
    change: tuple[str, str], reason: str, tmp_path: Path
) -> None:
    assert change[0] in OURS
    archive = zipped({".info/CONTENT": "", "pyproject.toml": OURS.replace(*change)})
    with pytest.raises(ForeignBundleError, match=reason):
        check_bundle(archive)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not even an archive",
        b"PK\x03\x04",
        {"pyproject.toml": OURS},
        {".info/CONTENT": "", "pyproject.toml": OURS, "../client/app.py": "x"},
        {".info/CONTENT": "", "pyproject.toml": "["},
        {".info/CONTENT": "", "pyproject.toml": ""},
        {".info/CONTENT": "", "pyproject.toml": "tool = 3"},
        {".info/CONTENT": "", "pyproject.toml": "#" * LARGEST_DESCRIPTION_BYTES + OURS},
    ],
)
def test_nonsense_is_refused_and_not_read_to_its_end(content: bytes | dict[str, str]) -> None:
    with pytest.raises(ForeignBundleError):
        check_bundle(content if isinstance(content, bytes) else zipped(content))


def test_a_damaged_bundle_is_refused() -> None:
    content = build_fab_from_disk(BUNDLE)
    place = content.index(b"pyproject.toml") + len("pyproject.toml")
    with pytest.raises(ForeignBundleError, match="no bundle that can be read"):
        check_bundle(content[:place] + bytes(40) + content[place + 40 :])


def zipped(files: dict[str, str]) -> bytes:
    """An archive of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()
