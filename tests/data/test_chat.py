"""Chat templates: what is trained begins with what is asked, and the answer is found again in what is written."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import TemplateError, renderer
from pytest_finetune.data.thinking import Mark, Reading, find_marks

QUESTION = [{"role": "user", "content": "Which priority?"}]
ANSWER = [{"role": "assistant", "content": '{"priority": "high"}'}]
SPECIAL = re.compile(r"<[|｜][^<>|｜\s'\"{}]+[|｜]>|</?s>|<(?:start|end)_of_turn>|<\|[a-z_]+>|<[a-z_]+\|>")

QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|a|>{{ m.content.split('</think>')[-1] }}</s>"
    "{% else %}<|u|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|a|><think>\n{% endif %}"
)


def chat(
    template: str, special: tuple[str, ...] = ("<|im_start|>", "<|im_end|>", "</s>"), **given: Any
) -> Chat:
    return Chat.of({"default": template}, {"bos_token": "<s>", "eos_token": "</s>"}, special, given)


def shipped() -> Iterator[Path]:
    trl = pytest.importorskip("trl")
    yield from sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))


@cache
def byte_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """A token a byte, and one for each special text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: at for at, text in enumerate(alphabet)}, merges=[]))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_every_template_that_trl_ships_is_taught_as_it_is_asked_and_read_back() -> None:
    special = tuple(sorted({text for file in shipped() for text in SPECIAL.findall(file.read_text())}))
    tokenizer = byte_tokenizer(special)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    seen = 0
    for file in shipped():
        known = chat(file.read_text(), special)
        taught = known.taught(QUESTION, ANSWER)
        ids, start, _ = taught.ids(encode)
        assert ids[:start] == encode(taught.asked), file.stem
        # What a model that learnt it writes: up to the stop token, decoded as answers are.
        hidden = {tokenizer.token_to_id(text) for text in special if text not in known.reading.special}
        stop = encode(taught.whole.rpartition(ANSWER[0]["content"])[2])[:1]
        said = ids[start:]
        said = said[: said.index(stop[0])]
        text = tokenizer.decode([at for at in said if at not in hidden], skip_special_tokens=False)
        found = known.reading.read(text, taught.asked)
        assert found.answer == known.answer_in(taught) == ANSWER[0]["content"], file.stem
        assert found.thinking is None
        seen += 1
    assert seen >= 70


def test_the_page_holds_the_table_of_the_templates_that_are_installed() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "templates.md").read_text(encoding="utf-8")
    if f"TRL {metadata.version('trl')} ships" not in page:
        pytest.skip("the table is that of another TRL: python benchmarks/templates.py --write")
    script = runpy.run_path(str(root / "benchmarks" / "templates.py"))
    assert page.endswith("\n".join(script["lines"]()) + "\n")


@pytest.mark.parametrize(
    ("template", "given", "asked_ends", "said"),
    [
        (QWEN3, {}, "assistant\n", "<think>\n\n</think>\n\nyes<|im_end|>\n"),
        (QWEN3, {"enable_thinking": False}, "</think>\n\n", "yes<|im_end|>\n"),
        (R1, {}, "<think>\n", "\n</think>\n\nyes</s>"),
        (R1.replace("<think>\n{% endif %}", "{% endif %}"), {}, "<|a|>", "yes</s>"),
        (R1.replace("<|a|><think>\n", "<|a|> "), {}, "<|a|> ", "yes</s>"),
        (R1.replace("{% if m.role == 'assistant' %}<|a|>", "{% if m.role == 'assistant' %}<|a|><think></think>"), {}, "<think>\n", "</think>yes</s>"),
    ],
    ids=["trained and read away", "moved into the prompt", "opened", "plain", "a space at the end", "empty block"],
)  # fmt: skip
def test_what_is_taught_follows_what_is_asked(
    template: str, given: dict[str, Any], asked_ends: str, said: str
) -> None:
    known = chat(template, **given)
    taught = known.taught(QUESTION, [{"role": "assistant", "content": "yes"}])
    assert taught.asked == known.asked(QUESTION)
    assert taught.asked.endswith(asked_ends)
    assert taught.whole == taught.asked + said
    assert taught.moved is not (known._render([*QUESTION, *ANSWER], (), False).startswith(taught.asked))
    assert known.answer_in(taught) == "yes"


