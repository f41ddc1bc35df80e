"""Ollama: the Modelfile that is written for it, and answers from a stand-in that speaks its interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.gguf.modelfile import Modelfile, context_for, go_template
from pytest_finetune.answering.runtimes.gguf.ollama import OllamaRuntime
from pytest_finetune.answering.runtimes.gguf.products import GgufProducts
from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
from pytest_finetune.answering.runtimes.gguf.tools import Tools
from pytest_finetune.answering.runtimes.server.checking import Judged, RenderingCheck
from pytest_finetune.answering.runtimes.server.decoding import NOTHING_SET
from pytest_finetune.answering.runtimes.server.rendering import Written
from pytest_finetune.data.chat import Chat
from pytest_finetune.experiment import Generation, GgufSettings

from .ollama_stand_in import rendered

STAND_IN = Path(__file__).with_name("ollama_stand_in.py")
GREEDY = Generation(max_new_tokens=7)
SAID = {"system": "be brief", "user": 'is {{it}} "so"?', "assistant": "yes"}
TEMPLATES = {
    "chatml": "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} [/]\n\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    "no system": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
}


def chat(template: str) -> Chat:
    return Chat.of({"default": template}, {"bos_token": "<s>"}, (), {})


def conversation(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": SAID[role]} for role in roles]


CONVERSATIONS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_becomes_one_of_ollamas_that_writes_the_same(name: str) -> None:
    render = chat(TEMPLATES[name]).asked
    template = go_template(render)
    assert template is not None
    for roles in CONVERSATIONS:
        if name != "no system" or "system" not in roles:
            asked = conversation(*roles)
            assert rendered(template, "", asked) == render(asked)
    if name == "llama":  # the begin token that the server adds by itself
        without = go_template(render, "<s>")
        assert without is not None
        assert "<s>" + rendered(without, "", conversation("user")) == render(conversation("user"))


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed, whose templates Ollama's are")
@pytest.mark.parametrize("name", TEMPLATES)
def test_gos_own_templates_render_it_alike(name: str, tmp_path: Path) -> None:
    render = chat(TEMPLATES[name]).asked
    asked = [conversation(*roles) for roles in CONVERSATIONS if name != "no system" or "system" not in roles]
    (tmp_path / "main.go").write_text(
        'package main\nimport ("encoding/json"; "os"; "text/template")\n'
        "type Message struct { Role, Content string }\n"
        'func main() {\n t := template.Must(template.New("").Parse(os.Args[1]))\n var all [][]Message\n'
        " json.Unmarshal([]byte(os.Args[2]), &all)\n"
        ' for _, one := range all { t.Execute(os.Stdout, map[string]any{"Messages": one}); os.Stdout.WriteString("\\x00") }\n}\n'
    )
    words = ["go", "run", "main.go", str(go_template(render)), json.dumps(asked)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == [render(one) for one in asked]


def test_a_template_that_writes_more_than_roles_say_is_left_to_ollama() -> None:
    counting = "{% for m in messages %}{{ loop.index }}:{{ m.content }}{% endfor %}"
    twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    last = "{% for m in messages %}<{{ m.role }}{{ '!' if loop.last }}>{{ m.content }}{% endfor %}"
    assert [go_template(chat(one).asked) for one in (counting, twice, last)] == [None, None, None]


def test_a_modelfile_leaves_nothing_to_ollama() -> None:
    generation = Generation(max_new_tokens=64)
    file = Modelfile("/store/m.gguf", "/store/a.gguf", "{{ .Prompt }}", ("<|im_end|>", '"'), 5120, generation)
    assert file.text.splitlines() == [
        "FROM /store/m.gguf",
        "ADAPTER /store/a.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        "PARAMETER num_ctx 5120",
        "PARAMETER num_predict 64",
        "PARAMETER temperature 0",
        "PARAMETER top_p 1.0",
        "PARAMETER top_k 0",
        "PARAMETER min_p 0.0",
        "PARAMETER repeat_penalty 1.0",
        "PARAMETER presence_penalty 0.0",
        "PARAMETER frequency_penalty 0.0",
        f"PARAMETER seed {generation.seed}",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop """""""',
    ]
    assert file.shipped.splitlines()[:2] == ["FROM ./model.gguf", "ADAPTER ./adapter.gguf"]
    assert (context_for(10, 10), context_for(4095, 1)) == (4096, 4352)


class Words:
    """A tokenizer of words, as the side of the decision."""

    start, stops, marks, added_start = None, (9,), (), ""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._known: list[str] = []

    def decoded(self, tokens: Sequence[int]) -> str:
        return "<end>" if list(tokens) == [9] else " ".join(self._known[token - 10] for token in tokens)

    def written(self, asked: Prompted) -> Written:
        text = asked.prompt if isinstance(asked.prompt, str) else self._chat.asked(asked.prompt)
        return self.split(Written((), text))

    def split(self, told: Written) -> Written:
        words = str(told.text).split()
        self._known += [word for word in words if word not in self._known]
        return told._replace(tokens=[10 + self._known.index(word) for word in words])

    def dated(self, asked: Prompted) -> bool:
        return False


class Products:
    """GGUF files that are there already."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def file(self, adapter: Path | None) -> Path:
        return self._root / ("base.gguf" if adapter is None else "tuned.gguf")

    def adapter_file(self, adapter: Path | None) -> None:
        return None

    def facts(self, adapter: Path | None) -> Mapping[str, Any]:
        return {"sha256": "0" * 64}


