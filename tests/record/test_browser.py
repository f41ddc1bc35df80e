"""A real browser runs nothing, fetches nothing, keeps the layout, and finds the page accessible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.chromium import AXE, CHROMIUM, NO_AXE, Browser, Tab
from pytest_finetune.experiment.over import parse_over
from pytest_finetune.judging.development import DevScore
from pytest_finetune.judging.learning import Trained
from pytest_finetune.judging.quantised import Served, SizeTable
from pytest_finetune.judging.searched import Searched, SearchTrial
from pytest_finetune.record.summary import RunLine
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.page.history import history_page
from pytest_finetune.record.views.page.search import search_page
from pytest_finetune.record.views.page.shipped import shipped_page

# What sticks out of the window; what may scroll by itself is apart.
WIDE: Final = """[...document.querySelectorAll('.ft *')].filter(one =>
  !one.closest('.ft-scroll, svg, .ft-quiet, pre, details:not([open]) > :not(summary)')
  && one.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(one => one.className || one.tagName)"""
CUT_CAPTIONS: Final = """[...document.querySelectorAll('.ft-compact caption')].filter(one => {
  const words = document.createRange(); words.selectNodeContents(one);
  return words.getBoundingClientRect().right > innerWidth }).map(one => one.textContent)"""
# Rows off the screen have no layout yet, and axe-core would hold their words against what lies there instead.
ALL_OPEN: Final = """document.querySelectorAll('details').forEach(one => one.open = true);
  document.querySelectorAll('.ft-row').forEach(one => one.style.contentVisibility = 'visible')"""
OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
VISIBLE_ROWS: Final = "[...document.querySelectorAll('.ft-row')].filter(one => one.checkVisibility()).length"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Open a fragment as a page of its own, in a window of some width."""
    tabs: list[Tab] = []

    def opened(sample: Any, width: int = 1280, **about: Any) -> Tab:
        page = tmp_path / "page.html"
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>a page</title>'
        source = f"{head}<body><main><h1>record</h1>{summary_html(sample.record, sample.answers)}</main>"
        page.write_text(source, encoding="utf-8")
        tabs.append(browser.open(page, width, **about))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()


@pytest.mark.parametrize("width", [380, 900, 1600])
@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_text_neither_runs_nor_leaves_nor_breaks_the_layout(
    hostile_keep: Any, show: Callable[..., Tab], width: int, scripts: bool
) -> None:
    del hostile_keep.record["experiments"][0]["held_out"][40:]
    tab = show(hostile_keep, width, scripts=scripts, dark=width == 900)
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.dataset.ran ?? null") is None
    assert tab.requests() == []
    assert tab.complaints() == []
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate(WIDE) == []


@pytest.mark.parametrize("name", ["keep", "rich", "several", "too_large", "gate_closed"])
def test_the_page_fits_a_phone(make: Callable[[str], Any], show: Callable[..., Tab], name: str) -> None:
    sample = make(name)
    for match in sample.record["experiments"][0]["runtime_match"]:
        match["second"] = "shipped in q4_k_m, with the adapter beside it"
    tab = show(sample, 380)
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate(WIDE) == []
    assert tab.evaluate(CUT_CAPTIONS) == []
    assert tab.evaluate("document.querySelector('.ft h2').getBoundingClientRect().top") < 200


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["rich", "several", "gate_closed"])
def test_axe_finds_nothing_serious(
    make: Callable[[str], Any], show: Callable[..., Tab], name: str, dark: bool, width: int
) -> None:
    if not AXE.is_file():
        pytest.skip(NO_AXE)
    sample = make(name)
    for run in sample.record["experiments"]:
        del run["held_out"][12:]
    tab = show(sample, width, dark=dark)
    tab.evaluate(ALL_OPEN)
    assert tab.serious() == []


RUN: Final = {
    "created": "2026-11-25T15:37:13+00:00", "experiment": "finetune", "task": "t", "verdict": "keep", "undecided": False,
    "primary": "priority", "rate": 0.9, "rate_low": 0.85, "rate_high": 0.94, "base_rate": 0.1, "gain": 0.8,
    "gain_low": 0.7, "gain_high": 0.88, "look": 1, "seconds": 41.0, "peak_bytes": 6 << 30, "predicted_bytes": None,
    "reason": "priority: a gain over the base model is demonstrated", "key": "3f" * 32, "run": "0a" * 32,
}  # fmt: skip
UNREACHED: Final = dict.fromkeys(name for name in RUN if name not in ("run", "created", "undecided"))


