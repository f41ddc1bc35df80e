"""Between rows: repetitions, conflicts, leaks, groups; and the texts of single rows."""

from __future__ import annotations

from typing import Any

import pytest

LONG = (
    "the payment page shows a blank screen after the customer clicks on the confirm button in the mobile app"
)


def told(found: Any) -> list[tuple[str, str]]:
    return [(one.rule, one.place) for one in found]


@pytest.mark.parametrize("again", ["Pay  page DOWN!", "pay page down", "\uff30ay page down."])
def test_a_repeated_question_is_found_whatever_its_case_spacing_and_signs(
    project: Any, make_row: Any, again: str
) -> None:
    found = project.findings("{}", [make_row("Pay page down."), make_row(again)])
    assert told(found) == [("data/duplicate-row", "train.jsonl:2")]
    assert "line 1" in found[0].read


def test_one_question_with_two_answers_is_a_conflict(project: Any, make_row: Any) -> None:
    rows = [
        make_row("pay page down", "low"),
        make_row("Pay page down", "high"),
        make_row("pay page down", "low"),
    ]
    found = project.findings("{}", rows)
    assert told(found) == [("data/duplicate-row", "train.jsonl:3"), ("data/conflict", "train.jsonl:2")]


def test_json_answers_are_compared_as_values(project: Any, make_row: Any) -> None:
    rows = [make_row("pay page down", '{"a": 1, "b": 2}'), make_row("pay page down", '{"b":2,"a":1}')]
    assert told(project.findings("{}", rows)) == [("data/duplicate-row", "train.jsonl:2")]


def test_another_instruction_makes_another_question(project: Any, make_row: Any) -> None:
    rows = [
        make_row("pay page down", "low"),
        {**make_row("pay page down", "DE"), "instruction": "Name the language."},
    ]
    assert project.findings("leakage: {near_duplicate: null}", rows) == []


def test_a_held_out_question_that_is_trained_on_is_a_leak(project: Any, make_row: Any) -> None:
    held_out = [
        make_row("PAY page down", "low", key="expected"),
        make_row("mail lost", "high", key="expected"),
    ]
    found = project.findings("{}", [make_row("pay page down"), make_row("mail lost", "low")], held_out)
    assert told(found) == [("leak/exact", "eval.jsonl:1"), ("leak/conflict", "eval.jsonl:2")]
    assert "train.jsonl:1" in found[0].read


def test_a_near_duplicate_across_files_is_a_leak_with_its_similarity(project: Any, make_row: Any) -> None:
    changed = LONG.replace("mobile", "web")
    contract = "leakage: {near_duplicate: 0.6, containment: null}"
    found = project.findings(contract, [make_row(LONG)], [make_row(changed, key="expected")])
    assert told(found) == [("leak/near-duplicate", "eval.jsonl:1")]
    # 17 three-word shingles on each side; the changed word is in two of them.
    assert "similarity 0.79 to train.jsonl:1" in found[0].read
    assert (
        project.findings(
            "leakage: {near_duplicate: 0.8, containment: null}",
            [make_row(LONG)],
            [make_row(changed, key="expected")],
        )
        == []
    )


def test_a_near_duplicate_inside_a_file_is_a_warning(project: Any, make_row: Any) -> None:
    rows = [make_row(LONG), make_row("something else entirely is wrong here"), make_row(LONG + " again")]
    found = project.findings("{}", rows)
    assert told(found) == [("data/near-duplicate", "train.jsonl:3")]
    assert found.errors == []
    assert "similarity 0.94 to line 1" in found[0].read
    assert project.findings("leakage: {within: false}", rows) == []


def test_a_held_out_text_inside_a_longer_training_text_is_found(project: Any, make_row: Any) -> None:
    around = "hello team since the release of last night we see that {} and nobody has an idea why this is so"
    inside = around.format(LONG)
    found = project.findings("{}", [make_row(inside)], [make_row(LONG, key="expected")])
    assert told(found) == [("leak/containment", "eval.jsonl:1")]
    assert "100% of its 8-word sequences stand in train.jsonl:1" in found[0].read


def test_a_group_must_not_be_divided(project: Any, make_row: Any) -> None:
    train = [make_row("alpha", group="T1"), make_row("beta", group="T2"), make_row("gamma")]
    held_out = [
        make_row("delta", key="expected", group="T2"),
        make_row("epsilon", key="expected", group="T3"),
    ]
    assert told(project.findings("{}", train, held_out)) == [("leak/group", "eval.jsonl:1")]
    assert project.findings("leakage: {groups: allow}", train, held_out) == []


def test_texts_without_words_are_compared_as_they_are(project: Any, make_row: Any) -> None:
    assert project.findings("{}", [make_row("???"), make_row("!!!")]) == []
    assert told(project.findings("{}", [make_row("???"), make_row("???")])) == [
        ("data/duplicate-row", "train.jsonl:2")
    ]


