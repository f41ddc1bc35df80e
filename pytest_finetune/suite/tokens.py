"""Training rows in tokens, counted with the base's own tokenizer and prompt, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.experiment import Experiment


def tokenization_of(experiment: Experiment) -> Tokenization | None:
    """Return how rows become tokens; None when the base, or a fast tokenizer of it, is not here."""
    from pytest_finetune.data.tokens import NoTokenizer, tokenization
    from pytest_finetune.fingerprint import BaseModelError, base_folder

    try:
        return tokenization(base_folder(experiment), experiment.prompt, experiment.training.max_seq_length)
    except (BaseModelError, NoTokenizer):
        return None
