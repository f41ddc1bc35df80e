"""Training rows in tokens, counted with the base's own tokenizer and prompt, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_finetune.data.rows import Row
from pytest_finetune.data.tokens import NoTokenizer, tokenization
from pytest_finetune.fingerprint import BaseModelError, base_folder

if TYPE_CHECKING:
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.experiment import Experiment


def tokenization_of(experiment: Experiment) -> Tokenization | None:
    """Return how rows become tokens; None when the base is not here, or only transformers can tokenise for it."""
    sample = Row("sample", 1, 0, "instruction", "Say", "this", "that", None, (), None, {})
    try:
        found = tokenization(base_folder(experiment), experiment.prompt, experiment.training.max_seq_length)
        found.counts([sample])  # a chat template that needs more than messages shows it here
    except (BaseModelError, NoTokenizer):
        return None
    return found
