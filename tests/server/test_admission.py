"""Who is admitted: each key under one name, each name with one key, and a change is seen at once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mtmd_core.credentials import new_private_key, public_pem
from mtmd_core.errors import ConfigurationError
from mtmd_core.site_card import SiteCard, read_card, write_card
from server.admission import Admission
from server.admission_commands import sites

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def card(site: str, key: str | None = None) -> SiteCard:
    return SiteCard(site, key or public_pem(new_private_key().public_key()))


def test_admitting_and_revoking_touch_one_site_and_are_seen_by_who_reads_already(tmp_path: Path) -> None:
    admission, running = Admission(tmp_path), Admission(tmp_path)
    ankle, knee = card("ankle"), card("knee")
    assert running.entries() == {}
    admission.admit(ankle, NOW)
    admission.admit(knee, NOW)
    assert running.of_key(knee.fingerprint).card == knee
    before = (tmp_path / "admission" / "ankle.json").stat()
    admission.revoke("knee", NOW)
    assert (running.is_admitted("ankle"), running.is_admitted("knee")) == (True, False)
    assert running.of_key(knee.fingerprint).revoked == "2026-11-24T12:00:00+00:00"
    assert (tmp_path / "admission" / "ankle.json").stat().st_ino == before.st_ino
    assert admission.admit(knee, NOW).revoked is not None
    assert running.is_admitted("knee")


def test_a_name_with_another_key_is_refused_until_it_is_revoked(tmp_path: Path) -> None:
    admission, old, new = Admission(tmp_path), card("ankle"), card("ankle")
    admission.admit(old, NOW)
    with pytest.raises(ConfigurationError, match=r"another key.*mtmd-server revoke ankle"):
        admission.admit(new, NOW)
    assert admission.of_key(new.fingerprint) is None
    admission.revoke("ankle", NOW)
    admission.admit(new, NOW)
    assert admission.of_key(new.fingerprint).card == new
    assert admission.is_admitted("ankle")


def test_a_revoked_key_is_refused_under_any_name_after_others_took_its_place(tmp_path: Path) -> None:
    admission, running = Admission(tmp_path), Admission(tmp_path)
    old, newer, newest = card("ankle"), card("ankle"), card("ankle")
    admission.admit(old, NOW)
    for key in (newer, newest):
        admission.revoke("ankle", NOW)
        admission.admit(key, NOW)
    assert running.is_admitted("ankle")
    for lost in (old, newer):
        assert running.of_key(lost.fingerprint).revoked == "2026-11-24T12:00:00+00:00"
        for name in ("ankle", "knee"):
            with pytest.raises(ConfigurationError, match=r"was revoked as ankle on 2026-11-24.*under any name"):
                admission.admit(card(name, lost.public_key), NOW)
    admission.revoke("ankle", NOW)
    with pytest.raises(ConfigurationError, match="under any name"):
        admission.admit(old, NOW)
    assert admission.admit(newest, NOW).card == newest
    assert set(running.replaced()) == {old.fingerprint, newer.fingerprint}


def test_a_record_of_a_revoked_key_that_cannot_be_read_is_no_leave(tmp_path: Path) -> None:
    admission, old = Admission(tmp_path), card("ankle")
    admission.admit(old, NOW)
    admission.revoke("ankle", NOW)
    admission.admit(card("ankle"), NOW)
    (file,) = (tmp_path / "admission" / "revoked").iterdir()
    file.write_text("{")
    with pytest.raises(ConfigurationError, match=r"put it back from a copy"):
        Admission(tmp_path).of_key(old.fingerprint)


def test_sites_are_listed_with_all_their_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    admission, old, new = Admission(tmp_path), card("ankle"), card("ankle")
    admission.admit(old, NOW)
    admission.revoke("ankle", NOW)
    admission.admit(new, NOW)
    assert sites(["--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ankle  admitted  2026-11-24T12:00:00+00:00",
        f"  fingerprint  {new.fingerprint}",
        f"  former key   {old.fingerprint}, revoked 2026-11-24T12:00:00+00:00",
    ]


def test_a_key_has_one_name_also_once_it_is_revoked(tmp_path: Path) -> None:
    admission, ankle = Admission(tmp_path), card("ankle")
    admission.admit(ankle, NOW)
    with pytest.raises(ConfigurationError, match="admitted as ankle and cannot be knee"):
        admission.admit(card("knee", ankle.public_key), NOW)
    admission.revoke("ankle", NOW)
    with pytest.raises(ConfigurationError, match="revoked as ankle"):
        admission.admit(card("knee", ankle.public_key), NOW)


def test_revoking_whom_nobody_admitted_names_those_who_are(tmp_path: Path) -> None:
    admission = Admission(tmp_path)
    admission.admit(card("knee"), NOW)
    with pytest.raises(ConfigurationError, match="no site 'ankle' was admitted here; known are: knee"):
        admission.revoke("ankle", NOW)


def test_a_card_survives_its_file_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file, ankle = tmp_path / "ankle-card.json", card("ankle")
    write_card(file, ankle)
    assert read_card(file) == ankle
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_card(tmp_path / "none.json")
    for text in ("", "[]", "{}", '{"site": "ankle", "public_key": "no key"}', '{"site": "ankle", "key": 1}'):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match="is not a site's card"):
            read_card(file)
