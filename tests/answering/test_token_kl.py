"""The token KL on a real, tiny model: against a direct computation, zero where nothing moved, the same in any company."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError, ComparingRuntime
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation
from tests.small_base import small_base

GREEDY = Generation(max_new_tokens=8, batch_size=4)
WORDS = [f"ticket {number}: the printer on floor {number % 7} is out of paper again" for number in range(12)]
PROMPTS = [Prompted(f"p{number}", number, word) for number, word in enumerate(WORDS, 1)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"), WORDS, vocab_size=300, hidden=32)


def adapter(base: Path, folder: Path, *, touched: bool) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        lora = LoraConfig(
            r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=not touched
        )
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(base, tmp_path_factory.mktemp("trained"), touched=True)


@pytest.fixture
def runtime(base: Path) -> TransformersRuntime:
    return TransformersRuntime(str(base))


def test_it_is_a_runtime_that_compares() -> None:
    assert issubclass(TransformersRuntime, ComparingRuntime)


def test_it_is_what_a_direct_computation_over_the_vocabulary_gives(
    runtime: TransformersRuntime, base: Path, trained: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    answers = runtime.answer(PROMPTS[:3], GREEDY)
    found = runtime.token_kl(PROMPTS[:3], answers, trained)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(trained)).eval()
    for asked, said, by_token in zip(PROMPTS, answers, found, strict=False):
        prompt = runtime.tokenizer(text=asked.prompt)["input_ids"]
        answer = runtime.tokenizer(text=said.response, add_special_tokens=False)["input_ids"][: said.tokens]
        expected = []
        for end in range(len(answer) + said.stopped):
            ids = torch.tensor([prompt + answer[:end]])
            with torch.no_grad():
                p, q = (model(ids).logits[0, -1].double().softmax(-1) for model in (plain, tuned))
            expected.append(float((p * (p / q).log()).sum()))
        assert by_token == pytest.approx(expected, abs=1e-5)
        assert min(by_token) > 0


def test_an_adapter_that_changes_nothing_is_at_no_distance(
    runtime: TransformersRuntime, base: Path, tmp_path: Path
) -> None:
    untouched = adapter(base, tmp_path / "untouched", touched=False)
    found = runtime.token_kl(PROMPTS[:3], runtime.answer(PROMPTS[:3], GREEDY), untouched)
    assert {value for by_token in found for value in by_token} == {0.0}


def test_an_answer_has_the_same_distance_alone_and_among_others(
    runtime: TransformersRuntime, trained: Path
) -> None:
    answers = runtime.answer(PROMPTS, GREEDY)
    together = runtime.token_kl(PROMPTS, answers, trained)
    alone = [
        runtime.token_kl([asked], [said], trained)[0] for asked, said in zip(PROMPTS, answers, strict=True)
    ]
    assert together == alone


def test_an_answer_is_read_once_by_each_model_however_many_tokens_it_has(
    runtime: TransformersRuntime, trained: Path
) -> None:
    answers = runtime.answer(PROMPTS[:3], GREEDY)
    read: list[int] = []
    hook = runtime.model.register_forward_pre_hook(
        lambda model, given, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    found = runtime.token_kl(PROMPTS[:3], answers, trained)
    hook.remove()
    prompts = [len(runtime.tokenizer(text=str(asked.prompt))["input_ids"]) for asked in PROMPTS[:3]]
    lengths = [
        prompt + len(by_token) - said.stopped
        for prompt, by_token, said in zip(prompts, found, answers, strict=True)
    ]
    assert read == [length for length in lengths for _ in ("base", "tuned")]


def test_the_base_is_left_as_it_was(runtime: TransformersRuntime, trained: Path) -> None:
    before = [answer.response for answer in runtime.answer(PROMPTS[:4], GREEDY)]
    runtime.token_kl(PROMPTS[:4], runtime.answer(PROMPTS[:4], GREEDY), trained)
    assert [answer.response for answer in runtime.answer(PROMPTS[:4], GREEDY)] == before


def said(response: str, tokens: int, *, stopped: bool) -> Answer:
    return Answer("p1", 1, WORDS[0], response, tokens, 0.1, stopped)


def test_the_end_of_an_answer_counts_where_the_model_ended_it(
    runtime: TransformersRuntime, trained: Path
) -> None:
    lengths = [
        len(runtime.token_kl(PROMPTS[:1], [said(text, tokens, stopped=stopped)], trained)[0])
        for text, tokens, stopped in (("", 0, False), ("", 0, True), ("paper", 9, False), ("paper", 9, True))
    ]
    words = len(runtime.tokenizer(text="paper", add_special_tokens=False)["input_ids"])
    assert lengths == [0, 1, words, words + 1]


def test_a_model_that_was_trained_in_full_stands_beside_its_base(
    runtime: TransformersRuntime, base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    whole = shutil.copytree(base, tmp_path / "whole")
    answers = runtime.answer(PROMPTS[:2], GREEDY)
    same = runtime.token_kl(PROMPTS[:2], answers, whole)
    assert {value for by_token in same for value in by_token} == {0.0}
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(whole)
    moved = runtime.token_kl(PROMPTS[:2], answers, whole)
    assert min(value for by_token in moved for value in by_token) > 0


def test_vocabularies_of_different_size_are_an_error_with_both_sizes() -> None:
    import torch

    from pytest_finetune.answering.runtimes.divergence import Spoken, token_kl

    class Said:
        def __init__(self, size: int) -> None:
            self.logits = torch.zeros(1, 3, size)

    with pytest.raises(AnsweringError, match="different size: 5 and 6"):
        token_kl(Spoken([1, 2], [3], False), lambda **_: Said(5), lambda **_: Said(6), "cpu")


def test_a_token_that_the_base_rules_out_adds_nothing() -> None:
    import torch

    from pytest_finetune.answering.runtimes.divergence import _kl

    masked = torch.tensor([[0.0, 0.0, float("-inf")]])
    assert _kl(masked, torch.tensor([[0.0, 0.0, float("-inf")]])) == [0.0]
    assert _kl(masked, torch.zeros(1, 3)) == pytest.approx([0.405465], abs=1e-5)  # log(3/2)
