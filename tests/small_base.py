"""A random Llama with a byte-level tokenizer trained on the spot: the smallest base that transformers loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

ROLES = ("<|user|>", "<|assistant|>")


def small_base(
    folder: Path,
    texts: Iterable[str],
    *,
    vocab_size: int,
    hidden: int,
    heads: int = 4,
    layers: int = 2,
    context: int = 96,
    specials: tuple[str, ...] = (),
    chat: str | None = None,
    change: Callable[[LlamaForCausalLM], object] = lambda model: None,
    **config: Any,
) -> Path:
    """Save tokenizer and model into `folder`, always the same ones; `change` sees the model before it is saved."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokens = ["<pad>", "<s>", "</s>", *specials]
    tokenizer.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=1, special_tokens=tokens)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat is not None:
        fast.chat_template = chat
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **config,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
    change(model)
    model.save_pretrained(folder)
    return folder
