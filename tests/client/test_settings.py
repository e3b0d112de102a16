"""A site's settings: which layer wins, what is refused, and what is kept for next time."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from client.settings import SiteSettings, differing, from_plain, load_settings, remember, require_server, to_plain
from mtmd_core.errors import ConfigurationError
from mtmd_core.minimum import MINIMUM, Minimum
from mtmd_core.settings import address, shipped_layer


def test_shipped_yaml_and_dataclass_state_the_same_defaults(tmp_path: Path) -> None:
    shipped = shipped_layer("client")
    bare = SiteSettings(site="ankle", state=tmp_path)
    assert {key: getattr(bare, key) for key in shipped} == {**shipped, "strategies": tuple(shipped["strategies"])}
    unset = {entry.name for entry in fields(SiteSettings)} - set(shipped)
    assert unset == {"site", "state", "data", "server"}


def test_command_line_wins_over_own_file_wins_over_shipped(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("threads: 3\npoll_seconds: 0.7\nlimits: {max_local_steps: 9}\n")
    settings = load_settings("ankle", {"state": tmp_path, "threads": 5, "device": None})
    assert (settings.threads, settings.poll_seconds, settings.device) == (5, 0.7, "auto")
    assert settings.limits["max_local_steps"] == 9
    assert settings.limits["max_batch_size"] == shipped_layer("client")["limits"]["max_batch_size"]


def test_state_defaults_to_a_folder_named_after_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings("knee_2", {}).state == tmp_path / "sites" / "knee_2"


def test_relative_data_is_relative_to_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    assert load_settings("knee", {"state": state, "data": Path("exams")}).data == tmp_path / "exams"
    (state / "site.yaml").write_text("data: exams\n")
    assert load_settings("knee", {"state": state}).data == state / "exams"


@pytest.mark.parametrize("name", ["", "Ankle", "1st", "_x", "a-b", "a" * 41, "ankle\n", "../x"])
def test_names_that_cannot_name_a_site(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lower-case letters, digits and underscores"):
        load_settings(name, {"state": tmp_path})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thread: 2", "site.yaml has no key 'thread'; did you mean 'threads'"),
        ("state: x", "has no key 'state'"),
        ("limits: {max_local_step: 2}", "limits has no key 'max_local_step'; did you mean 'max_local_steps'"),
        ("limits: {max_local_steps: 0}", "limits.max_local_steps is 0"),
        ("limits: 3", "limits is 3"),
        ("threads: two", "threads is 'two'"),
        ("threads: true", "threads is True"),
        ("release: all", "release is 'all'; it must be one of none, mean, structure"),
        ("device: gpu", "device is 'gpu'"),
        ("insecure: 1", "insecure is 1"),
        ("strategies: [individual, sharde]", "strategies names 'sharde'; did you mean 'shared'"),
        ("strategies: dsl", "strategies is 'dsl'; it must be a list such as [individual, dsl]"),
        ("strategies: []", "strategies is []"),
        ("minimum_exams: 2", "minimum_exams is 2; it must be a whole number of at least 3"),
        ("minimum_slices: 49", "minimum_slices is 49; it must be a whole number of at least 50"),
        ("slices_per_exam: 0", "slices_per_exam is 0"),
        ("noise_multiplier: -1", "noise_multiplier is -1; it must be a finite number of at least 0"),
        ("delta: 1", "delta is 1; it must be a finite number above 0 and below 1"),
        ("max_epsilon: 3", "without noise_multiplier no epsilon is finite"),
        ("poll_seconds: 0", "poll_seconds is 0"),
        ("connect_timeout_seconds: .inf", "connect_timeout_seconds is inf"),
        ("server: localhost", "HOST:PORT"),
        ("site: knee", "belongs to the site 'knee', not 'ankle'"),
        ("- a", "holds list"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_own_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings("ankle", {"state": tmp_path})
    assert message in str(refused.value)


def test_what_was_given_once_is_enough_for_next_time(tmp_path: Path) -> None:
    given = {
        "state": tmp_path,
        "data": tmp_path / "exams",
        "server": "127.0.0.1:9092",
        "insecure": True,
        "threads": None,
        "strategies": ["dsl", "shared"],
    }
    first = load_settings("ankle", given)
    assert remember(first, given) == tmp_path / "site.yaml"
    assert load_settings("ankle", {"state": tmp_path}) == first
    assert "threads" not in yaml.safe_load((tmp_path / "site.yaml").read_text())


def test_an_own_file_is_never_overwritten_nor_written_for_nothing(tmp_path: Path) -> None:
    settings = load_settings("ankle", {"state": tmp_path})
    assert remember(settings, {"state": tmp_path, "threads": None}) is None
    assert not (tmp_path / "site.yaml").exists()
    (tmp_path / "site.yaml").write_text("threads: 3\n")
    assert remember(settings, {"threads": 4}) is None
    assert (tmp_path / "site.yaml").read_text() == "threads: 3\n"


def test_what_the_own_file_does_not_keep_is_named_on_one_line(tmp_path: Path) -> None:
    given = {"state": tmp_path, "data": tmp_path / "exams", "threads": 4, "release": "mean", "strategies": ["dsl"]}
    settings = load_settings("ankle", given)
    assert differing(settings, given) == ""  # without a file nothing is kept yet, and nothing contradicted
    (tmp_path / "site.yaml").write_text("data: exams\nthreads: 3\n")
    assert differing(settings, given) == (
        "for this run only: threads 4 (kept: 3), strategies dsl (kept: individual,dsl); "
        f"to change what is kept, edit {tmp_path / 'site.yaml'}"
    )
    again = {"state": tmp_path, "threads": 3}
    assert differing(load_settings("ankle", again), again) == ""


def test_a_site_does_not_train_under_shared_unless_it_says_so(tmp_path: Path) -> None:
    assert load_settings("ankle", {"state": tmp_path}).strategies == ("individual", "dsl")
    assert load_settings("ankle", {"state": tmp_path, "strategies": ["shared"]}).strategies == ("shared",)


def test_settings_survive_the_way_to_the_worker(tmp_path: Path) -> None:
    for given in ({}, {"data": tmp_path / "exams", "server": "127.0.0.1:1", "limits": {"max_batch_size": 4}}):
        settings = load_settings("ankle", {"state": tmp_path, **given})
        assert from_plain(to_plain(settings)) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [("localhost:80", ("localhost", 80)), ("[::1]:9092", ("::1", 9092)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:x", "::1:80", "http://h:80", "h:²"]
)
def test_texts_that_are_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        address(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no server is set"),
        ({"server": "127.0.0.1:80"}, "--insecure"),
        ({"server": "10.0.0.1:80", "insecure": True}, "another machine"),
        ({"server": "127.evil.org:80", "insecure": True}, "another machine"),
    ],
)
def test_servers_that_a_site_may_not_talk_to(given: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        require_server(load_settings("ankle", {"state": tmp_path, **given}))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_servers_on_this_machine(host: str, tmp_path: Path) -> None:
    settings = load_settings("ankle", {"state": tmp_path, "server": f"{host}:80", "insecure": True})
    assert require_server(settings) == (host.strip("[]"), 80)


def test_a_site_asks_for_as_many_exams_and_slices_as_every_prototype_must_have():
    bare = SiteSettings(site="ankle", state=Path("sites/ankle"))
    assert Minimum(bare.minimum_exams, bare.minimum_slices) == MINIMUM
