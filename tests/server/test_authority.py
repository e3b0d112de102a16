"""The federation's certificates: what they hold for, who may read their keys, and what is never overwritten."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from enrolled import make_certificates

from mtmd_core.errors import ConfigurationError
from server.authority import (
    create_authority,
    issue_server_certificate,
    load_certificate,
    names_in,
    require_certificates,
    require_names,
)
from server.command import main


def test_the_certificate_holds_for_the_given_names_and_loopback(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "fed.hospital.org", "192.0.2.7", "2001:db8::7")
    server = load_certificate(certificates.server)
    assert names_in(server) == ["fed.hospital.org", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1"]
    server.verify_directly_issued_by(load_certificate(certificates.authority))
    trusted = ssl.create_default_context(cafile=str(certificates.authority))
    assert len(trusted.get_ca_certs()) == 1
    assert require_certificates(tmp_path) == certificates


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    modes = [file.stat().st_mode & 0o777 for file in (certificates.authority_key, certificates.server_key)]
    assert modes == [0o600, 0o600]


def test_an_authority_is_never_overwritten_and_a_renewed_server_stays_under_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates = make_certificates(tmp_path, "old.org")
    authority, server = certificates.authority.read_bytes(), certificates.server.read_bytes()
    assert main(["init", "--state", str(tmp_path), "--name", "new.org"]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert main(["init", "--state", str(tmp_path), "--name", "new.org", "--renew"]) == 0
    assert "those that call it old.org, which it is no longer" in (said := capsys.readouterr().out)
    assert f"init --state {tmp_path} --renew --name old.org --name new.org` makes it all of these" in said
    assert certificates.authority.read_bytes() == authority
    assert certificates.server.read_bytes() != server
    assert main(["init", "--state", str(tmp_path), "--renew"]) == 0
    assert names_in(load_certificate(certificates.server)) == ["new.org", "localhost", "127.0.0.1"]
    assert "no longer" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "https://fed.org", "fed.org:9092", "300.1.1.1", "a b", "-x.org"])
def test_names_that_no_machine_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name nor an IP address"):
        require_names([name])
    assert main(["init", "--state", str(tmp_path), f"--name={name}"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_expired_certificate_is_named_with_what_to_do(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    certificates.authority_key.unlink()
    certificates.authority.unlink()
    long_ago = datetime.now(UTC) - timedelta(days=900)
    create_authority(certificates, long_ago)
    issue_server_certificate(certificates, [], long_ago)
    with pytest.raises(ConfigurationError, match=r"has expired.*--renew"):
        require_certificates(tmp_path)


@pytest.mark.parametrize("damage", ["no certificate", "another key", "no key"])
def test_a_certificate_that_cannot_be_used_is_named_and_made_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates, other = make_certificates(tmp_path), make_certificates(tmp_path / "other")
    if damage == "no certificate":
        certificates.server.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif damage == "another key":
        certificates.server_key.write_bytes(other.server_key.read_bytes())
    else:
        certificates.server_key.unlink()
    with pytest.raises(ConfigurationError, match=r"server.key beside it cannot be used .*--renew --name HOST"):
        require_certificates(tmp_path)
    assert main(["init", "--renew", "--name", "federation.hospital.org", "--state", str(tmp_path)]) == 0
    assert names_in(load_certificate(require_certificates(tmp_path).server))[0] == "federation.hospital.org"
