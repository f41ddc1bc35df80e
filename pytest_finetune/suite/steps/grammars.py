"""What a contract can hold answers to: its schema or its text labels, as a grammar for decoding."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pytest_finetune.answering.runtimes.constrained import trouble_with
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.checks.labels import known_labels
from pytest_finetune.fingerprint import canonical_json

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.experiment import Experiment


def grammar_of(contract: Contract) -> str | None:
    """Return, as JSON text, what a contract holds answers to: its schema, or all its text labels; None for neither."""
    if isinstance(contract.schema, Mapping):
        return canonical_json(contract.schema).decode()
    labels = contract.labels
    if labels is None or not labels.values or labels.field is not None:
        return None
    return canonical_json(list(known_labels(labels))).decode()


def wanted_grammar(experiment: Experiment, contract: Contract) -> str:
    """Return the grammar that an experiment asks for by name; AnsweringError where the contract has none."""
    grammar = grammar_of(contract)
    if grammar is None:
        raise AnsweringError(
            f"generation.constrain: contract: {experiment.paths.contract_file} has no output.schema to decode "
            "under, and no text labels\n  write one, or leave generation.constrain out"
        )
    return grammar


def constrainable(experiment: Experiment, contract: Contract) -> bool:
    """Tell whether answers could be held to the contract, unasked: llguidance is here and knows all of its format."""
    grammar = grammar_of(contract)
    if experiment.generation.constrain is not None or grammar is None or find_spec("llguidance") is None:
        return False
    return not trouble_with(grammar)
