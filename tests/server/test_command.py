"""``mtmd-server``: its settings, and real runs of the command that end before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import exclusive
from mtmd_core.settings import shipped_layer
from server.settings import ServerSettings, differing, load_settings, parse_sites, remember


def mtmd_server(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.command", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_shipped_yaml_and_dataclass_state_the_same_defaults(tmp_path: Path) -> None:
    shipped = shipped_layer("server")
    bare = ServerSettings(state=tmp_path)
    assert {key: getattr(bare, key) for key in shipped} == {**shipped, "overrides": ()}


def test_command_line_wins_over_own_file_and_overrides_add_up(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text("port: 1\nsites: [ankle, knee]\noverrides: [seed=1, fold=2]\n")
    own = load_settings({"state": tmp_path})
    assert (own.port, own.sites) == (1, ["ankle", "knee"])
    settings = load_settings({"state": tmp_path, "port": 2, "overrides": ["seed=3"], "insecure": None})
    assert (settings.port, settings.insecure) == (2, False)
    assert settings.run_overrides() == [
        "federation.expected_sites=2",
        "federation.site_names=[ankle,knee]",
        "seed=1",
        "fold=2",
        "seed=3",
    ]


def test_what_was_given_once_is_enough_for_next_time(tmp_path: Path) -> None:
    words = ["federation.rounds=5", "network.width=8"]
    given = {"state": tmp_path, "sites": ["ankle", "knee"], "port": 9193, "insecure": True, "overrides": words}
    first = load_settings(given)
    assert differing(first, given) == ""
    assert remember(first, given) == tmp_path / "server.yaml"
    nothing = {"state": tmp_path, "sites": None, "port": None, "insecure": None, "overrides": []}
    assert load_settings(nothing) == first
    assert load_settings(given) == first  # the same words again count once
    assert differing(first, given) == differing(first, nothing) == ""


def test_an_own_file_is_never_overwritten_nor_written_for_nothing(tmp_path: Path) -> None:
    nothing = {"state": tmp_path, "sites": None, "port": None, "insecure": None, "overrides": []}
    assert remember(load_settings(nothing), nothing) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "server.yaml").write_text("port: 1\n")
    given = {**nothing, "port": 2}
    assert remember(load_settings(given), given) is None
    assert (tmp_path / "server.yaml").read_text() == "port: 1\n"


def test_words_that_the_own_file_keeps_otherwise_win_and_are_named_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text("sites: 2\noverrides: [seed=1, federation.rounds=5]\n")
    given = {"state": tmp_path, "sites": 3, "port": 9092, "overrides": ["federation.rounds=5", "fold=1", "seed=2"]}
    settings = load_settings(given)
    assert (settings.sites, settings.overrides) == (3, ("seed=1", "federation.rounds=5", "fold=1", "seed=2"))
    assert differing(settings, given) == (
        "for this run only: sites 3 (kept: 2), fold 1 (kept: nothing), seed 2 (kept: 1); to change what is kept, edit "
        f"{tmp_path / 'server.yaml'}"
    )


def test_the_coordinators_folder_is_called_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).state == tmp_path / "federation"


def test_a_number_of_sites_and_names_of_sites() -> None:
    assert parse_sites("3") == 3
    assert parse_sites("ankle, knee") == ["ankle", "knee"]
    assert ServerSettings(state=Path("x"), sites=3).run_overrides() == ["federation.expected_sites=3"]
    assert ServerSettings(state=Path("x")).run_overrides() == []


@pytest.mark.parametrize("text", ["0", "", "ankle,", "ankle,ankle"])
def test_sites_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigurationError, match="number of at least 1, or different names"):
        parse_sites(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", "no key 'prot'; did you mean 'port'"),
        ("port: 0", "port is 0"),
        ("port: true", "port is True"),
        ("page_port: -1", "page_port is -1"),
        ("sites: 0", "sites is 0"),
        ("overrides: seed=1", "overrides is 'seed=1'"),
        ("insecure: yes please", "insecure is 'yes please'"),
        ("grace_seconds: -1", "grace_seconds is -1"),
    ],
)
def test_own_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings({"state": tmp_path})
    assert message in str(refused.value)


@pytest.mark.parametrize("command", [(), ("status",), ("readmit",)])
def test_help_needs_neither_torch_nor_flower(command: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom server.command import main\n"
        f"try: main([*{command!r}, '--help'])\nexcept SystemExit as ended: assert ended.code == 0\n"
        "heavy = {'torch', 'flwr', 'hydra', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout or command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--site", "3"), "unknown word '--site'; did you mean '--sites'?"),
        (("staus",), "unknown word 'staus'; did you mean 'status'?"),
        (("status",), "holds no run: none was begun there yet, or give the --state folder"),
        (("readmit", "knee"), "'knee' is not set aside in the run of"),
        (("--sites", "0", "--insecure"), "sites is 0"),
        (("--sites", "3"), "--insecure"),
        (("seed=1", "--insecure", "federation.round=3", "--sites", "3"), "did you mean 'federation.rounds'?"),
        (("--insecure", "federation.round=3"), "did you mean 'federation.rounds'?"),
        (("--insecure", "--sites", "Ankle,knee"), "'Ankle' cannot name a site"),
    ],
)
def test_refusals_say_what_to_do_and_leave_nothing_behind(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = mtmd_server(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = mtmd_server("--insecure", "--port", str(port), folder=tmp_path)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in done.stderr


def test_a_second_server_of_a_folder_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "federation", "mtmd-server"):
        done = mtmd_server("--insecure", folder=tmp_path)
    assert done.returncode == 2
    assert "in use by another running mtmd-server" in done.stderr