def test_a_thought_is_taught_where_the_question_opens_one_though_the_template_leaves_it_out() -> None:
    known = chat(R1)
    thought = {"role": "assistant", "content": "yes", "reasoning_content": "It is so."}
    taught = known.taught(QUESTION, [thought])
    assert taught.whole == taught.asked + "It is so.\n</think>\n\nyes</s>"
    assert known.answer_in(taught) == "yes"
    assert (
        chat(QWEN3)
        .taught(QUESTION, [thought])
        .whole.endswith("<think>\nIt is so.\n</think>\n\nyes<|im_end|>\n")
    )


def test_tokens_that_would_join_across_the_end_of_the_question_are_kept_apart() -> None:
    taught = chat(R1.replace("<|a|><think>\n", "<|a|> ").replace("<|a|>{{", "<|a|> {{")).taught(
        QUESTION, ANSWER
    )
    words: dict[str, int] = {}

    def encode(text: str) -> list[int]:  # a space belongs to the word after it
        return [words.setdefault(word, len(words)) for word in re.findall(r" ?[^ ]+| $", text)]

    ids, start, moved = taught.ids(encode)
    assert ids[:start] == encode(taught.asked)
    assert moved
    assert not taught.moved


@pytest.mark.parametrize(
    ("written", "asked", "answer", "thinking"),
    [
        ("<think>\nso\n</think>\n\nyes", "", "yes", "so"),
        ("<think>\n\n</think>\n\nyes", "", "yes", None),
        ("so\n</think>\n\nyes", "<think>\n", "yes", "so"),
        ("yes, <think>not so</think>", "", "yes, <think>not so</think>", None),
        ("[THINK]so[/THINK]yes", "", "yes", "so"),
        ("<seed:think>so</seed:think>yes", "", "yes", "so"),
        ("<|START_THINKING|>so<|END_THINKING|>yes", "", "yes", "so"),
        ("<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>yes", "", "yes", "so"),
        ("<|channel|>final<|message|>yes", "", "yes", None),
        ("yes", "<think>\n", "yes", None),
    ],
)  # fmt: skip
def test_an_answer_is_read_after_its_thinking(
    written: str, asked: str, answer: str, thinking: str | None
) -> None:
    known = "<think></think>[THINK][/THINK]<seed:think></seed:think><|START_THINKING|><|END_THINKING|>"
    marks = find_marks(f"{known}<|channel|>analysis<|message|><|end|>", ())
    special = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
    reading = Reading.knowing(special, marks, "<|start|>assistant", "<|channel|>final<|message|>")
    found = reading.read(written, asked)
    assert (found.answer, found.thinking) == (answer, thinking)


def test_a_block_that_the_limit_cut_leaves_no_answer() -> None:
    reading = Reading((Mark("<think>", "</think>"),))
    assert reading.read("<think>so and", "", stopped=False)[:2] == ("", "so and")
    assert reading.read("so and", "<think>\n", stopped=False)[:2] == ("", "so and")
    assert (
        Reading().read("<think>so</think>yes", "").answer == "<think>so</think>yes"
    )  # a plain model's content


def test_a_date_is_the_same_on_every_day_and_arguments_reach_the_template() -> None:
    dated = chat("{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}")
    assert dated.asked(QUESTION) == "2024-07-26 Which priority?"
    assert dated.facts == {"date": "2024-07-26"}
    own = "{{ date_string if date_string is defined else strftime_now('%d') }}"
    assert chat(own).dated
    assert not chat(own, date_string="1 Jan 2030").dated
    assert chat(own, date_string="1 Jan 2030").asked(QUESTION) == "1 Jan 2030"
    assert chat("{{ tools | length if tools }}").asked(QUESTION, [{"type": "function"}]) == "1"


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    gemma = chat(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    )
    system = [{"role": "system", "content": "Be brief."}, *QUESTION]
    with pytest.raises(TemplateError, match="refuses these messages: System role not supported"):
        gemma.taught(system, ANSWER)
    with pytest.raises(TemplateError, match="leaves out the answer"):
        chat("{% if add_generation_prompt %}go{% endif %}").taught(QUESTION, ANSWER)
    with pytest.raises(TemplateError, match="cannot write these messages"):
        renderer("{{ messages[0].content.text.more }}", {})(QUESTION, (), True)
