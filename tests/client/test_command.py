"""``mtmd-client`` as a person meets it: real runs of the command that end before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest

from mtmd_core.processes import exclusive

LOUD = "PLAIN HTTP, nothing is encrypted and nobody shows who they are, for trials only"


def mtmd_client(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client.command", *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "exams"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "command",
    [(), ("enroll",), ("check",), ("import",), ("predict",), ("status",), ("ledger",), ("outbox",)],
)
def test_help_needs_neither_torch_nor_flower(command: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom client.command import main\n"
        f"try: main([*{command!r}, '--help'])\nexcept SystemExit as ended: assert ended.code == 0\n"
        "heavy = {'torch', 'flwr', 'hydra', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout or command


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--site"),
        (("--sitte", "ankle"), 2, "unknown word '--sitte'; did you mean '--site'?"),
        (("--site", "ankle", "chek"), 2, "unknown word 'chek'; did you mean 'check'?"),
        (("check", "--site", "ankle", "--dta", "x"), 2, "unknown word '--dta'; did you mean '--data'?"),
        (("--site", "Ankle"), 2, "'Ankle' cannot name a site"),
        (("--site", "ankle", "--threads", "0"), 2, "threads is 0"),
        (("--site", "ankle", "--strategies", "dsl,sharde"), 2, "'sharde'; did you mean 'shared'?"),
        (("--site", "ankle"), 2, "no server is set for ankle"),
        (("--site", "ankle", "--server", "127.0.0.1:9"), 2, "--insecure"),
        (("--site", "ankle", "--server", "10.0.0.1:9", "--insecure"), 2, "another machine"),
        (("--site", "ankle", "--server", "127.0.0.1:9", "--insecure"), 2, "no data folder is set for ankle"),
        (("check", "--site", "ankle"), 2, "no data folder is set for ankle"),
        (("--site", "ankle", "--server", "127.0.0.1:9", "--insecure", "--data", "."), 4, "no dataset.json"),
        (("status", "--site", "ankle"), 2, "holds no status: ankle has not run from there yet"),
        (("ledger", "verify", "--site", "ankle"), 2, "nothing has left this site yet"),
        (("ledger", "verfy", "--site", "ankle"), 2, "invalid choice: 'verfy'"),
        (("outbox", "--site", "ankle"), 2, "the following arguments are required: --dry-run"),
        (("outbox", "--dry-run", "--site", "ankle"), 2, "no data folder is set for ankle"),
        (("check", "--site", "ankle", "--data", "nowhere"), 4, "nowhere has no dataset.json"),
    ],
)
def test_refusals_say_what_to_do_and_leave_nothing_behind(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = mtmd_client(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_of_the_own_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sites" / "ankle").mkdir(parents=True)
    (tmp_path / "sites" / "ankle" / "site.yaml").write_text("sever: 127.0.0.1:9\n")
    done = mtmd_client("--site", "ankle", folder=tmp_path)
    assert done.returncode == 2
    assert "no key 'sever'; did you mean 'server'?" in done.stderr


def test_a_first_attempt_keeps_nothing_and_a_second_client_of_a_site_is_refused(tmp_path: Path, data: Path) -> None:
    state = tmp_path / "sites" / "ankle"
    words = ("--site", "ankle", "--server", "127.0.0.1:9", "--insecure", "--data", "exams")
    with exclusive(state, "mtmd-client"):
        done = mtmd_client(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, f"ankle: {LOUD}: --insecure\n")
    assert f"{state} is in use by another running mtmd-client" in done.stderr
    assert not (state / "site.yaml").exists()


def test_what_the_file_says_otherwise_and_plain_http_from_the_file_are_said_aloud(tmp_path: Path, data: Path) -> None:
    state = tmp_path / "sites" / "ankle"
    state.mkdir(parents=True)
    content = f"server: 127.0.0.1:9\ninsecure: true\ndata: {data}\n"
    (state / "site.yaml").write_text(content)
    with exclusive(state, "mtmd-client"):
        alone = mtmd_client("--site", "ankle", folder=tmp_path)
        given = mtmd_client("--site", "ankle", "--insecure", "--server", "127.0.0.1:10", folder=tmp_path)
    assert alone.stdout == f"ankle: {LOUD}: {state / 'site.yaml'} says 'insecure: true'\n"
    assert given.stdout == (
        "ankle: for this run only: server 127.0.0.1:10 (kept: 127.0.0.1:9); to change what is kept, edit "
        f"{state / 'site.yaml'}\n"
        f"ankle: {LOUD}: --insecure\n"
    )
    assert (state / "site.yaml").read_text() == content
