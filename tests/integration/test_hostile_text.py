"""A session whose model, rows, files and tests say hostile things: all of it is shown, none of it is obeyed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from benchmarks.chromium import AXE, CHROMIUM, NO_AXE, Browser

if TYPE_CHECKING:
    from .conftest import Project

RUN = "ran=1"
TAGS = f"<script>{RUN}</script><img src=x onerror={RUN}>\"'></title></script><svg onload={RUN}>"
SIGNS = "\x1b[31mred\x1b]0;title\x07\u202ereversed\u2066\u200b"
HOSTILE = f"{TAGS} {SIGNS} ::error::forged {'wide' * 90}"
TEST_FILE = f"test_<img src=x onerror={RUN}>.py"


def poison(project: Project) -> None:
    """Put hostile text wherever a stranger's text can come from."""
    for arm in ("baseline", "tuned"):
        project.answers[arm] = {
            row: (said if "label" in said else HOSTILE) for row, said in project.answers[arm].items()
        }
    project.save()
    rows = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"input": f"{row['input']} {TAGS} {'wide' * 90}", "tags": ["plain", TAGS]}
    text = (project.path / "finetune.yaml").read_text()
    task = json.dumps(f"task {TAGS} {SIGNS}")
    rules = (project.path / "test_rules.py").read_text()
    project.write(
        {
            "eval.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "finetune.yaml": text.replace("task: priority", f"task: {task}\ncharter: {{owner: {task}}}"),
            TEST_FILE: f"import pytest\n\n@pytest.mark.parametrize('x', [1], ids=[{TAGS!r}])\n"
            f"def test_it(x, tuned, extras):\n    import pytest_html\n"
            f"    extras.append(pytest_html.extras.url({TAGS!r}, name={TAGS!r}))\n"
            f"    print({HOSTILE!r})\n    assert x == 2, {HOSTILE!r}\n",
            "test_rules.py": f"{rules}\n\n@pytest.mark.eval_rule(name={TAGS!r})\ndef test_more(response, example):\n"
            "    assert response.text == example.expected, response.text\n",
        }
    )


def test_nothing_hostile_is_obeyed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_REF", f"refs/heads/{TAGS}")
    monkeypatch.setenv("BUILD_TAG", TAGS)
    poison(project)
    result = project.run("--finetune")
    lines = result.outlines
    section = lines[next(at for at, line in enumerate(lines) if "= finetune =" in line) :]
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "".join(section))
    assert not any(line.startswith("::") for line in section if "forged" in line)
    assert project.experiment()["arms"]["tuned"]["answers"] == 80
    record = project.path / "finetune-record"
    note = (record / "decision.md").read_text(encoding="utf-8")
    assert not re.search("<(?:img|script|svg)", note)
    page = record / "report.html"
    if CHROMIUM is None:
        pytest.skip("the page in a browser: no Chromium on this machine")
    with Browser() as browser:
        for width in (380, 1600):
            tab = browser.open(page, width)
            tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            tab.evaluate("document.getElementById('show_all_details').click(); 0")
            assert tab.evaluate("window.ran ?? null") is None
            assert tab.evaluate("document.documentElement.lang") == "en"
            assert tab.evaluate("document.querySelectorAll('[aria-label^=\"show \"]').length") >= 6
            assert tab.requests() == []
            assert tab.complaints() == []
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            shown = tab.evaluate("document.body.innerText")
            assert TEST_FILE in shown
            assert "\\u202ereversed" in shown
            assert "\u202e" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
def test_axe_finds_nothing_serious_on_the_whole_page(project: Project) -> None:
    project.run("--finetune")
    with Browser() as browser:
        assert browser.open(project.path / "finetune-record" / "report.html").serious() == []


def test_a_blocked_test_shows_foreign_text_and_does_not_obey_it(project: Project) -> None:
    text = f"def test_charter(charter):\n    assert not charter, {SIGNS!r}\n"
    project.write({"test_charter.py": text.replace("not charter", "charter is None")})
    lines = project.run("--finetune").outlines
    blocked = [line for line in lines if line.startswith("not run:")]
    assert blocked
    assert all("\\x1b[31mred" in line and "\x1b" not in line and "\u202e" not in line for line in blocked)


def test_a_cell_of_another_plugin_is_left_alone() -> None:
    from pytest_finetune.suite.closing.page import escape_test_id

    cells = ["<td>own <b>cell</b></td>", '<td class="col-testId">a.py::test_<b>::setup</td>']
    escape_test_id("a.py::test_<b>", cells)
    assert cells == ["<td>own <b>cell</b></td>", '<td class="col-testId">a.py::test_&lt;b&gt;::setup</td>']


def test_the_page_names_the_version_that_runs_and_not_that_of_an_older_install() -> None:
    from pytest_finetune import __version__
    from pytest_finetune.suite.closing.page import escape_metadata
    from pytest_finetune.suite.steps.header import environment

    metadata = {"Plugins": {"html": "4.2.0", "finetune": "0.0.1"}, "Branch": "<b>"}
    escape_metadata(metadata)
    assert metadata == {"Plugins": {"html": "4.2.0", "finetune": __version__}, "Branch": "&lt;b&gt;"}
    assert environment()["packages"]["pytest-finetune"] == __version__