@pytest.fixture
def history(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Open the page of all runs: each verdict, one run that reached nothing, one with hostile text."""
    hostile = "<script>document.documentElement.dataset.ran='yes'</script>\x1b[31m" + "verylongword" * 30
    runs = [
        RUN,
        RUN | {"verdict": "discard", "gain": -0.2, "gain_low": -0.3, "gain_high": -0.1},
        RUN | {"verdict": "iterate", "undecided": True},
        {**RUN, **UNREACHED},
        RUN | {"experiment": hostile, "reason": hostile, "primary": hostile, "key": hostile},
    ]
    page = tmp_path / "history.html"
    page.write_text(history_page([RunLine.of(run) for run in runs]), encoding="utf-8")
    tabs: list[Tab] = []

    def opened(width: int, **about: Any) -> Tab:
        tabs.append(browser.open(page, width, **about))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()


@pytest.mark.parametrize("width", [380, 800, 1600])
def test_the_page_of_all_runs_fits_runs_nothing_and_fetches_nothing(
    history: Callable[..., Tab], width: int
) -> None:
    tab = history(width)
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate(WIDE) == []
    assert tab.evaluate("document.documentElement.dataset.ran ?? null") is None
    assert tab.requests() == []
    assert tab.evaluate("document.querySelectorAll('.ft-history tbody').length") == 5


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_on_the_page_of_all_runs(
    history: Callable[..., Tab], dark: bool, width: int
) -> None:
    if not AXE.is_file():
        pytest.skip(NO_AXE)
    assert history(width, dark=dark).serious() == []


LONG: Final = "some-organisation/an-extremely-long-name-with-parts-" * 3 + "<b>1</b>"
OVERS: Final = {
    "range": ("training.learning_rate=1e-4..3e-3",),
    "choice": (f"base_model={LONG},small",),
    "several": ("training.learning_rate=1e-4..3e-3", f"base_model={LONG},small"),
}
VALUES: Final = {"training.learning_rate": (1e-4, 7.5e-4, 3e-3), "base_model": (LONG, "small")}


def trained(passed: int) -> Trained:
    scores = (1.0,) * passed + (0.0,) * (32 - passed)
    score = DevScore("label", tuple(map(str, range(32))), scores, 0.5, "adapter", "answers")
    return Trained({}, 128, 32, 101.0, False, score)


def a_search(over: str, count: int) -> str:
    """Return the page of a search in which every fifth trial failed."""
    overs = parse_over(OVERS[over])
    trials = []
    for number in range(1, count + 1):
        values = {one.key: VALUES[one.key][number % len(VALUES[one.key])] for one in overs}
        failed = number % 5 == 0
        ended = (
            ("failed", f"the loss is nan: {LONG}", None) if failed else ("complete", "", trained(9 + number))
        )
        trials.append(SearchTrial(number, values, *ended))
    return search_page(Searched(overs, tuple(trials)), LONG, f"{LONG}.search.yaml")


def files(count: int) -> str:
    """Return the page of so many files, of which each answers a row less."""
    served = [Served("transformers", None, 0.12, 32, trained(30))]
    served += [Served(f"q{n}_k_m", 10**9 // n, 0.1, 32 - n, trained(31 - 2 * n)) for n in range(1, count + 1)]
    return shipped_page(SizeTable(tuple(served)), LONG)


@pytest.mark.parametrize(
    "page",
    [
        partial(a_search, "range", 12),
        partial(a_search, "several", 12),
        partial(a_search, "choice", 1),
        partial(files, 1),
        partial(files, 12),
    ],
    ids=["range", "several", "one trial", "one file", "twelve files"],
)
def test_pages_of_trials_fit_and_are_accessible(
    browser: Browser, tmp_path: Path, page: Callable[[], str]
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(), encoding="utf-8")
    tab = browser.open(file, 1280, dark=True)
    try:
        for width in (1280, 900, 380):
            tab.resize(width, 900)
            assert tab.evaluate(OVERFLOW) == 0
            assert tab.evaluate(WIDE) == []
        assert (tab.requests(), tab.complaints()) == ([], [])
        if AXE.is_file():
            assert tab.serious() == []
    finally:
        tab.close()


def test_without_scripts_every_row_is_there_and_no_dead_control(
    make: Callable[[str], Any], show: Callable[..., Tab]
) -> None:
    tab = show(make("keep"), scripts=False)
    assert tab.evaluate("document.querySelector('.ft-filter').checkVisibility()") is False
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate(VISIBLE_ROWS) == 160


def test_the_rows_can_be_narrowed_by_kind_tag_and_text(
    make: Callable[[str], Any], show: Callable[..., Tab]
) -> None:
    sample = make("iterate")
    run = sample.record["experiments"][0]
    tab = show(sample)

    def narrowed(**fields: str) -> int:
        chosen = "; ".join(
            f"document.querySelector('[id$=-{name}]').value = {value!r}" for name, value in fields.items()
        )
        tab.evaluate(f"{chosen}; document.querySelector('.ft-filter').dispatchEvent(new Event('input')); 0")
        time.sleep(0.3)
        said = tab.evaluate("document.querySelector('.ft-filter output').textContent")
        shown = int(tab.evaluate(VISIBLE_ROWS))
        assert said == f"{shown} of 160 rows"
        return shown

    pair = next(p for p in run["comparisons"] if (p["rule"], p["against"]) == ("priority", "baseline"))
    assert narrowed(kind="fixed") == len(pair["fixed"])
    assert narrowed(kind="broken") == len(pair["broken"])
    tagged = {row["id"] for row in run["held_out"] if "borderline" in row["tags"]}
    assert narrowed(kind="broken", tag="borderline") == len(tagged & set(pair["broken"]))
    assert narrowed(kind="", tag="borderline") == len(tagged)
    assert narrowed(tag="", words="ticket 4117.") == 1
    assert narrowed(words="no row says this") == 0


@pytest.mark.parametrize("scripts", [True, False])
def test_a_link_to_a_row_opens_its_section(
    make: Callable[[str], Any], show: Callable[..., Tab], scripts: bool
) -> None:
    tab = show(make("keep"), scripts=scripts)
    assert tab.evaluate(VISIBLE_ROWS) < 20
    tab.evaluate("document.querySelectorAll('.ft-links details').forEach(one => one.open = true)")
    name = tab.evaluate(
        "(link => (link.click(), link.hash.slice(1)))(document.querySelector('.ft-links tr:last-child a'))"
    )
    time.sleep(0.3)
    top = tab.evaluate(f"document.getElementById({name!r}).getBoundingClientRect().top")
    assert tab.evaluate(f"document.getElementById({name!r}).checkVisibility()")
    assert -5 <= top <= 900


def test_the_keyboard_reaches_every_control_and_opens_a_section(
    make: Callable[[str], Any], show: Callable[..., Tab]
) -> None:
    tab = show(make("keep"))
    reached = []
    for _ in range(60):
        tab.press("Tab")
        reached.append(tab.evaluate("document.activeElement.tagName + (document.activeElement.type ?? '')"))
    for control in ("A", "SUMMARY", "SELECTselect-one", "INPUTsearch", "BUTTONreset"):
        assert control in reached
    tab.evaluate("document.querySelector('.ft-group summary').focus()")
    before = tab.evaluate("document.querySelector('.ft-group').open")
    tab.press("Enter")
    assert tab.evaluate("document.querySelector('.ft-group').open") is not before


def test_print_shows_what_is_folded_and_hides_what_is_pressed(
    make: Callable[[str], Any], show: Callable[..., Tab]
) -> None:
    tab = show(make("keep"), media="print")
    assert tab.evaluate("document.querySelector('.ft-filter').checkVisibility()") is False
    tall = "[...document.querySelectorAll('.ft-row')].filter(one => one.getBoundingClientRect().height > 20).length"
    assert tab.evaluate(tall) == 160


@pytest.mark.parametrize("name", ["rich", "several", "gate_closed"])
def test_paper_cuts_no_table_and_is_light(
    make: Callable[[str], Any], show: Callable[..., Tab], name: str
) -> None:
    tab = show(make(name), 717, media="print", dark=True)  # the width of A4 between its margins
    assert tab.evaluate(OVERFLOW) == 0
    cut = "[...document.querySelectorAll('.ft-scroll, .ft pre')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert tab.evaluate(cut) == 0
    assert tab.evaluate("document.querySelectorAll('.ft-scroll').length") > 2
    colour = "getComputedStyle(document.querySelector('.ft')).color"
    assert tab.evaluate(colour) == show(make(name), 717).evaluate(colour)
    assert tab.evaluate("document.querySelector('.ft-contents').checkVisibility()") is False


def test_both_themes_have_colours_of_their_own(make: Callable[[str], Any], show: Callable[..., Tab]) -> None:
    colours = "[document.body, document.querySelector('.ft')].map(one => getComputedStyle(one)).map(one => [one.backgroundColor, one.color])"
    light, dark = (show(make("keep"), dark=dark).evaluate(colours) for dark in (False, True))
    assert light[0][0] == "rgb(255, 255, 255)"
    assert light[0][0] != dark[0][0]
    assert light[1][1] != dark[1][1]
