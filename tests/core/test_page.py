"""Pages: nothing that is put into one breaks it, nothing is fetched, and every number is there with its exact value."""

import json
import re
from pathlib import Path

import pytest

from mtmd_core.page.best_effort import best_effort
from mtmd_core.page.charts import DASHES, Interval, Line, interval_chart, line_chart, ticks
from mtmd_core.page.document import Section, document
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, element
from mtmd_core.page.numbers import number, spread
from mtmd_core.page.rounds import read_lines, rounds, totals
from mtmd_core.page.scores import scores
from mtmd_core.page.tables import table

EVIL = "<script>alert('x')</script>\" onload=\"x"


def test_names_from_users_are_text_wherever_they_stand() -> None:
    lines = [{"round": 1, "site": EVIL, "loss": 1.0}, {"round": 2, "site": EVIL, "loss": 0.5}]
    summary = {"sites": {EVIL: {"foreground_mean": {"dice": 0.5}, "mean": {EVIL: {"dice": 0.5}}}}}
    body = [rounds(lines, totals(lines)), scores(summary), table(EVIL, [EVIL], [[EVIL]])]
    body.append(interval_chart(EVIL, [Interval(EVIL, 1.0, 0.5, 2.0)]))
    page = document(EVIL, Html("".join(body)), [Section("a", EVIL, element("p", EVIL))], notice=EVIL)
    assert "<script" not in page
    assert '" onload' not in page
    assert page.count("&lt;script&gt;") > 10


def test_a_page_forbids_every_fetch() -> None:
    page = document("a run", "", [])
    assert "Content-Security-Policy" in page
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"""(src|href)="?https?:|url\(|@import|<link|<script""", page)


def test_sections_without_content_are_neither_shown_nor_listed() -> None:
    page = document("t", "", [Section("a", "A", Html("x")), Section("b", "B", Html()), Section("c", "C", Html("y"))])
    assert re.findall(r'href="#(\w)"', page) == re.findall(r'<section id="(\w)"', page) == ["a", "c"]


def test_numbers_carry_their_value_and_undefined_ones_are_dashes() -> None:
    assert number(0.81234, 1, 100) == '<data value="0.81234">81.2</data>'
    assert number(None) == number(float("nan")) == "–"
    assert spread("dice", 0.5, None) == '<data value="0.5">50.0</data>'
    assert re.findall(r'value="([\d.]+)"', spread("dice", 0.5, 0.25)) == ["0.5", "0.25"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.13, 0.92), (-3.0, 1e6), (5e-9, 6e-9), (41.0, 41.0)])
def test_ticks_enclose_what_is_drawn_and_are_few(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert 2 <= len(marks) <= 8
    assert marks == sorted(set(marks))


def test_lines_differ_in_more_than_colour_and_gaps_stay_out() -> None:
    gap = float("nan")
    lines = [Line(f"site {n}", [(1, 0.1 * n), (2, gap), (3, 0.2 * n)]) for n in range(5)]
    chart = line_chart("Dice", [*lines, Line("silent", [])], "round")
    assert set(re.findall(r'stroke-dasharray="([^"]*)"', chart)) == set(DASHES)
    assert len(re.findall(r"<(?:circle|polygon)", chart)) == 10
    assert "nan" not in chart
    assert line_chart("Dice", [Line("silent", [])], "round") == ""


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "round_metrics.jsonl"
    file.write_text('{"round": 1, "site": "knee", "loss": 1}\n{"round": 2, "si')
    assert [line["round"] for line in read_lines(file)] == [1]
    assert read_lines(tmp_path / "nothing.jsonl") == []


def test_sums_are_those_of_the_lines() -> None:
    lines = [{"round": r, "site": "knee", "bytes_to_site": 10 * r, "seconds_training": 0.5} for r in (1, 2, 3)]
    assert totals(lines) == {"knee": {"rounds": 3, "bytes_to_site": 60, "seconds_training": 1.5}}


def test_pictures_are_inside_the_page_with_their_captions(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("predictions.png", "figures/tsne.png", "figures/other.png"):
        (tmp_path / name).write_bytes(b"\x89PNG")
    (tmp_path / "figures" / "captions.json").write_text(json.dumps({"tsne.png": "Embeddings <b>"}))
    shown = figures(tmp_path)
    assert re.findall(r'alt="([^"]*)"', shown) == ["predictions", "other", "Embeddings &lt;b&gt;"]
    assert shown.count('src="data:image/png;base64,iVBORw==') == 3


def test_a_site_that_released_nothing_is_named(tmp_path: Path) -> None:
    summary = {"sites": {"ankle": {}, "knee": {"foreground_mean": {"dice": 0.25}}}}
    assert "Without a score: ankle." in scores(summary)
    assert "No site has released" in scores({"sites": {"ankle": {}}})


def test_a_page_that_fails_costs_nothing_else_and_is_told(caplog):
    with best_effort("the page"):
        raise KeyError("a number that nobody measured")
    assert "the page could not be written; nothing else is lost" in caplog.text
    assert "a number that nobody measured" in caplog.text
    with pytest.raises(KeyboardInterrupt), best_effort("the page"):
        raise KeyboardInterrupt
