"""What all prompts begin with is read once, and the answers are those of reading it again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import shared_prefix
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation

SHOTS = " ".join(f"ticket {number}: priority {number % 3}." for number in range(24))
GREEDY = Generation(max_new_tokens=6, batch_size=4)
KINDS = ("Llama", "Qwen3", "GPT2", "Gemma3Text", "Mamba")


def asked(count: int = 10) -> list[Prompted]:
    texts = (f"{SHOTS} ticket {number}: {'late ' * (number % 4)}priority" for number in range(count))
    return [Prompted(f"r{line}", line, text) for line, text in enumerate(texts, 1)]


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([SHOTS], vocab_size=300, special_tokens=["<pad>", "</s>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": len(fast)}
    if request.param not in ("GPT2", "Mamba"):
        sizes |= {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    if request.param == "GPT2":
        sizes |= {"n_head": 4}
    config = getattr(transformers, f"{request.param}Config")(**sizes, pad_token_id=0, eos_token_id=1)
    name = "GPT2LMHeadModel" if request.param == "GPT2" else f"{request.param}ForCausalLM".replace("Text", "")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, name)(config)
    model.save_pretrained(folder)
    return folder


@contextmanager
def forwards(runtime: TransformersRuntime) -> Iterator[list[Any]]:
    """Collect the number of tokens that each forward reads, and the logits of its last place."""
    seen: list[Any] = []

    def note(model: Any, given: Any, named: Any, output: Any) -> None:
        seen.append((named["input_ids"].numel(), output.logits[:, -1].clone()))

    hook = runtime.model.register_forward_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def test_the_prefix_is_read_once_and_the_answers_stay(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    runtime, prompts = TransformersRuntime(str(base)), asked()
    with forwards(runtime) as shared:
        first = runtime.answer(prompts, GREEDY)
    with forwards(runtime) as once_more:
        again = runtime.answer_again(prompts, range(10), GREEDY)
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS", 10**9)
    with forwards(runtime) as alone:
        own = runtime.answer(prompts, GREEDY)
    assert [answer.response for answer in first] == [answer.response for answer in own]
    assert [answer.response for answer in again] == [answer.response for answer in first]
    assert [answer.prompt for answer in first] == [prompt.prompt for prompt in prompts]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(shared, once_more, strict=True))
    if base.name.startswith(("Gemma3", "Mamba")):  # a window, a state: nothing of theirs can be kept
        assert [tokens for tokens, _ in shared] == [tokens for tokens, _ in alone]
        return
    lengths = sorted(
        (len(runtime.tokenizer(text=prompt.prompt)["input_ids"]) for prompt in prompts), reverse=True
    )
    common = shared_prefix.common_tokens([runtime.tokenizer(text=one.prompt)["input_ids"] for one in prompts])
    assert common > 64
    batches = [lengths[:4], lengths[4:8], lengths[8:]]
    read = [tokens for tokens, _ in shared if tokens > 4]
    assert read == [common, *(len(batch) * (max(batch) - common) for batch in batches)]
    assert [tokens for tokens, _ in alone if tokens > 4] == [len(batch) * max(batch) for batch in batches]
    for (_, ours), (_, theirs) in zip(shared[1:], alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_few_prompts_or_a_short_beginning_are_read_as_before(base: Path) -> None:
    runtime = TransformersRuntime(str(base))
    model = runtime.model
    short = [[1, 2, 3, number] for number in range(20)]
    few = [[*range(80), number] for number in range(3)]
    assert shared_prefix.shared_prefix(model, short).given(4) == {}
    assert shared_prefix.shared_prefix(model, few).tokens == 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("base", ["Llama"], indirect=True)
def test_an_adapter_reads_the_beginning_for_itself(base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(tmp_path)
    adapter = tmp_path
    runtime, prompts = TransformersRuntime(str(base)), asked()
    with forwards(runtime) as shared:
        tuned = runtime.answer(prompts, GREEDY, adapter)
    several = [runtime.answer(prompts[start : start + 5], GREEDY, adapter) for start in (0, 5)]
    assert [answer.response for answer in tuned] == [one.response for part in several for one in part]
    with forwards(runtime) as plain:
        runtime.answer(prompts, GREEDY)
    assert shared[0][0] == plain[0][0] > 64
    assert not torch.equal(shared[0][1], plain[0][1])
