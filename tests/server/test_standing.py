"""Who was refused how often, who is set aside, and who comes back."""

from pathlib import Path

import pytest

from mtmd_core.errors import ConfigurationError
from mtmd_core.refusals import Reason
from mtmd_core.wire import Notice
from server.readmit import readmit
from server.standing import REQUESTS, Standing, read_standing

NORM = Reason.OUTLYING_NORM


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    return Standing(tmp_path, patience=3)


def refuse(standing: Standing, *rounds: int) -> list[bool]:
    return [standing.refused("knee", "abc", round_, NORM, "too long") for round_ in rounds]


def ask(folder: Path, site: str) -> Path:
    (folder / REQUESTS).mkdir(exist_ok=True)
    request = folder / REQUESTS / site
    request.touch()
    return request


def test_a_site_is_set_aside_after_refusals_in_a_row(standing: Standing) -> None:
    assert refuse(standing, 1, 2) == [False, False]
    assert standing.notice("knee") == Notice("abc", 2, "outlying_norm", 2, False)
    standing.admitted({"knee", "ankle"})
    assert standing.notice("knee") is None
    assert refuse(standing, 4, 5, 6) == [False, False, True]
    assert standing.set_aside() == ["knee"]
    assert standing.notice("knee") == Notice("abc", 6, "outlying_norm", 3, True)
    assert standing.of("knee").refusals == 5


def test_a_round_that_comes_again_after_a_crash_counts_once(standing: Standing, tmp_path: Path) -> None:
    refuse(standing, 1, 2)
    again = Standing(tmp_path, patience=3)
    assert refuse(again, 2) == [False]
    assert again.of("knee").refusals == 2
    assert again.refused("knee", "abc-autoencoder", 2, NORM, "") is True  # a round of another phase is another


def test_standing_is_on_disk_at_once(standing: Standing, tmp_path: Path) -> None:
    refuse(standing, 1, 2, 3)
    assert read_standing(tmp_path) == standing.sites
    assert Standing(tmp_path, patience=3).set_aside() == ["knee"]


def test_a_request_readmits_a_site_that_is_here(standing: Standing, tmp_path: Path) -> None:
    refuse(standing, 1, 2, 3)
    request = ask(tmp_path, "knee")
    assert standing.readmit(here=["ankle"]) == []
    assert request.exists()  # until it comes
    assert standing.readmit(here=["ankle", "knee"]) == ["knee"]
    assert not request.exists()
    assert (standing.set_aside(), standing.notice("knee")) == ([], None)
    assert refuse(standing, 5, 6) == [False, False]  # counted anew


def test_a_request_for_a_site_that_is_not_set_aside_changes_nothing(standing: Standing, tmp_path: Path) -> None:
    request = ask(tmp_path, "ankle")
    assert standing.readmit(here=["ankle"]) == []
    assert not request.exists()


def test_a_new_run_begins_with_a_clean_standing(standing: Standing, tmp_path: Path) -> None:
    refuse(standing, 1, 2, 3)
    request = ask(tmp_path, "knee")
    standing.begin()
    assert (standing.sites, read_standing(tmp_path), request.exists()) == ({}, {}, False)


def test_a_damaged_file_is_begun_anew_and_said_so(
    standing: Standing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(standing, 1, 2, 3)
    path = tmp_path / "standing.json"
    path.write_text(path.read_text()[:20])
    again = Standing(tmp_path, patience=3)
    assert (again.sites, "asked again" in caplog.text) == ({}, True)
    assert refuse(again, 4) == [False]
    assert read_standing(tmp_path) == again.sites


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"knee": 3}', '{"knee": {}}', '{"knee": {"in_a_row": [], "colour": 1}}']
)
def test_commands_say_that_the_file_is_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "standing.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"standing.json is damaged: put it back"):
        readmit(tmp_path, "knee")