Make = Callable[..., OllamaRuntime]


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Make:
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{STAND_IN}' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def make(quirk: str = "", root: Path = tmp_path) -> OllamaRuntime:
        monkeypatch.setenv("QUIRK", quirk)
        template = chat(TEMPLATES["chatml"])
        judged = cast(Judged, Words(template))
        check = RenderingCheck("shipped", lambda: judged, refuses=True)
        tools = Tools(tmp_path, tmp_path, tmp_path)
        products = cast(GgufProducts, Products(root))
        settings, log = GgufSettings("q4_k_m", server="ollama"), tmp_path / "o.log"
        served = ServedFiles("shipped", settings, products, lambda: tools, log, NOTHING_SET, check)
        found = OllamaRuntime(served, template)
        request.addfinalizer(found.release)
        return found

    return make


def ask(prompt: Any) -> list[Prompted]:
    return [Prompted("r1", 1, prompt)]


def test_ollama_is_given_the_file_and_asked_as_the_decision_asks(ollama: Make, tmp_path: Path) -> None:
    runtime, messages = ollama(), conversation("system", "user")
    (answer,) = runtime.answer(ask(messages), GREEDY, Path("adapter"))
    assert answer.response == chat(TEMPLATES["chatml"]).asked(messages)
    assert runtime.rendering["says"] == "prompts are as judged on 1 row, compared token by token"
    assert runtime.gguf["server"] == "ollama 0.12.0"
    assert runtime.gguf["modelfile"].startswith("FROM ./model.gguf\nTEMPLATE ")
    (text,) = runtime.answer(ask("plain text"), GREEDY)
    assert text.response == "plain text"
    log = (tmp_path / "o.log").read_text()
    assert log.count("created") == 2
    assert (tmp_path / "o.ollama").is_dir()
    runtime.release()
    assert not (tmp_path / "o.ollama").exists()


def test_a_template_of_ollamas_own_and_a_cut_prompt_are_refused_before_anything_is_judged(
    ollama: Make,
) -> None:
    messages = conversation("user")
    with pytest.raises(AnsweringError, match="template: the chat template writes another text on 1 of 1 row"):
        ollama("templates of its own").answer(ask(messages), GREEDY)
    with pytest.raises(AnsweringError, match="sent: the server reads another number of tokens"):
        ollama("cuts").answer(ask(messages), GREEDY)


def test_stop_words_that_ollama_adds_are_told(ollama: Make) -> None:
    runtime = ollama("stops of its own")
    runtime.answer(ask(conversation("user")), GREEDY)
    assert runtime.rendering["ends"] == ['### "Human"']
    plain = ollama()
    plain.answer(ask(conversation("user")), GREEDY)
    assert "ends" not in plain.rendering


def test_an_ollama_that_shows_no_prompt_is_held_to_its_counts(ollama: Make) -> None:
    runtime = ollama("shows nothing")
    runtime.answer(ask(conversation("user")), GREEDY)
    assert runtime.rendering["by"] == "counts"


def test_what_is_missing_is_named(ollama: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsweringError, match=r"ollama create has failed .*: Error: no such GGUF\n"):
        ollama(root=Path("/nowhere")).answer(ask("text"), GREEDY)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnsweringError, match="server: ollama needs Ollama, and `ollama` is not on PATH"):
        ollama().about()
