"""The plot shows what was found, and what chance gives; the page around it needs nothing from outside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import Made, baseline, long_session, make_run, session

from xar_agent.analysis.plots import COLOURS, PAPER, draw_best_so_far
from xar_agent.analysis.report import RunReport, read_report
from xar_agent.analysis.report_page import render_page
from xar_agent.jobs.runs import RunStore


def report_of(folder: Path) -> RunReport:
    """The report of a run on disk."""
    with RunStore.open(folder, read_only=True) as store:
        return read_report(store)


def words_of(svg: bytes) -> list[str]:
    """All text of a drawing."""
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


class Page(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_plot_names_all_that_it_shows(tmp_path: Path) -> None:
    words = words_of(draw_best_so_far(report_of(make_run(tmp_path, session())))["svg"])
    for label in (
        "val_loss (lower is better)",
        "best so far",
        "baseline mean (n = 20)",
        "luck alone: expected best",
        "better than the baseline (2)",
        "within noise (2)",
        "worse (1)",
        "failed or invalid (4)",
        "the same code as an earlier idea (1)",
    ):
        assert label in words


def test_a_score_far_off_is_drawn_at_the_edge_and_does_not_squeeze_the_others(tmp_path: Path) -> None:
    words = words_of(draw_best_so_far(report_of(make_run(tmp_path, [*session(), Made("Diverges.", [95.0])])))["svg"])
    assert "worse, off the scale (1)" in words
    ticks = [float(word) for word in words if re.fullmatch(r"\d\.\d+", word)]
    assert max(ticks) < 3


def test_nothing_is_drawn_before_the_first_result(tmp_path: Path) -> None:
    assert draw_best_so_far(report_of(make_run(tmp_path, [Made("At work.", open=True)]))) == {}


@pytest.mark.parametrize(
    "ideas",
    [[Made("a", [2.4])], [Made("a", outcome="gave_up")], [Made("a", [2.5], tree="x"), Made("b", [2.5])]],
    ids=["one score", "no score", "equal scores"],
)
def test_little_is_drawn_as_well(tmp_path: Path, ideas: list[Made]) -> None:
    for number, base in enumerate((baseline(), baseline(sd=0.0), baseline(n=1))):
        drawn = draw_best_so_far(report_of(make_run(tmp_path, ideas, f"run{number}", base)))
        assert drawn["png"].startswith(b"\x89PNG")


def test_the_name_of_a_run_is_no_formula_and_no_markup(tmp_path: Path) -> None:
    folder = make_run(tmp_path, session()).rename(tmp_path / "$x^{<b>--&")
    assert "$x^{<b>--&: best so far" in words_of(draw_best_so_far(report_of(folder))["svg"])


def test_a_page_makes_no_request_and_runs_no_script(tmp_path: Path) -> None:
    page = Page(render_page([report_of(make_run(tmp_path, session()))]))
    assert not {"script", "img", "link", "iframe", "base", "form", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith("#") for value in links)
    styles = " ".join(value for name, value in page.attributes if name == "style")
    assert set(re.findall(r"url\((.)", styles)) <= {"#"}
    assert any("<script>alert(1)</script>" in words for words in page.words), "shown as text"
    assert "\u202e" not in "".join(page.words)


def test_the_plot_takes_its_colours_from_the_page(tmp_path: Path) -> None:
    text = render_page([report_of(make_run(tmp_path, session()))])
    body = text.partition("<body>")[2]
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert not re.search(r"#[0-9a-f]{6}", body), "each colour of the drawing is one that the page can set"
    assert PAPER not in body
    assert text.count("--no-score:") == 2, "one for light and one for dark"


def test_two_runs_on_a_page_stand_beside_each_other_and_share_no_identifier(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, session(), "one"), make_run(tmp_path, long_session(60), "two")]
    page = Page(render_page([report_of(folder) for folder in folders]))
    found = [value for name, value in page.attributes if name == "id"]
    assert len(found) == len(set(found)) > 0
    assert "Runs beside each other" in page.words
    assert "details" in page.tags, "long tables are folded"
