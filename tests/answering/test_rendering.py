"""What a server makes of prompts against what is judged: every planted fault is named for what it is."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.server.checking import Judged, RenderingCheck
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import CLOCK, renderer
from pytest_finetune.experiment import Generation
from pytest_finetune.experiment.runtimes import ServerSettings
from pytest_finetune.judging.runtime_match import cause_of, end_of

CHAT = (
    "{{ bos_token }}{% if tools %}{% for tool in tools %}[{{ tool | tojson }}]{% endfor %}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
THINKING = CHAT.replace(
    "'<|assistant|>' }}", "'<|assistant|>' }}{% if thinking is not defined %}{{ '<t>' }}{% endif %}"
)
DATED = CHAT.replace("{{ bos_token }}", "{{ bos_token }}{{ strftime_now('%d %b %Y') }}")
TOOL = {"type": "function", "function": {"name": "refill", "parameters": {"type": "object"}}}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SAID = ("the printer is out of paper", "refill the printer", "who refills the paper")


def build_tokenizer(folder: Path, template: str = CHAT, said: Sequence[str] = SAID) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<t>"]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(said, vocab_size=320, min_frequency=1, special_tokens=specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@dataclass
class Served:
    """What a server holds: a template, a tokenizer, whether it adds a begin token, where its answers end."""

    folder: Path
    template: str = CHAT
    adds_start: bool = True
    stops: tuple[int, ...] = (2, 4)
    system_prompt: int = 0
    pages: tuple[str, ...] = ("/apply-template", "/tokenize", "/completion")
    today: datetime = CLOCK
    owner: str = "llamacpp"
    words: tuple[str, ...] = ()

    def rendered(self, said: dict[str, Any]) -> str:
        """Render as llama-server does: a begin token that its tokenizer adds is taken off the text."""
        kwargs = said.get("chat_template_kwargs", {})
        write = renderer(self.template, SPECIAL, kwargs, clock=self.today)
        text = write(said["messages"], said.get("tools", ()), True)
        return text.removeprefix("<s>") if self.adds_start else text

    def tokens(self, text: str) -> list[int]:
        return [1, *self.split(text)] if self.adds_start else self.split(text)

    def split(self, text: str) -> list[int]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def told(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path == "/v1/chat/completions":
            counted = len(self.tokens(self.rendered(body))) + self.system_prompt
            choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
            return {"choices": [choice], "usage": {"completion_tokens": 1, "prompt_tokens": counted}}
        if path not in self.pages:
            return None
        if path == "/apply-template":
            return {"prompt": self.rendered(body)}
        if path == "/tokenize":
            return {"tokens": self.tokens(body["content"])}
        if "logit_bias" not in body:
            return {"content": "", "stop_type": "limit", "generation_settings": {"stop": list(self.words)}}
        ((token, sure),) = body["logit_bias"]
        assert sure > 1000
        assert body["n_predict"] == 1
        return {"content": "", "stop_type": "eos" if token in self.stops else "limit"}


@contextlib.contextmanager
def serving(served: Served) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send({"data": [{"id": "tuned", "owned_by": served.owner}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(served.told(self.path, body))

        def send(self, told: dict[str, Any] | None) -> None:
            data = json.dumps(told).encode()
            self.send_response(404 if told is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def judged(base: Path) -> Judged:
    return judging(base, (2, 4))


def judging(folder: Path, stops: Sequence[int]) -> Judged:
    from transformers import PreTrainedTokenizerFast

    return Judged(PreTrainedTokenizerFast.from_pretrained(folder), "base", stops)


def asked(*tools: dict[str, Any]) -> list[Prompted]:
    rows = [Prompted(f"r{at}", at, [{"role": "user", "content": text}]) for at, text in enumerate(SAID, 1)]
    return [*rows, Prompted("r9", 9, [{"role": "user", "content": SAID[0]}], tools)]


def answered(
    served: Served, judged: Judged, prompts: Sequence[Prompted], *, refuses: bool, **given: Any
) -> OpenAIRuntime:
    chat, api = Chat(renderer(CHAT, SPECIAL), CHAT), given.get("api")
    with serving(served) as url:
        settings = ServerSettings(url=url, retries=0, **given)
        check = RenderingCheck("shipped", lambda: judged, api, refuses)
        asking = OpenAIRuntime("shipped", settings, lambda _: Path(), Path("log"), chat=chat, check=check)
        answers = asking.answer(prompts, Generation(max_new_tokens=4), Path("adapter"))
        assert [answer.response for answer in answers] == ["yes"] * len(prompts)
    return asking


def test_a_server_that_asks_as_was_judged_is_said_to_do_so(base: Path, judged: Judged) -> None:
    found = answered(Served(base), judged, asked(TOOL), refuses=True).rendering
    assert found == {
        "rows": 4,
        "by": "tokens",
        "differences": [],
        "says": "prompts are as judged on 4 rows, compared token by token",
    }
    # A server that shows nothing tells at least how many tokens it read.
    mute = answered(Served(base, pages=()), judged, asked(TOOL), refuses=False).rendering
    assert mute["by"] == "counts"
    assert mute["says"] == "prompts are as judged on 4 rows, compared by their number of tokens"


OTHER = CHAT.replace("'|>' + m['content']", "'|>\\n' + m['content']")
NO_TOOLS = CHAT.replace("tool | tojson", "tool.function.name")
FAULTS: dict[str, tuple[Callable[[Path, Path], Served], str]] = {
    "template": (
        lambda base, other: Served(base, OTHER),
        r"template: the chat template writes another text on 4 of 4 rows, first on r1 \(line 1\) at token 3: judged "
        r"'<s><\|user\|>the printer .*', served '<s><\|user\|>\\nthe.*\n    serve the chat template of the base's folder",
    ),
    "tools": (
        lambda base, other: Served(base, NO_TOOLS),
        r"tools: tools are rendered otherwise on 1 of 4 rows, first on r9 \(line 9\) at token 3",
    ),
    "doubled": (
        lambda base, other: Served(base, "<s>" + CHAT),
        r"bos doubled: the begin token stands there twice on 4 of 4 rows, .* judged '<s>.*', served '<s><s>",
    ),
    "missing": (
        lambda base, other: Served(base, CHAT.replace("{{ bos_token }}", ""), adds_start=False),
        r"bos missing: the begin token is missing on 4 of 4 rows",
    ),
    "turn": (
        lambda base, other: Served(base, THINKING),
        r"generation prompt: the prompt ends otherwise, where the answer begins on 4 of 4 rows.*served '.*<t>'",
    ),
    "tokenizer": (
        lambda base, other: Served(other),
        r"tokenizer: the same text is split into other tokens on 4 of 4 rows.*\n.*tokenizer\.ggml\.pre",
    ),
    "stop": (
        lambda base, other: Served(base, stops=(2,)),
        r"stop token: an answer ends at '<\|assistant\|>' for the decision, and goes on there at the server",
    ),
    "sent": (
        lambda base, other: Served(base, system_prompt=7),
        r"sent: the server reads another number of tokens than the prompt has on 4 of 4 rows, first on r1: judged "
        r"(\d+), served \d+",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_and_refused_before_an_answer_is_judged(
    fault: str, base: Path, judged: Judged, tmp_path: Path
) -> None:
    make, told = FAULTS[fault]
    other = (
        build_tokenizer(tmp_path, said=[text[::-1] for text in SAID]) if fault == "tokenizer" else tmp_path
    )
    served = make(base, other)
    with pytest.raises(AnsweringError, match=f"(?s)would not be asked as it was judged.*{told}"):
        answered(served, judged, asked(TOOL), refuses=True)
    # At a server that somebody else runs the same stands in the record, and is the first cause to look at.
    found = answered(served, judged, asked(TOOL), refuses=False).rendering
    (difference,) = found["differences"]
    assert re.search(told, f"{difference['kind']}: {difference['says']}\n    {difference['do']}")
    assert found["says"] == difference["says"]
    cause = cause_of("shipped", {"rendering": found})
    assert cause == f"{difference['says']}: {difference['do']}"


def test_an_end_that_only_the_server_knows_is_told_and_is_the_cause_where_it_cut_answers(
    base: Path, judged: Judged
) -> None:
    served = Served(base, stops=(2, 4, 5), words=("###", "</s>"))
    found = answered(served, judged, asked(TOOL), refuses=True).rendering
    assert found["ends"] == ["<t>", "###"]
    assert found["differences"] == []  # it is none until an answer holds one
    arms: list[dict[str, Any]] = [{}, {"rendering": found}]
    went_on = ["low", "low", "high\n### more"]
    cause = end_of("transformers", "shipped", arms, [went_on, ["low", "low", "high\n"]])
    assert cause is not None
    assert "shipped also ends an answer at '<t>', '###', where transformers goes on, and 1 of 3" in cause
    assert end_of("shipped", "transformers", arms[::-1], [["low", "low", "high\n"], went_on]) == cause
    assert end_of("transformers", "shipped", arms, [went_on, ["low", "low", "medium"]]) is None
    assert end_of("transformers", "shipped", [{}, {}], [went_on, ["low", "low", "high\n"]]) is None


def test_a_template_that_writes_the_day_is_told_from_another_template(tmp_path: Path) -> None:
    judged = judging(build_tokenizer(tmp_path, DATED), ())
    served = Served(tmp_path, DATED, today=datetime(2026, 2, 3, tzinfo=UTC))
    with pytest.raises(
        AnsweringError, match=r"date: the chat template writes the date of the day on 4 of 4 rows"
    ):
        answered(served, judged, asked(), refuses=True)


def test_messages_sent_as_text_get_a_second_begin_token_from_a_tokenizer_that_adds_one(
    base: Path, judged: Judged
) -> None:
    class AsText(Served):
        def told(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
            if path != "/v1/completions":
                return super().told(path, body)
            usage = {"completion_tokens": 1, "prompt_tokens": len(self.tokens(body["prompt"]))}
            return {"choices": [{"text": "yes", "finish_reason": "stop"}], "usage": usage}

    found = answered(AsText(base), judged, asked(), refuses=False, api="completions").rendering
    assert [difference["kind"] for difference in found["differences"]] == ["bos doubled"]
    plain = answered(
        AsText(base, adds_start=False), judged, asked(), refuses=True, api="completions"
    ).rendering
    assert plain["differences"] == []


def test_a_server_of_ours_that_does_not_show_its_prompts_is_refused(base: Path, judged: Judged) -> None:
    with pytest.raises(AnsweringError, match=r"'shipped': the server does not show its prompts: HTTP 404"):
        answered(Served(base, pages=("/tokenize",)), judged, asked(), refuses=True)


def complete(tool: dict[str, Any]) -> dict[str, Any]:
    """Write a tool as vLLM does before the template sees it: these fields in this order, null where there is none."""
    return {name: tool["function"].get(name) for name in ("name", "description", "parameters")}


class Vllm(Served):
    """vLLM's `/tokenize`: messages or a text with the model's name in, `tokens` with their `count` out.

    A template writes the begin token itself, a text is given one unless `add_special_tokens` says otherwise.
    """

    def written(self, body: dict[str, Any]) -> list[int]:
        text = body.get("prompt") or self.rendered_with_start(body)
        special = body.get("add_special_tokens", "prompt" in body)
        return self.tokens(text) if special else self.split(text)

    def rendered_with_start(self, body: dict[str, Any]) -> str:
        tools = [{"type": "function", "function": complete(tool)} for tool in body.get("tools", ())]
        kwargs = body.get("chat_template_kwargs", {})
        write = renderer(self.template, SPECIAL, kwargs, clock=self.today)
        return write(body["messages"], tools, True)

    def told(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        assert body["model"] == "tuned"
        counted = len(tokens := self.written(body))
        if path == "/tokenize":
            return {"count": counted, "max_model_len": 512, "tokens": tokens, "token_strs": None}
        said = {"message": {"content": "yes"}} if "messages" in body else {"text": "yes"}
        usage = {"completion_tokens": 1, "prompt_tokens": counted}
        return {"choices": [{**said, "finish_reason": "stop"}], "usage": usage}


def test_vllm_shows_the_tokens_of_messages_and_of_texts(base: Path, judged: Judged) -> None:
    refill = {"name": "refill", "description": "Refill the paper.", "parameters": {"type": "object"}}
    described = {"type": "function", "function": refill}
    served = Vllm(base, owner="vllm")
    alike = "prompts are as judged on 4 rows, compared token by token"
    assert answered(served, judged, asked(described), refuses=True).rendering["says"] == alike
    texts = [Prompted("r1", 1, "the printer is"), Prompted("r2", 2, "out of paper")]
    plain = Vllm(base, owner="vllm", adds_start=False)
    assert answered(plain, judged, texts, refuses=True).rendering["by"] == "tokens"
    with pytest.raises(
        AnsweringError, match="bos doubled: the begin token stands there twice on 2 of 2 rows"
    ):
        answered(served, judged, texts, refuses=True)
    with pytest.raises(
        AnsweringError, match=r"tools: tools are rendered otherwise on 1 of 4 .*\n.*a description is missing"
    ):
        answered(served, judged, asked(TOOL), refuses=True)
    with pytest.raises(AnsweringError, match="template: the chat template writes another text on 4 of 4"):
        answered(Vllm(base, OTHER, owner="vllm"), judged, asked(described), refuses=True)


@pytest.mark.parametrize(
    ("served", "extra", "kind"),
    [
        (Vllm, {"add_special_tokens": True}, "bos doubled"),
        *((served, {}, "generation prompt") for served in (Served, Vllm)),
        *((served, {"chat_template_kwargs": {"thinking": False}}, None) for served in (Served, Vllm)),
    ],
)
def test_what_each_question_holds_besides_is_shown_as_it_is_asked(
    served: type[Served], extra: dict[str, Any], kind: str | None, base: Path, judged: Judged
) -> None:
    template = CHAT if "add_special_tokens" in extra else THINKING
    server = served(base, template, owner="vllm" if served is Vllm else "llamacpp")
    found = answered(server, judged, asked(), refuses=False, extra=extra).rendering
    assert [one["kind"] for one in found["differences"]] == ([kind] if kind else [])
