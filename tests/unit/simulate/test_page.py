"""The page: complete in itself, and true to the figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.cards import a_card, asked, write_trace
from support.samples import some_paths
from turnout.simulate.comparison import POLICIES, simulate
from turnout.simulate.finding import find_profile
from turnout.simulate.page import page_of
from turnout.simulate.pictures import Bar, areas, bars
from turnout.simulate.report import Report
from turnout.simulate.traces.reading import read_trace


class Outline(HTMLParser):
    """Checks that every element is closed, and gathers words and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed out of turn"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    root = tmp_path_factory.mktemp("page")
    profile = find_profile("small", some_paths(root)).profile
    trace = write_trace(root / "t.csv", 250, seed=3, mean_gap=3)
    return list(simulate(profile, lambda seed: read_trace(trace, profile, seed), seeds=(1, 2)))


def test_the_page_is_complete_in_itself(reports: list[Report], tmp_path: Path) -> None:
    page = page_of(find_profile("small", some_paths(tmp_path)).profile, reports)
    outline = Outline(page)
    assert outline.open == []
    assert outline.addresses == []
    assert "http" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert outline.count["svg"] == 3 + len(POLICIES)
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_what_the_figures_say(reports: list[Report], tmp_path: Path) -> None:
    page = page_of(find_profile("small", some_paths(tmp_path)).profile, reports)
    words = " ".join(" ".join(Outline(page).words).split())
    for policy in POLICIES:
        swaps = [report.swaps for report in reports if report.policy == policy]
        assert f"{policy} : {sum(swaps) / 2:,.0f} swaps" in words
    assert "Together the models want 19.5 GiB, and 14.0 GiB may be granted" in words
    assert "medians of 2 seeds" in words
    for term in ("patience", "swap", "at least"):
        assert term in words


def test_a_name_cannot_break_the_page(reports: list[Report]) -> None:
    card = a_card(8, **{"a<b>&": {}})
    told = list(simulate(card, lambda _: asked(card, (0, "a<b>&", 1)), policies=("fifo",)))
    page = page_of(card, told)
    assert Outline(page).open == []
    assert "<b>&" not in page


def test_a_bar_is_as_long_as_its_value() -> None:
    rows = [
        Bar(name=name, value=value, least=value, most=value, bound=10, words="", colour="red")
        for name, value in (("one", 50.0), ("two", 100.0))
    ]
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', bars(rows))]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


def test_areas_stand_on_each_other_and_fill_the_time() -> None:
    picture = areas([("a", [4.0] * 10, "red"), ("b", [2.0] * 10, "blue")], 1.0, 10.0, 8.0, 10.0)
    paths = re.findall(r'<path d="([^"]+)" fill="(?:red|blue)"', picture)
    assert len(paths) == 2
    below, above = ([float(y) for y in re.findall(r"V([\d.]+)", path)] for path in paths)
    # The height is 170: 4 of 10 is at 102, 6 of 10 at 68.
    assert set(below) == {102.0, 170.0}
    assert set(above) == {68.0, 102.0}
    xs = [float(x) for x in re.findall(r"H([\d.]+)", paths[0])]
    assert (min(xs), max(xs)) == (56.0, 912.0)


def test_no_swaps_and_no_waits_are_drawn_too() -> None:
    card = a_card(8, a={})
    told = list(simulate(card, lambda _: asked(card, (0, "a", 0.0)), policies=("fifo",)))
    assert "0 swaps" in page_of(card, told)
