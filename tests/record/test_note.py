"""The note holds decision, evidence, runtime, risks and next action, and renders foreign text as itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import problems
from pytest_finetune.record.model import RecordedRun
from pytest_finetune.record.views.github import MOST_BYTES, command, error_annotations, outputs, step_summary
from pytest_finetune.record.views.markdown import code, plain
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.terminal.facts import fact_lines

SECTIONS = ["## Evidence", "## Runtime", "## Remaining risks", "## Next action"]


def rendered(markdown: str) -> str:
    parser = (
        pytest.importorskip("markdown_it")
        .MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
    )
    return str(parser.render(markdown))


def test_the_note_has_its_five_parts_in_order(sample: Any) -> None:
    note = decision_note(sample.record)
    runs = len(sample.record["experiments"])
    assert [line for line in note.splitlines() if line.startswith("## ")] == SECTIONS * runs
    assert note.endswith("\n")
    assert len(note.splitlines()) < 60 * runs


def test_the_note_opens_with_the_verdict_and_its_reason(make: Callable[[str], Any]) -> None:
    lines = decision_note(make("iterate").record).splitlines()
    assert lines[0] == "# ITERATE: support_ticket_priority_json"
    assert lines[2].startswith(
        "Right on 81% of 160 rows (priority); the base model on 32%, the prompt alone on 72%. "
    )
    assert lines[4] == "- The gain over the prompt is not demonstrated on 160 rows."


def test_of_several_experiments_the_note_opens_with_all_verdicts(make: Callable[[str], Any]) -> None:
    lines = decision_note(make("several").record).splitlines()
    assert lines[:4] == [
        "# 2 experiments",
        "",
        "| experiment | verdict | tuned, primary rule | because |",
        "| --- | --- | --- | --- |",
    ]
    assert [line.split(" | ")[:3] for line in lines[4:6]] == [
        ["| small", "KEEP", "92.5%"],
        ["| wide", "ITERATE", "78.8%"],
    ]
    assert "# KEEP: small: support_ticket_priority_json" in lines
    assert not decision_note(make("keep").record).startswith("# 1 experiment")


def test_the_evidence_is_a_table_with_gains_below(make: Callable[[str], Any]) -> None:
    note = decision_note(make("keep").record)
    assert "| priority (primary) | 1 of 160, 0.6% [0.1, 3.5] | 93 of 160, 58.1% [50.4, 65.5] |" in note
    assert "| prompt | +36.9 points [+26.8, +46.9] | 63 | 4 | &lt; 0.0001 | beats |" in note
    assert "\n\nIntervals at 95%.\n\n" in note


def test_every_opponent_stands_in_the_note_with_its_finding_and_the_others_below(
    make: Callable[[str], Any],
) -> None:
    record = make("rich").record
    run = record["experiments"][0]
    run["planned_arms"]["best_prompt"]["opponent"] = False
    for pair in run["comparisons"]:
        pair["verdict"] = "not demonstrated" if pair["against"] == "champion" else "beats"
    lines = decision_note(record).splitlines()
    first = lines.index("| the tuned model over | gain | rows fixed | rows broken | one-sided p | finding |")
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first + 2 : first + 6]]
    assert [(cells[0], cells[-1]) for cells in told] == [
        ("base", "beats"),
        ("prompt", "beats"),
        ("champion", "not demonstrated"),
        ("best prompt", "only shown"),
    ]
    assert "tuned&#64;merged" not in "".join(
        lines[first : first + 7]
    )  # the same model, told among the remarks
    assert any(
        line.startswith("- runtimes: in merged: 2 rows worse, 0 better, -8.3 points") for line in lines
    )


def test_remarks_stand_in_the_note_only_where_there_is_something_to_say(make: Callable[[str], Any]) -> None:
    note = decision_note(make("rich").record)
    assert "- best prompt: candidate 2 of 2 competed, it passed 1 of 2 training rows\n" in note
    assert "- the base: asked 2 times, 1 row scored otherwise\n" in note
    assert "- adapter reused from another environment: torch 2.12.0 -&gt; 2.13.0 (120 steps" in note
    assert "; retrained: weights differ by at most 0.0003; 2 of 24 answers changed, adapter sha256" in note
    plain_note = decision_note(make("discard").record)
    for absent in ("best prompt", "- the base:", "environment", "retrained"):
        assert absent not in plain_note


def test_what_a_run_did_not_reach_is_said(make: Callable[[str], Any]) -> None:
    note = decision_note(make("crash").record)
    for said in (
        "No arm was judged by a rule.",
        "- not trained",
        "- no answers",
        "look at test_rules.py::test_priority",
    ):
        assert said in note


def test_a_rule_changed_after_a_look_is_a_risk(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    record["experiments"][0]["rules"]["strict_json"]["changed_after_look"] = True
    assert "- Changed after a look at the held-out rows: strict_json." in decision_note(record)


def test_hostile_text_renders_as_itself(hostile: Any) -> None:
    page = rendered(decision_note(hostile.record))
    tags = set(re.findall(r"<([a-zA-Z][\w-]*)", page))
    assert tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code"}
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert {f"## {title}" for title in titles} == set(SECTIONS)


@given(st.text(alphabet=st.sampled_from("ab1 .)\\`*_{}[]()#+!|~$^=-<>&:/@'\"\n\t\x1b\u202e")))
def test_any_text_is_one_plain_paragraph(text: str) -> None:
    page = rendered(plain(text))
    assert set(re.findall(r"<([a-zA-Z][\w-]*)", page)) <= {"p"}


@given(st.text(alphabet=st.sampled_from("a `\n|\\<")))
def test_any_text_is_one_code_span(text: str) -> None:
    page = rendered(f"x {code(text)} y")
    assert page.count("<code>") == (1 if text.split() else 0)
    assert "<code>" not in page.split("</code>")[-1]


def test_snake_case_and_numbers_stay_readable_in_the_raw_note() -> None:
    assert plain("strict_json at 97.5%: +3.1 points, q-proj") == "strict_json at 97.5%: +3.1 points, q-proj"


@pytest.mark.parametrize("text", ["# x", "- x", "+ x", "1. x", "12) x", "=== x", "> x", "| x"])
def test_a_first_character_opens_nothing(text: str) -> None:
    assert re.fullmatch(r"<p>.*</p>", rendered(plain(text)).strip())


def test_the_step_summary_is_the_note_and_is_cut_by_lines(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    assert step_summary(record) == decision_note(record)
    record["experiments"][0]["decision"]["risks"] = [f"risk {place} " + "ä" * 900 for place in range(200)]
    cut = step_summary(record)
    assert len(cut.encode()) <= MOST_BYTES
    assert cut.startswith("# KEEP")
    assert cut.rstrip().endswith("the whole note is decision.md beside the record.")


def test_annotations_name_the_verdict_and_the_rows(make: Callable[[str], Any]) -> None:
    said = error_annotations(make("gate_closed").record)
    assert said[0].startswith(
        "::error title=finetune::STOPPED: The data stage failed: AssertionError: 3 findings"
    )
    assert said[1] == (
        "::error title=data/duplicate-key,file=data/train.jsonl,line=17"
        "::the key 'priority' stands twice in one answer; delete one of the two"
    )


@pytest.mark.parametrize("name", ["keep", "data_only"])
def test_nothing_is_annotated_where_nothing_went_wrong(make: Callable[[str], Any], name: str) -> None:
    assert error_annotations(make(name).record) == []


def test_at_most_ten_annotations_each_one_command_on_one_line(hostile: Any) -> None:
    record = hostile.record
    for run in record["experiments"]:
        run["data"]["findings"] = [dict(run["data"]["findings"][0], severity="error") for _ in range(30)]
    said = error_annotations(record)
    assert 1 <= len(said) <= 10
    for line in said:
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800]", line)
        assert line.startswith("::error ")
        assert line.count("::") == 2


@given(st.text(), st.text())
def test_a_workflow_command_cannot_be_ended_from_inside(message: str, title: str) -> None:
    line = command("error", message, title=title)
    assert len(line.splitlines()) == 1
    head, _, _ = line.removeprefix("::error").partition("::")
    assert ":" not in head
    assert head.count(",") == 0


@pytest.mark.parametrize(
    ("name", "decision", "has_digest"),
    [
        ("keep", "keep", True),
        ("iterate", "iterate", True),
        ("crash", "none", False),
        ("several", "iterate", False),
    ],
)
def test_outputs_for_later_steps(
    make: Callable[[str], Any], name: str, decision: str, has_digest: bool
) -> None:
    lines = dict(line.split("=", 1) for line in outputs(make(name).record, "finetune-record"))
    assert lines["decision"] == decision
    assert lines["adapter_digest"] == ("e7" * 32 if has_digest else "")
    assert lines["record"] == "finetune-record/record.json"


def test_outputs_are_three_lines_whatever_the_record_says(hostile: Any) -> None:
    lines = outputs(hostile.record, "r\nforged=1")
    assert len("\n".join(lines).splitlines()) == 3


def test_the_note_says_how_a_merge_was_proved(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    says = "merge proved on 3 rows: largest logit difference 0.0021 (rounding explains up to 0.9)"
    facts = {"rows": 3, "largest": 0.0021, "allowed": 0.9, "says": says}
    record["experiments"][0]["arms"]["tuned"]["merge"] = facts
    assert f"- tuned: {plain(says)}" in decision_note(record)


def test_every_view_says_how_the_prompts_of_a_server_differ(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    arms = record["experiments"][0]["arms"]
    alike = "prompts are as judged on 24 rows, compared token by token"
    says = "the begin token stands there twice on 24 of 24 rows"
    arms["tuned"]["rendering"] = {"rows": 24, "by": "tokens", "differences": [], "says": alike}
    arms["baseline"]["rendering"] = arms["tuned"]["rendering"]
    arms["prompted"]["rendering"] = {
        "rows": 24,
        "by": "tokens",
        "differences": [{"kind": "bos doubled", "rows": 24, "says": says, "do": "take one away"}],
        "says": says,
    }
    assert problems(record) == []
    assert f"- prompt: {plain(says)}" in decision_note(record)
    run = RecordedRun.of(record)
    lines = dict(fact_lines(run.experiments[0], 200))
    assert [markup for text, markup in lines.items() if says in text] == ["yellow"]
    assert [markup for text, markup in lines.items() if alike in text] == [""]
