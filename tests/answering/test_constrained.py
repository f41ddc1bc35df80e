"""Decoding under a schema with the example's base model, which answers in prose when it is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_finetune.answering.prompts import Prompted, arm_prompts
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.data.contract import Contract
from pytest_finetune.experiment import Generation, load_experiment

EXAMPLE = Path(__file__).parents[2] / "example_project"


@pytest.fixture(scope="module")
def runtime() -> TransformersRuntime:
    pytest.importorskip("llguidance")
    return TransformersRuntime(str(EXAMPLE / "models" / "ticket-lm"))


@pytest.fixture(scope="module")
def asked() -> tuple[Prompted, ...]:
    from pytest_finetune.data.rows import read_rows

    experiment = load_experiment(EXAMPLE, "finetune.yaml")
    return arm_prompts(read_rows(EXAMPLE, "eval/check.jsonl", "eval")[:6], experiment.prompt)


def bounded() -> dict[str, Any]:
    """Return the contract's schema with a longest reason: left open, this base never closes the string."""
    schema = json.loads(json.dumps(Contract.load(EXAMPLE, "data/contract.yaml").schema))
    schema["properties"]["reason"]["maxLength"] = 40
    return dict(schema)


def test_every_answer_under_the_contract_s_schema_keeps_it_and_ends(
    runtime: TransformersRuntime, asked: tuple[Prompted, ...]
) -> None:
    schema = bounded()
    held = Generation(batch_size=4, constrain=json.dumps(schema))
    free = runtime.answer(asked, Generation(batch_size=4))
    bound = runtime.answer(asked, held)
    with pytest.raises(json.JSONDecodeError):
        json.loads(free[0].response)
    for answer in bound:
        jsonschema.validate(json.loads(answer.response), schema)
        assert answer.stopped
    assert [answer.response for answer in runtime.answer(asked, held)] == [one.response for one in bound]
    again = runtime.answer(asked, Generation(batch_size=4))
    assert [answer.response for answer in again] == [answer.response for answer in free]


def test_a_schema_that_cannot_be_decoded_under_is_named(
    runtime: TransformersRuntime, asked: tuple[Prompted, ...]
) -> None:
    odd = Generation(constrain='{"type": "string", "pattern": "(?=a)b"}')
    with pytest.raises(AnsweringError, match="the contract's schema cannot be decoded under"):
        runtime.answer(asked[:1], odd)


def test_every_answer_under_text_labels_is_one_of_them(
    runtime: TransformersRuntime, asked: tuple[Prompted, ...]
) -> None:
    labels = ["very high", "high", "kein Grund: ü", 'say "no"']
    answers = runtime.answer(asked, Generation(batch_size=4, constrain=json.dumps(labels)))
    assert {answer.response for answer in answers} <= set(labels)
    assert all(answer.stopped for answer in answers)