def test_scripts_without_spaces_are_compared_by_character(project: Any, make_row: Any) -> None:
    one = "ログイン画面が表示されません。助けてください"
    found = project.findings("{}", [make_row(one), make_row(one + "\u306d")])
    assert told(found) == [("data/near-duplicate", "train.jsonl:2")]


def test_rows_of_a_template_are_said_to_be_too_alike_only_when_they_were_not_all_compared(
    project: Any, make_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        make_row(f"dear team the code {n // 30} does not work in shop {n % 30} today") for n in range(900)
    ]
    assert project.findings("{}", rows) == []
    monkeypatch.setattr("pytest_finetune.data.similarity.NEIGHBOURS", 20)
    (found,) = project.findings("{}", rows)
    assert (found.rule, found.severity, found.file) == ("data/alike", "warning", "train.jsonl")


@pytest.mark.parametrize(
    ("row", "rule", "said"),
    [
        ({"input": "alpha", "output": " "}, "data/blank-text", "the answer is blank"),
        ({"instruction": " ", "input": "", "output": "x"}, "data/blank-text", "the question is blank"),
        ({"input": "e\u0301tat", "output": "x"}, "data/not-nfc", "the input is not in NFC"),
        (
            {"input": "alpha", "output": "x\u0007"},
            "data/control-character",
            "U+0007 in the answer, character 2",
        ),
        ({"input": "alpha \u202e beta", "output": "x"}, "data/control-character", "U+202E in the input"),
    ],
)
def test_damaged_text_is_named(
    project: Any, make_row: Any, row: dict[str, str], rule: str, said: str
) -> None:
    (found,) = project.findings("{}", [make_row("zeta"), {**make_row("x"), **row}])
    assert (found.rule, found.line) == (rule, 2)
    assert said in found.read


@pytest.mark.parametrize(
    "text", ["tab\tand\nline", "\u00e9tat", "\U0001f600 fine", "\u0928\u092e\u0938\u094d\u0924\u0947"]
)
def test_ordinary_text_of_any_language_is_not(project: Any, make_row: Any, text: str) -> None:
    assert project.findings("{}", [make_row(text)]) == []


def test_the_instruction_is_compared_byte_for_byte(project: Any, make_row: Any) -> None:
    rows = [
        make_row("alpha"),
        {**make_row("beta"), "instruction": "classify the  ticket."},
        {**make_row("gamma"), "instruction": "Sort."},
    ]
    found = project.findings("instruction: Classify the ticket.\n", rows)
    assert told(found) == [("data/instruction", "train.jsonl:2"), ("data/instruction", "train.jsonl:3")]
    assert "differs from the contract's in white space or case" in found[0].read
    assert project.findings("instruction: [Classify the ticket., classify the  ticket., Sort.]\n", rows) == []


def test_out_of_scope_questions_and_answers_are_named(project: Any, make_row: Any) -> None:
    contract = 'out_of_scope_patterns: ["(?i)according to the (handbook|policy)"]\n'
    found = project.findings(
        contract,
        [make_row("alpha"), make_row("According to the handbook?"), make_row("b", "according to the policy")],
    )
    assert told(found) == [("scope/pattern", "train.jsonl:2"), ("scope/pattern", "train.jsonl:3")]


def test_too_few_rows_and_another_file_than_the_pinned_one_are_found(project: Any, make_row: Any) -> None:
    found = project.findings("rows: {min_train: 2, min_eval: 1}\n", [make_row("alpha")])
    assert told(found) == [("data/too-few-rows", "train.jsonl")]
    train = project.train([make_row("alpha")])
    pinned = f"checksums: {{train.jsonl: {train.sha256}, eval.jsonl: {'f' * 64}}}\n"
    assert told(project.findings(pinned, [make_row("alpha")])) == [("data/checksum", "eval.jsonl")]


def test_too_few_rows_after_some_were_set_aside_are_told_with_these(project: Any, make_row: Any) -> None:
    from pytest_finetune.data.splitting import set_aside

    words = ("alpha", "beta", "gamma", "delta")
    left, dev = set_aside(project.train([make_row(word) for word in words]), 0.25, lambda output: None)
    (found,) = project.contract("rows: {min_train: 4, min_eval: 0}\n").findings(left, left.only(()))
    assert (len(left), len(dev), found.rule) == (3, 1, "data/too-few-rows")
    assert found.read == "3 rows are left of 4: split.dev sets 1 aside (the contract asks for 4)"
    assert found.fix.startswith("Set fewer rows aside (split.dev), ")


def test_defects_of_the_files_are_findings_of_the_contract(project: Any, make_row: Any) -> None:
    from pytest_finetune.data.rows import read_rows

    project.write("train.jsonl", "not a row\n")
    found = project.contract("{}").findings(
        read_rows(project.root, "train.jsonl", "train"), project.held_out([make_row("a", key="expected")])
    )
    # Rows that nobody could read are not counted: how many there are is not known.
    assert told(found) == [("data/invalid-json", "train.jsonl:1")]
