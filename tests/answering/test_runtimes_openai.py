"""An OpenAI-compatible server that is there already: what is sent, and everything that can go wrong on the way."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.response import Response
from pytest_finetune.answering.runtimes import AnsweringError, Runtime
from pytest_finetune.answering.runtimes.server import decoding
from pytest_finetune.answering.runtimes.server import http as wire
from pytest_finetune.answering.runtimes.server.batch import _answer
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
from pytest_finetune.data.chat import Chat
from pytest_finetune.experiment import Generation
from pytest_finetune.experiment.runtimes import ServerSettings
from pytest_finetune.judging.runtime_match import cause_of, grammar_of

Reply = tuple[int, dict[str, str], bytes]
GREEDY = Generation(max_new_tokens=7)
ADAPTER = Path("adapter")


class Fake:
    """A server whose every answer a test decides; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.models = ["tuned", "base"]
        self.reply: Callable[[str, dict[str, Any]], Reply | None] = completed
        self.url = ""

    def bodies(self) -> list[dict[str, Any]]:
        return [body for path, _, body in self.asked if "completions" in path]


def ok(found: Any) -> Reply:
    return 200, {}, json.dumps(found).encode()


def completed(path: str, body: dict[str, Any]) -> Reply:
    """Answer as a server should: the text names the model and what it was asked."""
    if "messages" in body:
        message = {
            "role": "assistant",
            "content": f" {body['model']} heard {body['messages'][-1]['content']}\n",
        }
        choice: dict[str, Any] = {"message": message}
    else:
        choice = {"text": f" {body['model']} heard {body['prompt']}\n"}
    return ok({"choices": [{**choice, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}})


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            found.asked.append((self.path, dict(self.headers), {}))
            if self.path == "/v1/models":
                self.send(ok({"data": [{"id": name, "created": time.time()} for name in found.models]}))
            elif self.path == "/version":
                self.send(ok({"version": "1.2.3"}))
            else:
                self.send((404, {}, b"{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append((self.path, dict(self.headers), body))
            self.send(found.reply(self.path, body))

        def send(self, reply: Reply | None) -> None:
            if reply is None:  # the connection is lost
                return
            status, headers, data = reply
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # who asked gave up
                self.wfile.write(data)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_FIRST_PAUSE_S", 0.01)


def runtime(fake: Fake, **settings: Any) -> OpenAIRuntime:
    def folder(adapter: Path | None) -> Path:
        raise AssertionError("a server that runs already is given no folder")

    given = {"url": f"{fake.url}/v1", "model": "tuned", "base_model": "base", **settings}
    return OpenAIRuntime("prod", ServerSettings(**given), folder, Path("unused.log"))


def ask(count: int = 3) -> list[Prompted]:
    return [Prompted(f"r{line}", line, f"ticket {line}") for line in range(1, count + 1)]


def failure(fake: Fake, **settings: Any) -> str:
    with pytest.raises(AnsweringError) as caught:
        runtime(fake, **settings).answer(ask(), GREEDY, ADAPTER)
    return str(caught.value)


def test_it_is_a_runtime(fake: Fake) -> None:
    assert isinstance(runtime(fake), Runtime)
    assert runtime(fake).answer([], GREEDY) == []


def test_answers_come_back_raw_and_in_order_however_late_the_first_one_is(fake: Fake) -> None:
    def late(path: str, body: dict[str, Any]) -> Reply:
        time.sleep(0.1 if body["prompt"] == "ticket 1" else 0)
        return completed(path, body)

    fake.reply = late
    answers = runtime(fake, concurrency=4).answer(ask(12), GREEDY, ADAPTER)
    assert [answer.response for answer in answers] == [f" tuned heard ticket {n}\n" for n in range(1, 13)]
    assert [answer.id for answer in answers] == [f"r{n}" for n in range(1, 13)]
    first = answers[0]
    assert first == Answer("r1", 1, "ticket 1", " tuned heard ticket 1\n", 3, first.seconds, True)
    assert first.seconds >= 0.1


def test_the_base_is_asked_by_its_own_name(fake: Fake) -> None:
    assert runtime(fake).answer(ask(1), GREEDY)[0].response == " base heard ticket 1\n"


def test_text_goes_to_completions_and_messages_go_to_chat(fake: Fake) -> None:
    chat = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"})
    answers = runtime(fake).answer([Prompted("a", 1, "text"), Prompted("b", 2, chat)], GREEDY, ADAPTER)
    assert {path for path, _, body in fake.asked if body} == {"/v1/completions", "/v1/chat/completions"}
    assert [answer.response for answer in answers] == [" tuned heard text\n", " tuned heard hello\n"]
    assert json.loads(answers[1].prompt) == list(chat)


def test_tools_are_offered_and_calls_come_back_as_the_answer(fake: Fake) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Rome"}},
    }
    chat = (
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sun", "tool_call_id": "call00001"},
    )

    def calls(path: str, body: dict[str, Any]) -> Reply:
        asked = [
            {"function": {"name": "weather", "arguments": text}}
            for text in ('{"city": "Oslo"}', '{"city": Os')
        ]
        message = {"role": "assistant", "content": None, "tool_calls": asked}
        choice = {"message": message, "finish_reason": "tool_calls"}
        return ok({"choices": [choice], "usage": {"completion_tokens": 9}})

    fake.reply = calls
    (answer,) = runtime(fake).answer([Prompted("a", 1, chat, tools=(tool,))], GREEDY, ADAPTER)
    (body,) = fake.bodies()
    assert body["tools"] == [tool]
    assert body["messages"][1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Rome"}',
    }
    first, second = Response(answer.response).tool_calls
    assert (first.name, first.arguments, first.malformed) == ("weather", {"city": "Oslo"}, "")
    assert (second.name, answer.stopped) == ("weather", True)
    assert second.malformed.startswith("not JSON")


def test_arguments_of_the_template_are_sent_and_a_thought_that_is_told_apart_is_kept(fake: Fake) -> None:
    asked = Prompted("a", 1, [{"role": "user", "content": "hello"}], arguments={"enable_thinking": False})
    runtime(fake).answer([asked], GREEDY, ADAPTER)
    assert fake.bodies()[0]["chat_template_kwargs"] == {"enable_thinking": False}
    usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}
    told = {"message": {"content": "yes", "reasoning_content": "so"}, "finish_reason": "stop"}
    read = _answer(asked, {"choices": [told], "usage": usage}, 0.1, 7, chat=True)
    assert (read.response, read.thinking, read.thinking_tokens, read.written) == ("yes", "so", 4, "soyes")
    cut = {"message": {"content": None, "reasoning": "so"}, "finish_reason": "length"}
    assert _answer(asked, {"choices": [cut], "usage": usage}, 0.1, 7, chat=True).cut_while_thinking


def test_completions_are_sent_the_text_that_the_template_writes(fake: Fake) -> None:
    asked = Prompted("a", 1, [{"role": "user", "content": "hello"}])
    with pytest.raises(AnsweringError, match="api: completions takes text"):
        runtime(fake, api="completions").answer([asked], GREEDY, ADAPTER)
    template = {"default": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"}
    served = runtime(fake, api="completions")
    assert isinstance(served, OpenAIRuntime)
    served._chat = Chat.of(template, {}, (), {})
    served.answer([asked], GREEDY, ADAPTER)
    assert fake.bodies()[0]["prompt"] == "[user] hello"


def test_text_can_be_sent_as_a_users_message(fake: Fake) -> None:
    runtime(fake, api="chat").answer(ask(1), GREEDY, ADAPTER)
    assert fake.bodies()[0]["messages"] == [{"role": "user", "content": "ticket 1"}]


def test_greedy_is_temperature_zero_and_sampling_has_a_seed_a_row(fake: Fake) -> None:
    runtime(fake, extra={"top_k": 1}).answer(ask(1), GREEDY, ADAPTER)
    (body,) = fake.bodies()
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 7, "tuned")
    assert body["top_k"] == 1  # what a request is to hold besides goes before what changes nothing
    fake.asked.clear()
    sampled = Generation(do_sample=True, temperature=0.7, top_p=0.9, seed=40)
    runtime(fake, concurrency=1).answer(ask(2), sampled, ADAPTER)
    assert [(body["temperature"], body["top_p"], body["seed"]) for body in fake.bodies()] == [
        (0.7, 0.9, 40),
        (0.7, 0.9, 41),
    ]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_asked_again(fake: Fake, status: int) -> None:
    refused: set[str] = set()

    def second_time_lucky(path: str, body: dict[str, Any]) -> Reply:
        if body["prompt"] in refused:
            return completed(path, body)
        refused.add(body["prompt"])
        return status, {"Retry-After": "0"}, b'{"error": "busy"}'

    fake.reply = second_time_lucky
    answers = runtime(fake, retries=1).answer(ask(), GREEDY, ADAPTER)
    assert len(answers) == 3
    assert len(fake.bodies()) == 6


def test_a_server_that_stays_busy_is_an_error_of_the_run(fake: Fake) -> None:
    fake.reply = lambda path, body: (429, {}, b'{"error": "rate limit"}')
    told = failure(fake, retries=2, concurrency=1)
    assert told == (
        "runtime 'prod': r1 (line 1) got no answer, after 0 of 3; none of them is kept\n"
        f'  {fake.url}: HTTP 429: {{"error": "rate limit"}}'
    )
    assert len(fake.bodies()) == 3


def test_what_a_server_refuses_is_asked_with_fewer_settings_and_then_not_again(fake: Fake) -> None:
    fake.reply = lambda path, body: (400, {}, b'{"error": "max_tokens is too large"}')
    assert "HTTP 400: " in failure(fake, concurrency=1)
    assert [len(body) for body in fake.bodies()] == [13, 8, 4]


def test_a_server_that_hangs_is_an_error_after_its_time(fake: Fake) -> None:
    over = threading.Event()

    def hang(path: str, body: dict[str, Any]) -> Reply:
        over.wait(20)
        return completed(path, body)

    fake.reply = hang
    started = time.monotonic()
    try:
        assert "no answer within 0.2 s" in failure(fake, timeout_s=0.2, retries=1)
    finally:
        over.set()
    assert time.monotonic() - started < 10


def test_a_lost_connection_is_asked_again_and_then_an_error(fake: Fake) -> None:
    fake.reply = lambda path, body: None
    told = failure(fake, retries=1, concurrency=1)
    assert "RemoteDisconnected: Remote end closed connection without response" in told
    assert len(fake.bodies()) == 2


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (b"<html>It works!</html>", "the answer is no JSON: '<html>It works!</html>'"),
        (b'{"choices": []}', 'the answer lacks choices or usage: {"choices": []}'),
        (b'[{"text": "yes"}]', 'the answer lacks choices or usage: [{"text": "yes"}]'),
        (b'{"choices": [{"text": "yes"}]}', "the answer lacks choices or usage: "),
        (b'{"choices": [{"text": 3}], "usage": {"completion_tokens": 1}}', "holds no text with its tokens"),
        (b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": true}}', "no text with its tokens"),
    ],
)
def test_garbage_is_an_error_of_the_run_and_never_an_answer(fake: Fake, found: bytes, told: str) -> None:
    fake.reply = lambda path, body: (200, {}, found)
    assert told in failure(fake, concurrency=1)
    assert len(fake.bodies()) == 1


