"""Faults planted in real GGUF files, each found by the real llama.cpp and named for what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.gguf.proof import Converted
from pytest_finetune.answering.runtimes.gguf.proving import prove_file
from pytest_finetune.answering.runtimes.gguf.tools import FOLDER, Tools, convert, find_tools
from pytest_finetune.answering.runtimes.proof import any_rows
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.checking import RenderingCheck, judged_by
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
from pytest_finetune.experiment import Generation
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
SAID = ("the printer is out of paper", "refill the printer now", "who refills the paper, and when?")

pytestmark = pytest.mark.nightly


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
    asking.answer(rows, Generation(max_new_tokens=4), None)


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
