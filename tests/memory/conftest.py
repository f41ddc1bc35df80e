from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


@pytest.fixture
def tiny_config() -> Mapping[str, Any]:
    """A Llama of four layers, small enough to trace in a second."""
    return {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 512,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    }


@pytest.fixture
def shallow_config(tiny_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with two layers, where what is traced needs no more."""
    return {**tiny_config, "num_hidden_layers": 2}