def test_an_answer_that_stops_short_is_asked_again(fake: Fake) -> None:
    whole = completed("", {"model": "tuned", "prompt": "x"})[2]
    cut = iter([True])
    fake.reply = lambda path, body: (
        (200, {"Content-Length": "999"}, whole[:20]) if next(cut, False) else completed(path, body)
    )
    assert runtime(fake, timeout_s=0.5).answer(ask(1), GREEDY, ADAPTER)[0].tokens == 3


def test_an_answer_at_the_limit_has_not_stopped_by_itself(fake: Fake) -> None:
    def replies(reason: str | None, tokens: int) -> bool:
        choice = {"text": "x", "finish_reason": reason}
        fake.reply = lambda path, body: ok({"choices": [choice], "usage": {"completion_tokens": tokens}})
        return runtime(fake).answer(ask(1), GREEDY, ADAPTER)[0].stopped

    assert not replies("length", 7)
    assert replies("stop", 7)
    assert replies(None, 6)  # without a reason the count tells
    assert not replies(None, 7)


def test_a_model_that_the_server_does_not_have_is_named_with_those_it_has(fake: Fake) -> None:
    told = failure(fake, model="tunde")
    assert told == f"runtime 'prod': the server at {fake.url} has no model 'tunde'; it has: tuned, base"
    assert fake.bodies() == []


