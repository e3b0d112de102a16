"""Enrolling a site, and knocking at a server that another authority vouches for."""

import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from connect_proxy import ConnectProxy
from enrolled import enroll_site, make_certificates

from client.enroll import enroll
from client.knock import knocker
from client.settings import load_settings
from mtmd_core.errors import ConfigurationError, DataError, UnreachableError
from mtmd_core.site_card import read_card
from server.admission import Admission


def test_a_site_keeps_its_key_to_itself_and_all_settings_for_next_time(tmp_path: Path) -> None:
    authority = make_certificates(tmp_path / "federation").authority
    settings, card = enroll_site(tmp_path / "ankle", "ankle", "fed.org:9092", authority)
    assert (settings.server, settings.insecure, card.site) == ("fed.org:9092", False, "ankle")
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert settings.authority_file.read_bytes() == authority.read_bytes()
    assert "PRIVATE" not in (tmp_path / "ankle" / "ankle-card.json").read_text()
    assert enroll_site(tmp_path / "ankle", "ankle", "fed.org:9092", authority)[1] == card  # again: the same key


def test_a_stolen_key_is_replaced_and_never_let_in_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, admission = make_certificates(tmp_path / "federation").authority, Admission(tmp_path / "sites")
    state, now = tmp_path / "ankle", datetime(2026, 11, 30, tzinfo=UTC)
    settings, stolen = enroll_site(state, "ankle", "fed.org:9092", authority)
    admission.admit(stolen, now)
    capsys.readouterr()
    assert enroll(settings, {"state": state}, authority, new_key=True) == 0
    told, aside = capsys.readouterr().out, state / "site.key.before-1"
    assert f"made the key  {settings.key_file}" in told
    assert f"aside        {aside}, the key before: the coordinator must run `mtmd-server revoke ankle`" in told
    assert aside.stat().st_mode & 0o777 == 0o600
    card = read_card(state / "ankle-card.json")
    assert card.fingerprint != stolen.fingerprint
    admission.revoke("ankle", now)
    admission.admit(card, now)
    assert admission.is_admitted("ankle")
    with pytest.raises(ConfigurationError, match=r"another took its place.*`mtmd-client enroll --new-key`"):
        admission.admit(stolen, now)


def test_what_is_no_authority_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "federation")
    given = {"state": tmp_path / "ankle", "server": "fed.org:9092"}
    refusals = {
        certificates.server: "not the certificate of an authority",
        certificates.authority_key: "a private key, which nobody should ever be sent",
        tmp_path / "none.pem": "cannot be read",
    }
    for file, message in refusals.items():
        with pytest.raises(ConfigurationError, match=message):
            enroll(load_settings("ankle", given), given, file)
    assert not (tmp_path / "ankle").exists()


def test_another_authority_is_said_aloud_and_a_folder_without_exams_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (make_certificates(tmp_path / name).authority for name in ("one", "other"))
    said = []
    for authority in (first, first, second):
        enroll_site(tmp_path / "ankle", "ankle", "127.0.0.1:9", authority)
        kept = tmp_path / "ankle" / "authority.pem"
        kept.write_bytes(kept.read_bytes().replace(b"\n", b"\r\n"))  # as an editor leaves it
        said.append("ANOTHER THAN BEFORE" in capsys.readouterr().out)
    assert said == [False, False, True]
    given = {"state": tmp_path / "knee", "server": "127.0.0.1:9", "data": tmp_path / "one"}
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        enroll(load_settings("knee", given), given, first)
    assert not (tmp_path / "knee").exists()


@pytest.mark.parametrize(
    "content", [b"<html>", b"[]", b"no gzip", b"[" * 200_000, b'{"site": "\\u001b[2J\\u001b[31mankle"}']
)
def test_an_answer_that_is_none_moves_no_terminal(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = enroll_site(tmp_path / "ankle", "ankle", "127.0.0.1:9", make_certificates(tmp_path).authority)
    coded = {"content-encoding": "gzip"} if content == b"no gzip" else {}
    answers = httpx.MockTransport(lambda request: httpx.Response(200, headers=coded, stream=httpx.ByteStream(content)))
    monkeypatch.setattr("client.knock.httpx.Client", partial(httpx.Client, transport=answers))
    knock = knocker(settings)
    if b"site" not in content:
        assert knock() is False
        return
    with pytest.raises(UnreachableError, match=r"knows this key as \?\[2J\?\[31mankle"):
        knock()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    authority = make_certificates(tmp_path / "federation").authority
    settings, _ = enroll_site(tmp_path / "ankle", "ankle", "127.0.0.1:9", authority)
    settings.key_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        knocker(settings)


def test_a_server_of_another_authority_is_named_and_hears_nothing(tmp_path: Path) -> None:
    authority = make_certificates(tmp_path / "federation").authority
    impostor = make_certificates(tmp_path / "impostor")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(impostor.server, impostor.server_key)
    heard: list[object] = []

    def serve(listener: socket.socket) -> None:
        try:
            with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
                heard.append(connection.recv(100))
        except OSError as error:
            heard.append(type(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        settings, _ = enroll_site(tmp_path / "ankle", "ankle", address, authority)
        with pytest.raises(UnreachableError, match=r"is not the server that .* vouches for"):
            knocker(settings)()
        thread.join()
    assert not any(isinstance(words, bytes) and words for words in heard)


@pytest.mark.parametrize("refusal", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_proxy_that_opens_no_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    authority = make_certificates(tmp_path / "federation").authority
    settings, _ = enroll_site(tmp_path / "ankle", "ankle", "fed.example:9092", authority)
    with ConnectProxy(refusal) as proxy:
        for word, value in proxy.environment.items():
            monkeypatch.setenv(word, value)
        with pytest.raises(
            UnreachableError, match=rf"opens no way to fed.example:9092: {refusal}.*NO_PROXY=fed.example"
        ):
            knocker(settings)()
    assert [line.split(" HTTP")[0] for line in proxy.asked] == ["CONNECT fed.example:9092"]


def test_a_server_that_a_proxy_does_not_find_may_come_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = make_certificates(tmp_path / "federation").authority
    with socket.create_server(("127.0.0.2", 0)) as free:
        address = f"127.0.0.2:{free.getsockname()[1]}"
    settings, _ = enroll_site(tmp_path / "ankle", "ankle", address, authority)
    with ConnectProxy() as proxy:
        for word, value in proxy.environment.items():
            monkeypatch.setenv(word, value)
        assert knocker(settings)() is False
    assert [line.split(" HTTP")[0] for line in proxy.asked] == [f"CONNECT {address}"]
