"""Secrets and personal data are found, prose is left alone, and no value is ever shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune import FinetuneError
from pytest_finetune.data.detectors import (
    card_length,
    find,
    iban_length,
    luhn,
    redact,
    scan,
    short_hash,
    token_formats,
)

PERSONAL = {
    "privacy/email": ["jo.doe+tag@corp.io", "A_B@mail.uni-x.de"],
    "privacy/card": ["4111 1111 1111 1111", "5500-0055-5555-5559", "371449635398431", "6011000990139424"],
    "privacy/iban": [
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "BE68539007547034",
        "NO9386011117947",
    ],
    "privacy/phone": ["+44 20 7946 0958", "+1 (212) 867-5309", "(212) 867-5309", "212.867.5309"],
    "privacy/ip": ["8.8.8.8", "93.184.216.34", "2001:4860:4860::8888"],
}
HARMLESS = [
    "mail x@example.com or y@sub.example.org",
    "call 212-555-0123 or +1 212 555 0199",
    "at 192.0.2.7, 10.0.0.1, 127.0.0.1 and ::1",
    "version 1.2.3.4.5 of 2026-01-31 10:00:00",
    "order 1234567890123456, invoice 4111111111111112",
    "ratio 12:30:45, hash 9f86d081884c7d659a2feaa0c55ad015",
    "task-completion and risk-averse hf_tools in sk_learn",
    "the SKU 12345-678, ISO 9001:2015, room B12 3456 7890",
    "DE89 3704 0044 0532 0130 01",
    "function(argument) => a@b",
]


def sample(expression: str) -> st.SearchStrategy[str]:
    return st.from_regex(expression, fullmatch=True, alphabet=st.characters(codec="ascii"))


def test_a_token_of_short_parts_is_found_among_many_texts() -> None:
    assert [(index, hit.rule) for index, hit in scan(["harmless", "use xapp-0-A-0-0 now"])] == [
        (1, "privacy/secret")
    ]


@pytest.mark.parametrize("known", token_formats().values(), ids=list(token_formats()))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_token_format_is_found_in_prose_and_masked(known: Any, data: st.DataObject) -> None:
    token = data.draw(sample(known.expression))
    text = f'please use "{token}" for this'
    assert [hit.rule for hit in find(text)] == ["privacy/secret"]
    ((index, hit),) = scan(["harmless text", text, "more"])
    assert index == 1
    assert text[hit.start : hit.end] in text
    assert token not in redact(text)


@pytest.mark.parametrize(
    ("rule", "value"), [(rule, value) for rule, values in PERSONAL.items() for value in values]
)
def test_personal_data_is_found_alone_and_among_others(rule: str, value: str) -> None:
    text = f"Reached us from {value}, please help."
    (hit,) = find(text)
    assert (hit.rule, text[hit.start : hit.end]) == (rule, value)
    assert [(index, found.rule) for index, found in scan(["x", text, text])] == [(1, rule), (2, rule)]


@pytest.mark.parametrize("text", HARMLESS)
def test_documentation_values_and_look_alikes_are_left_alone(text: str) -> None:
    assert find(text) == []
    assert redact(text) == text


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(
                [v for vs in PERSONAL.values() for v in vs] + HARMLESS + ["a", " ", "_", "-", "\n", "1"]
            )
        ).map("".join)
    )
)
def test_scanning_many_texts_finds_what_reading_each_closely_finds(texts: list[str]) -> None:
    assert list(scan(texts)) == [(index, hit) for index, text in enumerate(texts) for hit in find(text)]


@given(digits=st.text("0123456789", min_size=12, max_size=18), wrong=st.integers(1, 9))
def test_luhn_has_one_right_check_digit(digits: str, wrong: int) -> None:
    right = [digit for digit in "0123456789" if luhn(digits + digit)]
    assert len(right) == 1
    assert not luhn(digits + str((int(right[0]) + wrong) % 10))


def test_a_card_needs_an_issuer_and_an_iban_its_countrys_length() -> None:
    assert card_length("4111111111111111")
    assert not card_length("9111111111111111")
    assert not card_length("0000000000000000")
    assert iban_length("DE89370400440532013000")
    assert not iban_length("DE8937040044053201300")
    assert not iban_length("ZZ89370400440532013000")


@given(text=st.text(max_size=80))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


TOKEN = "ghp_" + "a1B2" * 9


def test_a_row_with_a_secret_is_named_and_the_value_never(project: Any, make_row: Any) -> None:
    rows = [
        make_row("alpha"),
        make_row(f"my key {TOKEN} fails"),
        make_row("beta", json.dumps({"key": f"\n{TOKEN}"})),
    ]
    found = project.findings("output: {format: text}\n", rows)
    assert [(one.rule, one.line, one.read) for one in found] == [
        ("privacy/secret", 2, f"GitHub token, 40 characters, #{short_hash(TOKEN)}"),
        ("privacy/secret", 3, f"GitHub token, 40 characters, #{short_hash(TOKEN)}"),
    ]
    assert TOKEN not in json.dumps([one.as_json() for one in found])


def test_a_secret_behind_an_escape_is_found(project: Any, make_row: Any) -> None:
    hidden = json.dumps({"key": TOKEN}).replace("ghp_", "\\u0067hp_")
    (found,) = project.findings(
        "output: {format: json}\n", [make_row("alpha", hidden)], [make_row("z", "1", key="expected")]
    )
    assert found.rule == "privacy/secret"


def test_other_findings_about_the_same_row_do_not_leak_it_either(project: Any, make_row: Any) -> None:
    contract = (
        "output: {schema: {enum: [a, b]}}\ninstruction: Classify the ticket.\nlabels: {field: x, drift: 0}\n"
    )
    card = "4111 1111 1111 1111"
    rows = [
        make_row("alpha", f"Sure! I saw {TOKEN} and {card}"),
        make_row("beta", json.dumps({"x": TOKEN})),
        {**make_row("gamma", '"a"'), "instruction": f"Classify {card}."},
        {**make_row("delta", '"a"'), "id": "jo@corp.io"},
        {**make_row("epsilon", '"a"'), "id": "jo@corp.io"},
        {TOKEN: 1, "outptu": card},
    ]
    found = project.findings(contract, rows, [make_row("zebra", '"a"', key="expected")])
    told = json.dumps([one.as_json() for one in found]) + "\n".join(found.explain())
    assert {
        "output/not-json",
        "output/schema",
        "data/instruction",
        "data/duplicate-id",
        "data/row-shape",
    } <= {one.rule for one in found}
    for value in (TOKEN, TOKEN[:12], card, "jo@corp.io"):
        assert value not in told


def test_what_the_contract_allows_is_not_told(project: Any, make_row: Any) -> None:
    rows = [make_row("mail jo@corp.io"), make_row(f"key {TOKEN}")]
    assert [one.rule for one in project.findings("privacy: {personal_data: allow}\n", rows)] == [
        "privacy/secret"
    ]
    assert [one.rule for one in project.findings("privacy: {secrets: allow}\n", rows)] == ["privacy/email"]
    assert project.findings("privacy: {secrets: allow, personal_data: allow}\n", rows) == []


def test_the_deep_pass_says_what_it_needs(project: Any, make_row: Any) -> None:
    with pytest.raises(FinetuneError, match="install presidio-analyzer"):
        project.findings("privacy: {deep: true}\n", [make_row("alpha")])


def test_a_short_hash_tells_equal_values_and_little_more() -> None:
    assert short_hash("a") == short_hash("a") != short_hash("b")
    assert len(short_hash("a")) == 4
