from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted, Rendered
from pytest_finetune.answering.runtimes import AnsweringError, Runtime
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation
from tests.small_base import ROLES, small_base

CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = [f"ticket {number}: the printer on floor {number % 7} is out of paper again" for number in range(40)]
GREEDY = Generation(max_new_tokens=10, batch_size=4)


def build_base(folder: Path) -> Path:
    from transformers import GenerationConfig

    def peaked(model: Any) -> None:
        model.lm_head.weight.data *= 20  # so that rounding between batch shapes never changes the choice
        # What a model's folder says about sampling must not change an experiment's greedy answers.
        model.generation_config = GenerationConfig(
            do_sample=True, temperature=3.0, repetition_penalty=5.0, eos_token_id=[2, 7], pad_token_id=0
        )

    return small_base(folder, WORDS, vocab_size=400, hidden=64, specials=ROLES, chat=CHAT, change=peaked)


def build_adapter(base: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def runtime(base: Path) -> TransformersRuntime:
    return TransformersRuntime(str(base))


def ask(*texts: str) -> list[Prompted]:
    return [Prompted(f"r{line}", line, text) for line, text in enumerate(texts, 1)]


def said(answers: list[Answer]) -> list[dict[str, Any]]:
    """Return the answers without their times."""
    return [
        {name: value for name, value in asdict(answer).items() if name != "seconds"} for answer in answers
    ]


def test_it_is_a_runtime_and_loads_nothing_before_it_is_asked(base: Path) -> None:
    code = (
        "import sys\n"
        "from pytest_finetune.answering.runtimes import Runtime\n"
        "from pytest_finetune.answering.runtimes.transformers import TransformersRuntime\n"
        f"assert isinstance(TransformersRuntime({str(base)!r}), Runtime)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
    assert issubclass(TransformersRuntime, Runtime)


def test_answers_come_back_in_the_order_of_the_prompts(runtime: TransformersRuntime) -> None:
    prompts = ask(WORDS[0], "a", WORDS[1] + WORDS[2], "printer on")
    answers = runtime.answer(prompts, GREEDY)
    assert [(answer.id, answer.line, answer.prompt) for answer in answers] == [asked[:3] for asked in prompts]
    assert all(answer.seconds > 0 for answer in answers)
    assert runtime.answer([], GREEDY) == []


def test_a_batch_gives_each_prompt_the_answer_it_has_alone(runtime: TransformersRuntime) -> None:
    prompts = ask(*(word[: 5 + 7 * number] for number, word in enumerate(WORDS[:8])))
    together = said(runtime.answer(prompts, Generation(max_new_tokens=10, batch_size=8)))
    alone = [said(runtime.answer([prompt], GREEDY))[0] for prompt in prompts]
    assert together == alone


def test_greedy_answers_are_plain_greedy_whatever_the_models_folder_says(
    runtime: TransformersRuntime,
) -> None:
    import torch

    (answer,) = runtime.answer(ask(WORDS[0]), GREEDY)
    ids = runtime.tokenizer(WORDS[0])["input_ids"]
    fresh: list[int] = []
    for _ in range(10):
        with torch.no_grad():
            best = int(runtime.model(torch.tensor([ids + fresh])).logits[0, -1].argmax())
        if best in (2, 7):
            break
        fresh.append(best)
    assert answer.response == runtime.tokenizer.decode(fresh, skip_special_tokens=True)
    assert answer.tokens == len(fresh)


def test_every_stop_token_of_the_model_ends_an_answer(runtime: TransformersRuntime) -> None:
    assert runtime.model is not None
    assert runtime._stops == {2, 7}


@pytest.mark.parametrize(("limit", "stopped", "tokens"), [(3, False, 3), (10, True, 5)])
def test_an_answer_says_whether_it_ended_by_itself(
    runtime: TransformersRuntime, monkeypatch: pytest.MonkeyPatch, limit: int, stopped: bool, tokens: int
) -> None:
    import torch

    def generate(input_ids: Any, generation_config: Any, **_: Any) -> Any:
        fresh = torch.tensor([[10, 11, 12, 13, 14, 2, 0, 0, 0, 0]])[:, : generation_config.max_new_tokens]
        return torch.cat([input_ids, fresh], dim=1)

    monkeypatch.setattr(runtime.model, "generate", generate)
    (answer,) = runtime.answer(ask("a"), Generation(max_new_tokens=limit))
    assert (answer.stopped, answer.tokens) == (stopped, tokens)


def test_the_base_answers_the_same_before_and_after_an_adapter(
    runtime: TransformersRuntime, adapter: Path
) -> None:
    import torch

    prompts = ask(*WORDS[:6])
    weights = {name: tensor.clone() for name, tensor in runtime.model.state_dict().items()}
    kinds = [(name, type(module)) for name, module in runtime.model.named_modules()]
    before = said(runtime.answer(prompts, GREEDY))
    tuned = said(runtime.answer(prompts, GREEDY, adapter))
    assert said(runtime.answer(prompts, GREEDY)) == before
    assert said(runtime.answer(prompts, GREEDY, adapter)) == tuned
    assert tuned != before
    assert [(name, type(module)) for name, module in runtime.model.named_modules()] == kinds
    assert all(torch.equal(tensor, weights[name]) for name, tensor in runtime.model.state_dict().items())


def test_an_adapter_that_fails_half_way_leaves_the_base_clean(
    runtime: TransformersRuntime, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = said(runtime.answer(ask("a"), GREEDY))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the card fell out")

    with monkeypatch.context() as patched:
        patched.setattr(runtime, "_answer_batch", broken)
        with pytest.raises(RuntimeError, match="the card fell out"):
            runtime.answer(ask("a"), GREEDY, adapter)
    assert said(runtime.answer(ask("a"), GREEDY)) == before


def test_chat_prompts_go_through_the_template_once(runtime: TransformersRuntime) -> None:
    (answer,) = runtime.answer([Prompted("r1", 1, [{"role": "user", "content": "out of paper"}])], GREEDY)
    assert answer.prompt == "<s><|user|>out of paper</s><|assistant|>"
    (text,) = runtime.answer(ask(answer.prompt), GREEDY)
    assert text.response == answer.response


def test_special_tokens_that_tell_an_answer_apart_stay_in_the_text_and_others_do_not(base: Path) -> None:
    runtime = TransformersRuntime(str(base))
    plain = runtime.tokenizer.chat_template
    channels = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>final<|user|>{{ m.content }}</s>"
        "{% else %}<s>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    asked = Prompted("r1", 1, [{"role": "user", "content": "out of paper"}])
    ids = runtime.tokenizer(text="final<|user|><s>yes", add_special_tokens=False)["input_ids"]
    for template, text in ((channels, "final<|user|>yes"), (plain, "finalyes")):
        runtime.tokenizer.chat_template = template
        runtime._encoder._chats.clear()
        assert runtime._decoded(runtime._encoder.encoded(asked), ids) == text
    assert runtime._decoded(runtime._encoder.encoded(Prompted("r1", 1, "text")), ids) == "finalyes"


def test_a_prompt_without_room_for_the_answer_is_named(runtime: TransformersRuntime) -> None:
    long = "paper " * 90
    with pytest.raises(AnsweringError) as caught:
        runtime.answer(ask("short", long, "short", long), GREEDY)
    lines = str(caught.value).split("\n")
    assert lines[0] == (
        "2 of 4 prompts leave no room for the answer: the model attends to 96 tokens, and max_new_tokens 10 "
        "leaves 86 for the prompt"
    )
    assert lines[1].startswith("  r2 (line 2): ")
    assert lines[2].startswith("  r4 (line 4): ")
    assert "prompt.few_shot" in lines[3]


def test_an_empty_prompt_is_an_error_that_names_the_row(runtime: TransformersRuntime) -> None:
    with pytest.raises(AnsweringError, match=r"r2 \(line 2\): the prompt has no token"):
        runtime.answer(ask("a", ""), GREEDY)


def test_sampling_hangs_on_the_seed_and_leaves_the_random_state(runtime: TransformersRuntime) -> None:
    import torch

    def sample(seed: int) -> list[str]:
        settings = Generation(max_new_tokens=10, batch_size=2, do_sample=True, temperature=50.0, seed=seed)
        return [answer.response for answer in runtime.answer(ask(*WORDS[:4]), settings)]

    before = torch.get_rng_state()
    first = sample(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert sample(0) == first
    assert sample(1) != first


def test_generate_gives_the_texts_of_the_base(base: Path) -> None:
    runtime = TransformersRuntime(str(base), generation=GREEDY)
    expected = [answer.response for answer in runtime.answer(ask(*WORDS[:3]), GREEDY)]
    assert runtime.generate(WORDS[:3]) == expected


def test_a_released_model_is_loaded_again_and_answers_the_same(runtime: TransformersRuntime) -> None:
    before = said(runtime.answer(ask(*WORDS[:3]), GREEDY))
    runtime.release()
    assert runtime._model is None
    runtime.release()
    assert said(runtime.answer(ask(*WORDS[:3]), GREEDY)) == before


def test_answering_prints_nothing(
    runtime: TransformersRuntime, adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime.answer(ask(*WORDS[:3]), GREEDY, adapter)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.fixture
def spoil(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    import shutil

    def make(*, config: object = None, drop: str | None = None, add: str | None = None) -> Path:
        folder = shutil.copytree(adapter, tmp_path / "spoiled")
        if config is not None:
            (folder / "adapter_config.json").write_text(
                config if isinstance(config, str) else json.dumps(config)
            )
        if drop:
            (folder / drop).unlink()
        if add:
            (folder / add).write_bytes(b"\x80\x04.")
        return folder

    return make


def test_a_pickled_adapter_is_refused(runtime: TransformersRuntime, spoil: Callable[..., Path]) -> None:
    folder = spoil(drop="adapter_model.safetensors", add="adapter_model.bin")
    with pytest.raises(
        AnsweringError, match=r"only adapter_model\.bin, which can run code when loaded: refused"
    ):
        runtime.answer(ask("a"), GREEDY, folder)


def test_an_adapter_whose_configuration_imports_code_is_refused(
    runtime: TransformersRuntime, spoil: Callable[..., Path]
) -> None:
    folder = spoil(
        config={"peft_type": "LORA", "auto_mapping": {"parent_library": "os", "base_model_class": "x"}}
    )
    with pytest.raises(AnsweringError, match="'auto_mapping', which makes PEFT import code: refused"):
        runtime.answer(ask("a"), GREEDY, folder)


@pytest.mark.parametrize(("config", "said"), [("{", "cannot be read"), ("[]", "is no mapping")])
def test_an_unreadable_configuration_is_named(
    runtime: TransformersRuntime, spoil: Callable[..., Path], config: str, said: str
) -> None:
    with pytest.raises(AnsweringError, match=said):
        runtime.answer(ask("a"), GREEDY, spoil(config=config))


def test_an_adapter_that_is_not_there_is_named(runtime: TransformersRuntime, tmp_path: Path) -> None:
    with pytest.raises(AnsweringError, match=r"no adapter_model\.safetensors, nothing of that name: refused"):
        runtime.answer(ask("a"), GREEDY, tmp_path / "missing")


def test_an_adapter_of_another_shape_is_refused_and_the_base_answers_as_before(
    runtime: TransformersRuntime, spoil: Callable[..., Path], adapter: Path
) -> None:
    before = said(runtime.answer(ask("a"), GREEDY))
    config = json.loads((adapter / "adapter_config.json").read_text())
    with pytest.raises(AnsweringError, match="does not fit the base model"):
        runtime.answer(ask("a"), GREEDY, spoil(config=config | {"r": 8}))
    assert said(runtime.answer(ask("a"), GREEDY)) == before


def test_an_adapter_that_lacks_weights_is_refused(
    runtime: TransformersRuntime, spoil: Callable[..., Path], adapter: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = spoil()
    tensors = load_file(folder / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(AnsweringError, match=r"6 of its weights are not in the file \(.*layers\.1\.mlp"):
        runtime.answer(ask("a"), GREEDY, folder)


def test_an_unknown_quantization_names_the_known() -> None:
    with pytest.raises(ValueError, match="quantization 'nf8': known are none, nf4, int8"):
        TransformersRuntime("models/x", quantization="nf8")


def test_some_answers_are_given_again_in_the_batches_of_all(
    runtime: TransformersRuntime, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ask(*(f"{word} {'again ' * (place % 5)}" for place, word in enumerate(WORDS[:12])))
    sampled = Generation(max_new_tokens=6, batch_size=4, do_sample=True, seed=7)
    whole = runtime.answer(prompts, sampled, adapter)
    sizes: list[int] = []
    answer_batch = TransformersRuntime._answer_batch

    def counted(self: Any, model: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(batch))
        return answer_batch(self, model, batch, *args, **kwargs)

    monkeypatch.setattr(TransformersRuntime, "_answer_batch", counted)
    again = runtime.answer_again(prompts, [9, 4], sampled, adapter)
    assert said(again) == said([whole[9], whole[4]])  # sampled alike: each batch has its own seed
    assert sizes == [4]  # both stand in one batch of the three
    assert runtime.answer_again([], [], sampled) == []


def test_a_chat_as_the_template_wrote_it_is_asked_again_as_it_was(runtime: TransformersRuntime) -> None:
    from tokenizers.processors import TemplateProcessing

    begin = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    runtime.tokenizer.backend_tokenizer.post_processor = begin
    chats = [[{"role": "user", "content": word}] for word in WORDS[:3]]
    asked = [Prompted(f"r{line}", line, chat) for line, chat in enumerate(chats, 1)]
    answers = runtime.answer(asked, GREEDY)
    again = [Prompted(answer.id, answer.line, Rendered(answer.prompt)) for answer in answers]
    assert said(runtime.answer(again, GREEDY)) == said(answers)
    plain = runtime._encoder.encoded(Prompted("r1", 1, answers[0].prompt)).ids
    assert plain == [
        1,
        *runtime._encoder.encoded(again[0]).ids,
    ]  # a plain text gets special tokens of its own
