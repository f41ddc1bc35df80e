"""Read once what all prompts begin with: solved examples, a system prompt; each batch then reads only the rest.

Only where a token's key and value hang on what stands before it and on nothing else: plain attention over everything.
A few last bits of the logits come out otherwise than without sharing, as they do in another batch size.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

MIN_TOKENS: Final = 64
"""A shorter beginning saves less than the copies of its cache cost."""
MIN_PROMPTS: Final = 8
# Their rotary frequencies hang on the length of what is read at once.
_ROTARY_BY_LENGTH: Final = {"dynamic", "longrope"}


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The number of tokens that all prompts begin with, and the model's cache after reading them."""

    tokens: int = 0
    cache: DynamicCache | None = None

    def given(self, batch: int) -> dict[str, Any]:
        """Return what `generate` is given for a batch: a copy of the cache for each of its rows."""
        if self.cache is None:
            return {}
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(batch)
        return {_cache_name(): cache}


def shared_prefix(model: PreTrainedModel, prompts: Sequence[list[int]]) -> SharedPrefix:
    """Read the common beginning of all prompts with the model, where that saves enough and can be done."""
    import torch

    tokens = common_tokens(prompts)
    if len(prompts) < MIN_PROMPTS or tokens < MIN_TOKENS:
        return SharedPrefix()
    cache = _cache_of(model)
    if cache is None:
        return SharedPrefix()
    ids = torch.tensor([prompts[0][:tokens]], device=model.device)
    with torch.inference_mode():
        model(input_ids=ids, use_cache=True, **{_cache_name(): cache})
    return SharedPrefix(tokens, cache)


def common_tokens(prompts: Sequence[list[int]]) -> int:
    """Return with how many tokens all prompts begin; each keeps one at least that is its own.

    >>> common_tokens([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]]), common_tokens([[7], [7]])
    (2, 0)
    """
    first, last = min(prompts), max(prompts)  # all others begin as these two do
    most = min(map(len, prompts)) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)


def _cache_of(model: PreTrainedModel) -> DynamicCache | None:
    """Return an empty cache of the kind that `generate` would make; None where a prefix cannot be kept in it."""
    from transformers import DynamicCache, cache_utils

    config = model.config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    plain = getattr(cache_utils, "DynamicLayer", None)
    if (
        model.config.is_encoder_decoder
        or plain is None
        or not model._supports_default_dynamic_cache()
        or getattr(config, "_attn_implementation", None) not in {"eager", "sdpa"}
        or rotary.get("rope_type") in _ROTARY_BY_LENGTH
        or "position_ids" not in inspect.signature(_decoder(model).forward).parameters
    ):
        return None
    cache = DynamicCache(config=config)
    return cache if cache.layers and all(type(layer) is plain for layer in cache.layers) else None


def _decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model itself, which an adapter's wrapper hides."""
    unwrapped: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    return unwrapped


def _cache_name() -> str:
    """Return how the installed transformers calls the cache."""
    from transformers import GenerationMixin

    named = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in named else "past_key_values"
