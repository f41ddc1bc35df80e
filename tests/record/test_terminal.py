"""The terminal summary is short, ends with the decision, and shows foreign text without obeying it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.headline import headline
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.summary import RunLine, summary, verdicts
from pytest_finetune.record.views.terminal import MAX_LINES, cells, summary_lines

CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
MARKUPS = {"", "green", "yellow", "red", "bold"}


def text_of(record: Any, columns: int = 80) -> str:
    return "\n".join(line.text for line in summary_lines(record, "finetune-record", columns))


@pytest.mark.parametrize("columns", [80, 120])
def test_every_summary_fits_the_screen_and_the_line_limit(sample: Any, columns: int) -> None:
    lines = summary_lines(sample.record, "finetune-record", columns)
    assert 4 <= len(lines) <= MAX_LINES < 25
    assert {line.markup for line in lines} <= MARKUPS
    assert all(cells(line.text) <= columns and line.text == line.text.rstrip() for line in lines)


@pytest.mark.parametrize("columns", [80, 120])
def test_hostile_text_is_shown_and_not_obeyed(hostile: Any, columns: int) -> None:
    lines = summary_lines(hostile.record, "finetune-record\x1b[2J", columns)
    assert len(lines) <= MAX_LINES
    assert not any(CONTROL.search(line.text) for line in lines)
    assert all(cells(line.text) <= columns for line in lines)
    kept = r"record: finetune-record\x1b[2J/report.html"
    assert lines[-1].text in (kept, "record: none is kept without --finetune")


def test_the_last_lines_are_verdict_reason_next_change_and_place(make: Callable[[str], Any]) -> None:
    record = make("iterate").record
    lines = summary_lines(record, "finetune-record", 120)
    assert [line.text for line in lines[-5:]] == [
        "ITERATE: Right on 81% of 160 rows (priority); the base model on 32%, the prompt alone on 72%. Gain over the base model",
        "  49 points (37 to 62), 10 were asked. But: The gain over the prompt is not demonstrated on 160 rows.",
        "  The gain over the prompt is not demonstrated on 160 rows.",
        "next change: write 40 contrast rows for medium against high "
        "(because 31 of 44 wrong rows confuse medium with high)",
        "record: finetune-record/report.html",
    ]
    assert lines[-5].markup == lines[-4].markup == "yellow"
    assert lines[-5].marks == {"yellow": True}
    assert lines[-1].marks == {}


@pytest.mark.parametrize(
    ("name", "markup"), [("keep", "green"), ("discard", "red"), ("gate_closed", "red"), ("data_only", "bold")]
)
def test_the_verdict_has_the_colour_of_its_meaning(
    make: Callable[[str], Any], name: str, markup: str
) -> None:
    record = make(name).record
    run = RecordedRun.of(record)
    word = headline(run.experiments[0], run).word
    verdict = next(line for line in summary_lines(record, "r") if line.text.startswith(f"{word}:"))
    assert verdict.markup == markup


def test_the_table_shows_every_arm_and_rule_with_its_interval(make: Callable[[str], Any]) -> None:
    shown = text_of(make("keep").record)
    assert re.search(r"rule +base +prompt +tuned\n", shown)
    assert re.search(
        r"  priority \* +0\.6% \[0\.1, 3\.5\] +58\.1% \[50\.4, 65\.5\] +95\.0% \[90\.4, 97\.4\]\n", shown
    )
    assert "* primary rule, 160 held-out rows, intervals at 95%" in shown
    assert re.search(
        r"gain over prompt  \+36\.9 points \[\+26\.8, \+46\.9\] +63 fixed, 4 broken, 93 same", shown
    )


def test_intervals_without_a_confidence_of_the_rule_are_at_the_experiments(
    make: Callable[[str], Any],
) -> None:
    record = make("keep").record
    record["experiments"][0]["rules"]["priority"]["confidence"] = None
    assert "* primary rule, 160 held-out rows, intervals at 95%" in text_of(record)


def test_facts_of_data_memory_and_training_are_one_line_each(make: Callable[[str], Any]) -> None:
    shown = text_of(make("keep").record)
    assert "  data      480 rows to train on, 160 rows held out; 1 warning\n" in shown
    assert "  memory    431 MiB predicted of 12.0 GiB (CPU, 2 cores): fits\n" in shown
    assert "  training  120 steps in 41 s, loss 3.412 -> 0.081; adapter of key 3fa29c1b\n" in shown
    assert "  training  reused the adapter of key 3fa29c1b (120 steps, loss 3.412 -> 0.081)\n" in text_of(
        make("iterate").record
    )
    assert "455 MiB measured" in text_of(make("discard").record)


def test_a_rule_that_did_not_pass_is_red(make: Callable[[str], Any]) -> None:
    lines = summary_lines(make("iterate").record, "r")
    by_rule = {line.text.split()[0]: line.markup for line in lines if "[" in line.text and "%" in line.text}
    assert by_rule["priority"] == "red"
    assert by_rule["strict_json"] == ""


def test_a_closed_gate_names_the_rows_and_what_to_do(make: Callable[[str], Any]) -> None:
    shown = text_of(make("gate_closed").record)
    assert "data/train.jsonl:17: the key 'priority' stands twice in one answer" in shown
    assert "STOPPED: The data stage failed: AssertionError: 3 findings in 480 rows" in shown
    assert "next change: delete one of the two (because data/train.jsonl:17: the key" in shown


def test_a_charter_that_closed_nothing_is_not_blamed(make: Callable[[str], Any]) -> None:
    record = make("gate_closed").record
    found = record["experiments"][0]["data"]["findings"]
    record["experiments"][0]["charter"]["findings"] = [
        dict(found[0], rule="charter/owner", fix="Name the owner.")
    ]
    found.clear()
    record["tests"][0].update(message="ImportError: no such check")
    assert "next change: look at test_data.py::test_data_stage" in text_of(record)
    record["tests"][0].update(message="AssertionError: the charter names no owner")
    assert "next change: Name the owner (because data/train.jsonl:17:" in text_of(record)


def test_a_blocked_test_speaks_of_what_blocked_it(make: Callable[[str], Any]) -> None:
    record = make("crash").record
    record["tests"][2].update(message="Failed: not run: the data stage failed in the contract check")
    assert "stage failed: the data stage failed in the contract check" in " ".join(text_of(record).split())


def test_a_crash_names_the_stage_its_message_and_the_test(make: Callable[[str], Any]) -> None:
    shown = " ".join(text_of(make("crash").record).split())
    assert "STOPPED: The training stage failed: TrainingError: no module matches target 'qproj'" in shown
    assert "next change: look at test_rules.py::test_priority" in shown


def test_a_failed_job_is_named_by_its_stage_and_what_is_to_be_done(make: Callable[[str], Any]) -> None:
    record, test = make("crash").record, "test_rules.py::test_strict_json"
    said = "the job of the training of one ended: failed: no card\nto do: mend the executor's command"
    record["tests"][2].update(stage="rules", nodeid=test, message=said)
    record["experiments"][0]["gate"] = {"stage": "training", "by": test, "because": said.splitlines()[0]}
    shown = " ".join(text_of(record).split())
    assert "STOPPED: The training stage failed: the job of the training of one ended" in shown
    assert "next change: mend the executor's command" in shown


def test_a_gate_without_a_recorded_test_says_what_closed_it(make: Callable[[str], Any]) -> None:
    record = make("crash").record
    record["tests"] = []
    record["experiments"][0]["gate"] = {
        "stage": "fit",
        "by": "test_fit.py::test_card",
        "because": "no card\nis here",
    }
    shown = text_of(record)
    assert "STOPPED: The fit stage failed: no card" in shown
    assert "next change: look at test_fit.py::test_card" in shown


def test_what_does_not_fit_names_the_change_that_is_enough(make: Callable[[str], Any]) -> None:
    shown = " ".join(text_of(make("too_large").record).split())
    assert "STOPPED: Training does not fit: 27.4 GiB predicted, the budget is 24.0 GiB." in shown
    assert "next change: training.max_seq_length: 1024 (because it is predicted to need 18.1 GiB)" in shown


def test_without_the_flag_the_summary_says_how_to_go_on(make: Callable[[str], Any]) -> None:
    shown = text_of(make("data_only").record)
    assert "NOT RUN: Only the data and memory stages ran; nothing was trained or evaluated." in shown
    assert "next change: run the same command with --finetune" in shown


def test_a_session_that_keeps_no_record_names_no_place(make: Callable[[str], Any]) -> None:
    lines = summary_lines(make("data_only").record, "finetune-record")
    assert lines[-1].text == "record: none is kept without --finetune"


def test_the_record_itself_can_say_whether_a_model_was_asked_for(make: Callable[[str], Any]) -> None:
    record = make("data_only").record
    record["finetune"] = True
    shown = text_of(record)
    assert "NO DECISION: The run ended before its rules were decided." in shown
    assert "record: finetune-record/report.html" in shown


def test_an_undecided_result_is_named_undecided_and_never_green(make: Callable[[str], Any]) -> None:
    record = make("iterate").record
    record["experiments"][0]["decision"]["undecided"] = True
    line = next(line for line in summary_lines(record, "r") if line.text.startswith("ITERATE (undecided): "))
    assert line.markup == "yellow"


def test_several_experiments_share_one_table_and_end_with_the_worst(make: Callable[[str], Any]) -> None:
    lines = [line.text for line in summary_lines(make("several").record, "r", 120)]
    assert lines[0].split() == ["experiment", "verdict", "base", "tuned", "gain"]
    assert lines[1].split()[:4] == ["small", "KEEP", "3.1%", "92.5%"]
    assert lines[2].split()[:2] == ["wide", "ITERATE"]
    kept, iterated = (
        next(i for i, text in enumerate(lines) if text.startswith(word))
        for word in ("KEEP small", "ITERATE wide")
    )
    assert kept < iterated < len(lines) - 1


def test_thirty_experiments_stay_within_the_line_limit(make: Callable[[str], Any]) -> None:
    record = make("several").record
    record["experiments"] = [dict(record["experiments"][i % 2], name=f"run-{i}") for i in range(30)]
    lines = summary_lines(record, "r")
    assert len(lines) <= MAX_LINES
    assert any(re.fullmatch(r"  and \d+ more, all of them in the record", line.text) for line in lines)


def test_thirty_rules_stay_within_the_line_limit_and_count_the_rest(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    run = record["experiments"][0]
    for place in range(30):
        run["rules"][f"extra_{place}"] = dict(
            run["rules"]["strict_json"], outcome="failed" if place == 29 else "passed"
        )
    lines = summary_lines(record, "r")
    assert len(lines) <= MAX_LINES
    assert any(re.fullmatch(r"  and \d+ more rules, \w+ of them not passed", line.text) for line in lines)


def test_many_arms_lose_their_intervals_before_their_names(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    arms = record["experiments"][0]["arms"]
    arms |= {f"serving-{place}": arms["tuned"] for place in range(3)}
    shown = text_of(record)
    assert "serving-0" in shown
    assert "[90.4, 97.4]" not in shown
    assert "[90.4, 97.4]" in text_of(record, 160)


def test_a_foreign_adapter_and_a_retraining_have_a_line_each(make: Callable[[str], Any]) -> None:
    lines = {line.text: line.markup for line in summary_lines(make("rich").record, "r")}
    assert lines["  reused    from another environment: torch 2.12.0 -> 2.13.0"] == "yellow"
    assert lines["  retrained weights differ by at most 0.0003; 2 of 24 answers changed"] == ""
    assert not any(
        line.startswith(("  reused", "  retrained")) for line in text_of(make("keep").record).splitlines()
    )


def with_arms(record: Any, **opponents: bool) -> Any:
    """Give the only experiment further arms, copies of the prompt; each is an opponent or only shown."""
    run = record["experiments"][0]
    run["planned_arms"] = {
        arm: {"model": "base", "opponent": opponent, "min_gain": None}
        for arm, opponent in {"baseline": True, "prompted": True, "tuned": False, **opponents}.items()
    }
    for arm in opponents:
        run["arms"][arm] = run["arms"]["prompted"]
        run["comparisons"] += [
            dict(pair, against=arm) for pair in run["comparisons"] if pair["against"] == "prompted"
        ]
    return record


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_opponent_has_an_aligned_line_that_is_never_cut(
    make: Callable[[str], Any], columns: int
) -> None:
    record = with_arms(make("keep").record, zoo=False, champion=True, constrained=True, best_prompt=True)
    lines = [
        line.text
        for line in summary_lines(record, "r", columns)
        if " over " in line.text[:14] and "[" in line.text
    ]
    names = ["base", "prompt", "best prompt", "constrained", "champion", "zoo"]
    assert [line.split(" over ")[1][:11].strip() for line in lines] == names
    assert len({line.index("+") for line in lines}) == 1
    assert len({line.index("[") for line in lines}) == 1
    assert not any("..." in line for line in lines)
    assert ("points over" in lines[0]) is (columns < 80)
    assert ("shown only" in lines[-1]) is (columns >= 120)


def test_a_gain_that_was_asked_and_not_demonstrated_says_so_in_word_and_colour(
    make: Callable[[str], Any],
) -> None:
    record = with_arms(make("iterate").record, champion=True, zoo=False)
    for pair in record["experiments"][0]["comparisons"]:
        pair["verdict"] = {"champion": "worse", "prompted": "not demonstrated"}.get(pair["against"], "beats")
    told = {
        line.text.split(" over ")[1].split()[0]: line
        for line in summary_lines(record, "r", 120)
        if "  gain over" in line.text
    }
    assert {name: line.markup for name, line in told.items()} == {
        "base": "", "prompt": "yellow", "champion": "red", "zoo": "",
    }  # fmt: skip
    assert told["prompt"].text.endswith("  not demonstrated")
    assert told["champion"].text.endswith("  worse")


def test_gains_beyond_the_room_are_counted(make: Callable[[str], Any]) -> None:
    record = with_arms(make("keep").record, **{f"rival{place}": True for place in range(12)})
    lines = [line.text for line in summary_lines(record, "r")]
    assert len(lines) <= MAX_LINES
    shown = sum("gain over" in line for line in lines)
    assert f"  and over {14 - shown} more arms, on the page" in lines


def test_arms_without_room_leave_the_table_and_are_counted(make: Callable[[str], Any]) -> None:
    record = with_arms(make("keep").record, **{f"a-rather-long-arm-{place}": place > 0 for place in range(4)})
    shown = text_of(record)
    head = next(line for line in shown.splitlines() if line.startswith("  rule"))
    assert head.split() == ["rule", "base", "prompt", "a-rather-long-arm-1", "a-rather-long-arm-2", "tuned"]
    assert "intervals at 95%; 2 more arms on the page" in shown


def test_a_long_rule_name_takes_room_from_the_intervals(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    run = record["experiments"][0]
    for part in (run["rules"], *(arm["rules"] for arm in run["arms"].values())):
        part["stops_by_itself"] = part.pop("strict_json")
    shown = text_of(record)
    assert re.search(r"stops_by_itself +[\d.]+% \[[\d.]+,[\d.]+\]", shown)
    assert re.search(r"stops_by_itself +[\d.]+% \[[\d.]+, [\d.]+\]", text_of(record, 120))


def test_slices_are_cut_with_a_mark_where_the_lines_end(make: Callable[[str], Any]) -> None:
    record = with_arms(make("keep").record, champion=True, constrained=True, best_prompt=True)
    run = record["experiments"][0]
    run["rules"]["priority"]["slice"] = "tags"
    score = {"total": 20, "passed": 5, "rate": 0.25, "interval": [0.1, 0.4], "protected": False, "gain": 0.2}
    parts = {f"a-long-slice-name-{n}": score | {"verdict": "too few rows"} for n in range(4)}
    run["arms"]["tuned"]["rules"]["priority"]["slices"] = parts
    lines = [line.text for line in summary_lines(record, "r")]
    first = next(at for at, line in enumerate(lines) if line.startswith("  priority by tags:"))
    sliced = list(itertools.takewhile(str.strip, lines[first:]))
    assert 1 <= len(sliced) <= 2
    assert sliced[-1].endswith("...")


def test_a_note_about_the_missing_page_changes_where_the_record_is(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    record["notes"] = ["no report.html: pytest-html is not installed"]
    lines = summary_lines(record, "out")
    assert lines[-1].text == "record: out/record.json"
    assert any(line.text.startswith("note: no report.html") and line.markup == "yellow" for line in lines)


def test_an_empty_record_says_so() -> None:
    assert [line.text for line in summary_lines({}, "r")] == [
        "No experiment was run.",
        "record: r/report.html",
    ]


def test_rows_that_were_not_checked_are_not_called_clean(make: Callable[[str], Any]) -> None:
    record = make("iterate").record
    data = record["experiments"][0]["data"]
    data.update(findings=[], checked=False)
    assert "held out; not checked" in text_of(record)
    data.update(checked=True)
    assert "held out; no findings" in text_of(record)
    data.update(findings=[{"rule": "data/crlf", "severity": "note", "read": "r", "why": "w", "fix": "f"}])
    assert "held out; 1 note" in text_of(record)


def test_the_time_is_told_by_its_largest_parts(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    spent = {"steps": 152.5, "answers of baseline": 30.0, "load": 42.5, "rules": 0.5, "data": 24.5}
    record["experiments"][0]["timings"] = spent
    assert "  time      4 min 10 s: steps 61%, load 17%, answers of base 12%, data 10%" in text_of(record)
    for nothing in ({}, {"data": 0.4, "record": 0.5}):
        record["experiments"][0]["timings"] = nothing
        assert "  time " not in text_of(record)


def test_a_run_that_somebody_stopped_is_said_to_be_broken_off(make: Callable[[str], Any]) -> None:
    record = make("gate_closed").record
    record["exit_status"] = 2
    shown = text_of(record)
    assert "BROKEN OFF: The run was stopped" in shown
    assert "next change: run the same command again: what is stored is not made again" in shown
    line = RunLine.of(summary(record, RecordedExperiment.of(record["experiments"][0])))
    assert (line.word, verdicts([line, line])) == ("broken off", "2 broken off")
    assert RunLine.of({"verdict": "iterate", "undecided": True}).word == "iterate (undecided)"


def test_a_run_that_was_stopped_before_its_rules_names_the_rows_of_the_held_out_file(
    make: Callable[[str], Any],
) -> None:
    record = make("keep").record
    record["experiments"][0]["rules"]["priority"]["rows"] = []
    assert "* primary rule, 160 held-out rows" in text_of(record)


def test_what_is_told_of_a_given_adapter_stands_in_the_terminal(make: Callable[[str], Any]) -> None:
    record = make("iterate").record
    experiment = record["experiments"][0]
    experiment["training"]["notes"] = ["the adapter says that it was trained on other"]
    assert "was trained on other" not in text_of(record)
    experiment["config"]["trained"] = {"adapter": "there"}
    assert "  adapter   the adapter says that it was trained on other" in text_of(record)