def test_the_only_model_of_a_server_needs_no_name_and_one_of_several_does(fake: Fake) -> None:
    told = failure(fake, model=None)
    assert told.endswith("has tuned, base: write in `model` which of them is the tuned one")
    fake.models = ["tuned"]
    assert runtime(fake, model=None).answer(ask(1), GREEDY, ADAPTER)[0].response.startswith(" tuned heard")


def test_the_base_is_not_asked_under_the_tuned_models_name(fake: Fake) -> None:
    with pytest.raises(AnsweringError, match="base_model is not given, so the base cannot be asked at"):
        runtime(fake, base_model=None).answer(ask(), GREEDY)


def test_a_server_that_is_not_there_is_named_with_what_to_do(fake: Fake) -> None:
    from pytest_finetune.answering.runtimes.server.process import free_port

    url = f"http://127.0.0.1:{free_port()}"
    told = failure(fake, url=url)
    assert told.startswith(f"runtime 'prod': the server at {url} does not answer: ConnectionRefusedError")
    assert told.endswith("\n  start it, or correct `url`")


def test_the_key_is_sent_and_told_to_nobody(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROD_KEY", "sk-very-secret")
    fake.reply = lambda path, body: (401, {}, b'{"error": "sk-very-secret is not allowed"}')
    told = failure(fake, api_key_env="PROD_KEY", concurrency=1)
    assert {headers["Authorization"] for _, headers, _ in fake.asked} == {"Bearer sk-very-secret"}
    assert "*** is not allowed" in told
    assert "very-secret" not in told
    about = runtime(fake, api_key_env="PROD_KEY").about(ADAPTER)
    assert "very-secret" not in json.dumps(about)


def test_a_key_that_is_not_set_is_named_by_its_variable(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROD_KEY", raising=False)
    told = failure(fake, api_key_env="PROD_KEY")
    assert told == "runtime 'prod': api_key_env names PROD_KEY, and this variable is not set"
    assert fake.asked == []


def test_a_redirect_is_not_followed(fake: Fake) -> None:
    fake.reply = lambda path, body: (307, {"Location": f"{fake.url}/elsewhere"}, b"")
    assert "HTTP 307" in failure(fake, concurrency=1)
    assert not [path for path, _, _ in fake.asked if path == "/elsewhere"]


def test_the_answers_key_knows_the_server_and_nothing_that_changes_by_itself(fake: Fake) -> None:
    about = runtime(fake).about(ADAPTER)
    assert about["served"] == {"id": "tuned"}
    assert about["version"] == {"version": "1.2.3"}
    assert about == runtime(fake).about(ADAPTER)
    assert about != runtime(fake).about(None)
    assert about != runtime(fake, extra={"top_k": 1}).about(ADAPTER)
    # How the same questions travel changes no answer.
    assert about == runtime(fake, concurrency=9, retries=0, timeout_s=5).about(ADAPTER)


def penalised(path: str, body: dict[str, Any]) -> Reply:
    """Answer as a server that fills in the base's repetition penalty wherever a request leaves it open."""
    heard = body.get("repetition_penalty", 1.3) == 1.0
    said = {"text": "high" if heard else "high low", "finish_reason": "stop"}
    return ok({"choices": [said], "usage": {"completion_tokens": 1}})


def base_with(tmp_path: Path, **settings: Any) -> Path:
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    return tmp_path


def served(fake: Fake, base: decoding.BaseDecoding, **settings: Any) -> OpenAIRuntime:
    given = {"url": fake.url, "model": "tuned", "base_model": "base", "concurrency": 3, **settings}
    return OpenAIRuntime("prod", ServerSettings(**given), lambda _: Path(), Path("unused.log"), base)


def test_a_server_that_would_fill_in_the_bases_penalty_is_told_to_decode_without(
    fake: Fake, tmp_path: Path
) -> None:
    base = decoding.base_decoding(
        base_with(tmp_path, repetition_penalty=1.3, top_k=20, eos_token_id=[2, 7]), GREEDY
    )
    assert base == decoding.BaseDecoding((2, 7), {"repetition_penalty": 1.3})
    fake.reply, asked = penalised, served(fake, base)
    assert {answer.response for answer in asked.answer(ask(6), GREEDY, ADAPTER)} == {"high"}
    assert asked.decoding == {"base_sets": {"repetition_penalty": 1.3}, "refused": []}
    assert all(body["stop_token_ids"] == [2, 7] for body in fake.bodies())
    assert len(fake.bodies()) == 6
    on_purpose = served(fake, base, extra={"repetition_penalty": 1.1})
    on_purpose.answer(ask(1), GREEDY, ADAPTER)
    assert (fake.bodies()[-1]["repetition_penalty"], on_purpose.decoding) == (1.1, {})
    # Answers of before, which had the penalty, are not taken for these; those without one are.
    assert asked.about(ADAPTER) != served(fake, decoding.NOTHING_SET).about(ADAPTER)
    assert "decoding" not in served(fake, decoding.BaseDecoding((2,))).about(ADAPTER)


def test_a_strict_server_gets_the_settings_that_it_knows_and_what_it_refused_is_told(
    fake: Fake, tmp_path: Path
) -> None:
    def strict(path: str, body: dict[str, Any]) -> Reply:
        unknown = body.keys() & {"repetition_penalty", "min_p"}
        return (400, {}, b'{"error": "unknown argument"}') if unknown else penalised(path, body)

    base = decoding.base_decoding(base_with(tmp_path, repetition_penalty=1.3), GREEDY)
    fake.reply, asked = strict, served(fake, base)
    assert {answer.response for answer in asked.answer(ask(4), GREEDY, ADAPTER)} == {"high low"}
    assert len(fake.bodies()) == 1 + 4
    assert fake.bodies()[-1].keys() >= {"top_p", "seed", "frequency_penalty", "presence_penalty"}
    assert asked.decoding["refused"] == ["min_p", "repetition_penalty", "top_k", "typical_p"]
    cause = cause_of("prod", {"decoding": asked.decoding})
    assert cause == (
        "generation_config.json of the base sets repetition_penalty 1.3, without which the decision was made; prod takes "
        "no repetition_penalty with a question: start prod without these settings (vLLM: --generation-config vllm)"
    )
    assert cause_of("prod", {"decoding": {**asked.decoding, "base_sets": {}}}) is None


def test_rows_whose_calls_the_server_holds_to_a_grammar_are_counted_and_named_as_the_cause() -> None:
    chat, tool = [{"role": "user", "content": "Rain?"}], {"type": "function", "function": {"name": "rain"}}
    sent = [Prompted("a", 1, chat, [tool]), Prompted("b", 2, chat), Prompted("c", 3, "Rain?", [tool])]
    assert decoding.calls_held(decoding.LLAMA, sent, {}) == 1
    assert decoding.calls_held(decoding.LLAMA, sent, {"tool_choice": "none"}) == 0
    assert decoding.calls_held(decoding.VLLM, sent, {}) == 0
    held = {"decoding": decoding.facts(decoding.NOTHING_SET, (), 1)}
    assert decoding.facts(decoding.NOTHING_SET, (), 0) == {}
    assert cause_of("shipped", held) is None
    for arms, named in ((({}, held), ("here", "shipped")), ((held, {}), ("shipped", "here"))):
        cause = grammar_of(*named, arms)
        assert cause is not None
        assert cause.startswith("shipped holds a call to the schemas of its tools by a grammar as soon as")
        assert "(1 row with tools), where here decodes freely" in cause
    assert grammar_of("f16", "q4_k_m", (held, held)) is None


@pytest.mark.parametrize(
    ("owner", "props", "command", "kind"),
    [
        ("vllm", False, (), decoding.VLLM),
        ("sglang", False, (), decoding.VLLM),
        ("llamacpp", False, (), decoding.LLAMA),
        (None, True, (), decoding.LLAMA),
        (None, False, (), decoding.UNKNOWN),
        (None, False, ("/env/bin/transformers", "serve"), decoding.TRANSFORMERS),
    ],
)
def test_each_kind_of_server_is_told_in_its_own_words(
    owner: str | None, props: bool, command: tuple[str, ...], kind: str
) -> None:
    class Props:
        def get(self, path: str, timeout_s: float) -> object:
            if props:
                return {"default_generation_settings": {}}
            raise wire.WireError("HTTP 404", again=False, status=404)

    assert decoding.kind_of(Props(), owner, command) == kind  # type: ignore[arg-type]
    sampled = Generation(do_sample=True, temperature=0.7, top_p=0.9, seed=40)
    full, standard, least = decoding.requests(kind, sampled, (2,), 40)
    assert full.keys() > standard.keys() > least.keys()
    assert (full["temperature"], full["top_p"], full["seed"]) == (0.7, 0.9, 40)
    words = {
        decoding.VLLM: {"repetition_penalty", "stop_token_ids"},
        decoding.LLAMA: {"repeat_penalty"},
        decoding.UNKNOWN: {"repetition_penalty", "repeat_penalty", "stop_token_ids"},
        decoding.TRANSFORMERS: {"generation_config"},
    }
    told = {"repetition_penalty", "repeat_penalty", "stop_token_ids", "generation_config"}
    assert full.keys() & told == words[kind]
