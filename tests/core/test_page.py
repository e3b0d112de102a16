"""Pages: nothing that is put into one breaks it, nothing is fetched, and every number is there with its exact value."""

import json
import re
from pathlib import Path

import pytest

from mtmd_core.durable import read_json_lines
from mtmd_core.page.best_effort import best_effort
from mtmd_core.page.charts import DASHES, Interval, Line, interval_chart, line_chart, ticks
from mtmd_core.page.document import Section, document
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, element
from mtmd_core.page.numbers import number, spread
from mtmd_core.page.rounds import rounds, totals
from mtmd_core.page.scores import scores
from mtmd_core.page.similarities import from_prototypes, sampled
from mtmd_core.page.tables import narrow_tables, table

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


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 0.0),
        (0.13, 0.92),
        (-3.0, 1e6),
        (5e-9, 6e-9),
        (41.0, 41.0),
        (1.0, 1.0 + 2**-52),
        (1e12, 1e12 + 1e-4),
        (0.0, 5e-324),
        (5e-324, 5e-324),
    ],
)
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
    assert [line["round"] for line in read_json_lines(file)] == [1]
    assert read_json_lines(tmp_path / "nothing.jsonl") == []


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


SIMILARITIES = [
    {"scale": scale, "domain": one, "other_domain": other, "mean": mean, "deviation": 0.125, "pairs": 100_000}
    for scale in ("s1", "s5")
    for one, other, mean in (("ankle", "ankle", 0.875), ("knee", "knee", 0.9375), ("ankle", "knee", 0.25))
]


def test_similarities_have_a_row_two_sites_and_a_column_a_scale() -> None:
    shown = sampled(SIMILARITIES)
    assert re.findall(r'scope="(?:col|row)"[^>]*>([^<]*)<', shown) == [
        *("Sites", "s1", "s5"),
        *("within ankle", "within knee", "ankle – knee"),
    ]
    assert shown.count('value="0.125"') == 6
    assert sampled([]) == ""


def test_what_prototypes_tell_says_where_it_comes_from() -> None:
    lines = [line | {"minus_pooled": -0.0625} for line in SIMILARITIES]
    own = from_prototypes({"lines": lines, "rounds": {"ankle": 3, "knee": 3}}, within=False)
    assert "within" not in own.replace("within=", "")
    assert own.count('value="-0.0625"') == 2
    assert "prototypes of round 3" in own
    told = from_prototypes({"lines": SIMILARITIES, "rounds": {"ankle": 3, "knee": 2}}, within=True)
    assert "within knee" in told
    assert "rounds 3 (ankle), 2 (knee)" in told
    assert "pooled" not in told
    assert "sends no prototypes" in from_prototypes({"lines": SIMILARITIES, "rounds": {}}, within=False)
    assert from_prototypes({}, within=True) == ""


def test_a_table_of_many_columns_comes_in_parts_that_name_their_rows() -> None:
    header = ["site", "round", *(f"c{place}" for place in range(7))]
    whole = narrow_tables("As measured", header, [["knee", number(1), *map(number, range(7))]], kept=2, most=5)
    assert re.findall(r"<caption>([^<]*)", whole) == [f"As measured, {part} of 3" for part in (1, 2, 3)]
    assert whole.count(">knee</th>") == 3
    assert [whole.count(f">c{place}<") for place in range(7)] == [1] * 7
    assert "1 of" not in narrow_tables("Few", header[:4], [["knee", number(1), number(2), number(3)]], kept=2, most=5)


def test_what_is_nothing_when_rounded_has_no_sign_and_minus_is_as_wide_as_plus() -> None:
    assert number(-0.0001, 2, sign=True) == '<data value="-0.0001">0.00</data>'
    assert number(-0.5, 1, sign=True) == '<data value="-0.5">−0.5</data>'
    assert number(0.5, 1, sign=True) == '<data value="0.5">+0.5</data>'


def test_an_axis_of_amounts_begins_at_zero() -> None:
    amounts = Line("ankle", [(1, 4.4e6), (2, 4.5e6)])
    assert ">0</text>" in line_chart("Bytes", [amounts], "round", enclosing=(0,))
    assert ">0</text>" not in line_chart("Bytes", [amounts], "round")


def test_a_page_that_fails_costs_nothing_else_and_is_told(caplog):
    with best_effort("the page"):
        raise KeyError("a number that nobody measured")
    assert "the page could not be written; nothing else is lost" in caplog.text
    assert "a number that nobody measured" in caplog.text
    with pytest.raises(KeyboardInterrupt), best_effort("the page"):
        raise KeyboardInterrupt
