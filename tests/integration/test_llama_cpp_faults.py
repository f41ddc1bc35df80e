"""Faults planted in real GGUF files, each found by the real llama.cpp and named for what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.gguf.convertible import scaled
from pytest_finetune.answering.runtimes.gguf.proof import Converted
from pytest_finetune.answering.runtimes.gguf.proving import prove_file
from pytest_finetune.answering.runtimes.gguf.tools import (
    FOLDER,
    LORA_CONVERTER,
    Tools,
    convert,
    find_tools,
)
from pytest_finetune.answering.runtimes.proof import any_rows
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.checking import RenderingCheck, judged_by
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
from pytest_finetune.bundle.verify.served_again import served_again
from pytest_finetune.experiment import Generation, Prompt
from pytest_finetune.experiment.runtimes import ServerSettings
from pytest_finetune.training.base import BaseSource
from tests.small_base import ROLES, small_base

ROOT = Path(__file__).parents[2]
CHAT = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REFILL = {
    "name": "refill",
    "description": "Refill the printer.",
    "parameters": {"type": "object", "properties": {}},
}
TOOL: dict[str, object] = {"type": "function", "function": REFILL}
BARE: dict[str, object] = {
    "type": "function",
    "function": {name: told for name, told in REFILL.items() if name != "description"},
}
GREEDY = Generation(max_new_tokens=4)
SAID = ("the printer is out of paper", "refill the printer now", "who refills the paper, and when?")

# PEFT asks a model for an old name.
pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv(FOLDER, os.environ.get(FOLDER, str(ROOT / "build" / "llama.cpp")))
    try:
        return find_tools()
    except AnsweringError as error:
        pytest.skip(f"{str(error).splitlines()[0]}: make llama")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def sharpened(model: Any) -> None:
        for name, weights in model.named_parameters():
            if "self_attn" in name:
                weights.data *= 10  # what is looked at must matter

    folder = tmp_path_factory.mktemp("base")
    return small_base(
        folder, SAID, vocab_size=320, hidden=64, context=512, specials=ROLES, chat=CHAT, change=sharpened
    )


@pytest.fixture
def file(base: Path, tools: Tools, tmp_path: Path) -> Path:
    into = tmp_path / "model.gguf"
    convert(tools.converter, "gpt-2", [base, "--outfile", into, "--outtype", "f16"])
    return into


def other_template(text: str) -> Callable[[Path, Path], None]:
    """Write a file again with another chat template, as a converter that does not know the model's would."""

    def write(file: Path, into: Path) -> None:
        import gguf
        from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

        reader = gguf.GGUFReader(file)
        writer = gguf.GGUFWriter(into, "llama")
        told = {gguf.Keys.Tokenizer.CHAT_TEMPLATE: MetadataDetails(gguf.GGUFValueType.STRING, text)}
        copy_with_new_metadata(reader, writer, told, [])

    return write


@contextmanager
def served(base: Path, file: Path, tools: Tools, stops: tuple[int, ...] = ()) -> Iterator[OpenAIRuntime]:
    command = (str(tools.server), "--model", str(file), "--port", "{port}", "--ctx-size", "512", "--jinja")
    check = RenderingCheck("shipped", judged_by(BaseSource(str(base)), stops), refuses=True)
    log = file.with_suffix(".log")
    asking = OpenAIRuntime("shipped", ServerSettings(serve=command), lambda _: file, log, check=check)
    try:
        yield asking
    finally:
        asking.release()


def ask(asking: OpenAIRuntime, tool: dict[str, object] = TOOL) -> None:
    rows = [Prompted(f"r{at}", at, [{"role": "user", "content": text}]) for at, text in enumerate(SAID, 1)]
    rows.append(Prompted("r9", 9, [{"role": "user", "content": SAID[0]}], [tool]))
    asking.answer(rows, GREEDY, None)


def test_rows_of_a_bundle_are_asked_again_with_the_tools_that_they_were_asked_with(
    base: Path, file: Path, tools: Tools, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(base, tmp_path / "bundle"))
    (bundle / "gguf").mkdir()
    shutil.copyfile(file, bundle / "gguf" / "model.gguf")
    told = {"quantization": "f16", "adapter": "merged", "server": "llama.cpp"}
    opened: Any = SimpleNamespace(folder=bundle, experiment={"arms": {"tuned": {"gguf": told}}})
    experiment: Any = SimpleNamespace(prompt=Prompt(template="chat"), generation=GREEDY)
    chat = [{"role": "user", "content": SAID[0]}]
    asked = [Prompted("r1", 1, chat), Prompted("r2", 2, chat, [TOOL])]
    with served(base, file, tools) as asking:
        first = [
            replace(answer, tools=one.tools)
            for answer, one in zip(asking.answer(asked, GREEDY, None), asked, strict=True)
        ]
        assert asking.decoding["calls_held"] == 1
    again, _ = served_again(opened, experiment, first)
    assert [answer.written for answer in again] == [answer.written for answer in first]
    bare, _ = served_again(opened, experiment, [replace(answer, tools=()) for answer in first])
    assert bare[0].written == first[0].written == bare[1].written != first[1].written


