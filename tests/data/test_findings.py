"""Findings explain themselves, in full for a section and in brief for an assertion; waivers stand apart."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from pytest_finetune.data.catalogue import RULES, finding, quoted
from pytest_finetune.data.contract import apply_waivers
from pytest_finetune.data.findings import Finding, Findings, Waiver


def many(rule: str, count: int) -> list[Finding]:
    return [
        finding(rule, f"number {n}", file="train.jsonl", line=n, digest=f"{n:064x}")
        for n in range(1, count + 1)
    ]


def test_no_findings_are_an_empty_list() -> None:
    assert Findings() == []
    assert Findings().explain() == ["no findings"]


def test_the_explanation_groups_by_rule_errors_first() -> None:
    found = Findings([*many("data/near-duplicate", 9), *many("data/conflict", 7), *many("leak/exact", 1)])
    lines = found.explain()
    assert lines[0] == "8 errors and 9 warnings under 3 rules"
    assert lines[1] == "data/conflict: 7 errors"
    assert lines[2:7] == [f"  train.jsonl:{n}: number {n}" for n in range(1, 6)]
    assert lines[7] == "  ... and 2 more"
    assert lines[8] == f"  why: {RULES['data/conflict'].why}"
    assert lines[9] == f"  fix: {RULES['data/conflict'].fix}"
    assert [line for line in lines if line.endswith(("error", "errors", "warnings")) and "/" in line] == [
        "data/conflict: 7 errors", "leak/exact: 1 error", "data/near-duplicate: 9 warnings",
    ]  # fmt: skip
    assert len(found.errors) == 8


def test_the_brief_fits_a_failed_assertion() -> None:
    broken = [rule for rule, known in RULES.items() if known.severity != "note"]
    found = Findings([one for rule in broken[:20] for one in many(rule, 30)])
    lines = found.brief()
    assert len(lines) <= 6
    assert sum(len(line) + 1 for line in lines) <= 600
    assert "train.jsonl:1, train.jsonl:2, train.jsonl:3 and 27 more" in lines[1]
    assert lines[-1] == "and 16 more rules"


def test_a_finding_is_json() -> None:
    assert many("leak/exact", 1)[0].as_json() == {
        "rule": "leak/exact", "severity": "error", "read": "number 1", "why": RULES["leak/exact"].why,
        "fix": RULES["leak/exact"].fix, "file": "train.jsonl", "line": 1, "digest": f"{1:064x}",
    }  # fmt: skip


def test_what_is_read_is_masked_before_it_is_cut_and_cannot_act_on_a_terminal() -> None:
    token = "ghp_" + "a1B2" * 9
    assert "[GitHub token]" in finding("data/row-shape", f"\x1b[31m{token}\n").read
    assert "\x1b" not in finding("data/row-shape", "\x1b[31m red").read
    assert "ghp_" not in quoted("x" * 60 + token)
    assert "ghp_" not in finding("data/row-shape", "x" * 180 + " " + token).read


def test_every_rule_says_why_and_what_to_do() -> None:
    for name, rule in RULES.items():
        assert name.count("/") == 1
        assert rule.severity in ("error", "warning", "note")
        assert rule.why.endswith((".", ")"))
        assert rule.fix.endswith(".")


ACCEPTED = "known and accepted"


@pytest.mark.parametrize(
    "waiver",
    [
        Waiver("data/conflict", ACCEPTED),
        Waiver("data/conflict", ACCEPTED, file="train.jsonl"),
        Waiver("data/conflict", ACCEPTED, file="train.jsonl", line=1),
        Waiver("data/conflict", ACCEPTED, digest=f"{1:064x}"[:20]),
        Waiver("data/conflict", ACCEPTED, expires="2026-06-01"),
    ],
)
def test_a_waiver_takes_its_finding_out_and_keeps_it_in_sight(waiver: Waiver) -> None:
    found = apply_waivers(many("data/conflict", 1), [waiver], date(2026, 6, 1), "contract.yaml")
    assert found == []
    assert found.waived == ((many("data/conflict", 1)[0], waiver),)
    assert found.waived[0][1].as_json()["reason"] == ACCEPTED


@pytest.mark.parametrize(
    "waiver",
    [
        Waiver("leak/exact", ACCEPTED),
        Waiver("data/conflict", ACCEPTED, file="eval.jsonl"),
        Waiver("data/conflict", ACCEPTED, file="train.jsonl", line=2),
        Waiver("data/conflict", ACCEPTED, digest="ffff0000"),
    ],
)
def test_a_waiver_for_something_else_changes_nothing_and_is_told(waiver: Waiver) -> None:
    found = apply_waivers(many("data/conflict", 1), [waiver], date(2026, 6, 1), "contract.yaml")
    assert [one.rule for one in found] == ["data/conflict", "contract/waiver-unused"]
    assert found[1].file == "contract.yaml"


def test_an_expired_waiver_accepts_nothing_and_says_so() -> None:
    waiver = Waiver("data/conflict", ACCEPTED, expires="2026-05-31")
    found = apply_waivers(many("data/conflict", 1), [waiver], date(2026, 6, 1), "contract.yaml")
    assert [one.rule for one in found] == ["data/conflict", "contract/waiver-expired"]
    assert "ended on 2026-05-31 (known and accepted)" in found[1].read


def test_a_contract_waives_one_row_by_its_digest(project: Any, make_row: Any) -> None:
    rows = [make_row("alpha beta"), make_row("Alpha  beta!"), make_row("gamma"), make_row("gamma")]
    train = project.train(rows)
    text = (
        f"waivers: [{{rule: data/duplicate-row, reason: kept on purpose, digest: {train[3].digest[:16]}}}]\n"
    )
    found = project.findings(text, rows)
    assert [(one.rule, one.line) for one in found] == [("data/duplicate-row", 2)]
    assert [(one.line, waiver.reason) for one, waiver in found.waived] == [(4, "kept on purpose")]


def test_a_teams_own_check_stands_beside_the_built_in_ones_and_cannot_leak(
    project: Any, make_row: Any
) -> None:
    token = "ghp_" + "a1B2" * 9

    def no_filler(train: Any, held_out: Any) -> list[Finding]:
        return [
            Finding("acme/filler", "error", f"{token} {row.input}", "why.", "fix.", row.file, row.line)
            for row in train
            if "lorem" in row.input
        ]

    contract = project.contract(
        "waivers: [{rule: acme/filler, reason: not this one, line: 1, file: train.jsonl}]\n"
    )
    train = project.train([make_row("lorem ipsum dolor"), make_row("sit lorem amet")])
    found = contract.with_checks(no_filler).findings(
        train, project.held_out([make_row("zebra", key="expected")])
    )
    assert [(one.rule, one.line) for one in found] == [("acme/filler", 2)]
    assert len(found.waived) == 1
    assert token not in "\n".join(found.explain())