def test_a_right_file_asks_as_was_judged_and_a_stop_token_that_it_does_not_name_is_found(
    base: Path, file: Path, tools: Tools
) -> None:
    with served(base, file, tools) as asking:
        ask(asking)
        assert asking.rendering["says"] == "prompts are as judged on 4 rows, compared token by token"
        # The server gives a tool without a description an empty one.
        with pytest.raises(
            AnsweringError, match=r"tools: tools are rendered otherwise on 1 of 4 .*\n.*a description"
        ):
            ask(asking, BARE)
    with (
        served(base, file, tools, (2, 7)) as asking,
        pytest.raises(
            AnsweringError, match=r"stop token: an answer ends at .* and goes on there at the server"
        ),
    ):
        ask(asking)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            CHAT.replace("'|>' +", "'|>\n' +"),
            r"template: the chat template writes another text on 4 of 4 rows",
        ),
        ("{{ bos_token }}" + CHAT, r"bos doubled: the begin token stands there twice on 4 of 4 rows"),
        (CHAT.replace("{{ bos_token }}", ""), r"bos missing: the begin token is missing on 4 of 4 rows"),
        (
            CHAT.replace("tools | tojson", "'none'"),
            r"tools: tools are rendered otherwise on 1 of 4 rows, first on r9",
        ),
        (
            CHAT.replace("'<|assistant|>' }}", "'<|assistant|>' }}{{ eos_token }}"),
            r"generation prompt: the prompt ends otherwise, where the answer begins on 4 of 4 rows",
        ),
    ],
    ids=["template", "doubled", "missing", "tools", "turn"],
)
def test_another_template_in_the_file_is_named_for_what_it_does(
    base: Path, file: Path, tools: Tools, tmp_path: Path, template: str, told: str
) -> None:
    planted = tmp_path / "planted.gguf"
    other_template(template)(file, planted)
    with served(base, planted, tools) as asking, pytest.raises(AnsweringError, match=told):
        ask(asking)


def test_an_adapter_that_was_scaled_or_put_in_another_order_is_no_proof(
    base: Path, file: Path, tools: Tools, tmp_path: Path
) -> None:
    import gguf

    adapter, source, log = drawn_adapter(base, tmp_path / "adapter"), BaseSource(str(base)), tmp_path / "log"
    made = tmp_path / "adapter.gguf"
    with scaled(adapter) as folder:
        words = ("--base", base, "--outfile", made, "--outtype", "f32")
        convert(tools.converter.with_name(LORA_CONVERTER), None, [folder, *words])
    converted = Converted(file, "f16", base, adapter, made)
    proof = prove_file(converted, source, any_rows, tools.server, log)
    assert proof.largest < proof.allowed / 2
    assert proof.moved is not None
    assert proof.moved > 10 * proof.allowed

    def planted(name: str, by: Callable[[Any], Any]) -> None:
        other = Path(shutil.copy(made, tmp_path / f"{name}.gguf"))
        reader = gguf.GGUFReader(other, "r+")
        for tensor in reader.tensors:
            if tensor.name.endswith("attn_q.weight.lora_b"):
                tensor.data[:] = by(tensor.data)
        reader.data.flush()
        with pytest.raises(AnsweringError, match="the converted adapter is not the one that was trained"):
            prove_file(converted._replace(adapter_file=other), source, any_rows, tools.server, log)

    planted("twice", lambda data: data * 2)
    planted("order", lambda data: data.reshape(4, 8, 2, 4).swapaxes(1, 2).reshape(64, 4).copy())


def drawn_adapter(base: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        lora = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
            init_lora_weights=False,
        )
        get_peft_model(model, lora).save_pretrained(folder)
    return folder


def test_weights_that_were_put_in_another_order_are_no_proof(
    base: Path, file: Path, tools: Tools, tmp_path: Path
) -> None:
    import gguf

    source, log = BaseSource(str(base)), tmp_path / "proof.log"
    proof = prove_file(Converted(file, "f16", base), source, any_rows, tools.server, log)
    assert proof.largest < proof.allowed / 2

    reader = gguf.GGUFReader(file, "r+")
    for tensor in reader.tensors:
        if tensor.name.endswith(
            "attn_q.weight"
        ):  # as they would be if each head's two halves were not interleaved
            tensor.data[:] = tensor.data.reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64).copy()
    reader.data.flush()
    with pytest.raises(AnsweringError, match="the converted model is not the one that was merged"):
        prove_file(Converted(file, "f16", base), source, any_rows, tools.server, log)
