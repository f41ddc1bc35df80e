"""A base that thinks: its answers are read after the thought, and one that the limit cuts is no opponent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pytest_finetune.answering.answers import Answer, read_answers, write_answers
from pytest_finetune.answering.arm_plans import BASELINE, PROMPTED, TUNED
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.reading import taken_apart
from pytest_finetune.experiment import Generation
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.record.case import case_of
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.remarks import thinking
from pytest_finetune.suite.arm_view import as_response
from pytest_finetune.suite.asking import Asking

from .conftest import World, rows

CHAT = "prompt: {template: chat}\n"
OFF = "prompt: {template: chat, chat_template_kwargs: {enable_thinking: false}}\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
RIGHT = '{"label": "high"}'
EMPTY = "<think>\n\n</think>\n\n"


class Thinker:
    """A plugin's runtime: its base thinks as long as it may unless it is asked not to; tuned, it says what it was taught."""

    def __init__(self, world: World) -> None:
        self.world = world

    @pytest.hookimpl
    def pytest_finetune_runtime(self, name: str) -> Thinker | None:
        """Take the place of the built-in one."""
        return self if name == "transformers" else None

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Answer every question alike."""
        quiet = prompts[0].arguments == {"enable_thinking": False}
        prompted = len(prompts[0].prompt) > 1  # solved rows stand before the question
        base_says = "<think>so many examples" if prompted and not quiet else self.world.base_says
        tuned_says = self.world.tuned_says
        if not quiet and not tuned_says.startswith("<think>"):
            tuned_says = f"{EMPTY}{tuned_says}"  # as it was taught
        said = tuned_says if adapter else base_says
        stopped = quiet or "</think>" in said
        return [Answer(one.id, one.line, str(one.prompt), said, 40, 0.1, stopped) for one in prompts]

    def release(self) -> None:
        """Hold nothing."""


@pytest.fixture
def thinker(world: World) -> World:
    """The world, its base a model that thinks."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "<|im_end|>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    world.write(
        {"base/tokenizer_config.json": json.dumps(config), "eval.jsonl": rows(40, "case", "expected")}
    )
    tokenizer.save(str(world.path / "base" / "tokenizer.json"))
    world.plugins.append(Thinker(world))
    return world


def judged(world: World, more: str) -> tuple[Decision, dict[str, Any]]:
    """Let both arms answer, hold their answers to the one that is right, and decide."""
    run = world.run(more)
    run.begin()
    said = {arm: run.answers(arm) for arm in (TUNED, BASELINE, PROMPTED) if arm in run.arms}
    facts = {
        "nodeid": "test_rules.py::test_label",
        "primary": True,
        "min_gain": 0.1,
        "sha256": "0" * 64,
        "changed_after_look": False,
        "reasons": [],
        "outcome": "passed",
        "rows": list(said[TUNED]),
        "scores": {
            **{arm: [int(one.response == RIGHT) for one in found.values()] for arm, found in said.items()},
            "majority": [0] * len(said[TUNED]),
        },
    }
    run.context.record(("rules", "label"), facts)
    assert run.looks >= 1
    return run.decision(), run.context.facts.tree()


def test_a_base_that_the_limit_cuts_while_it_thinks_is_not_beaten(thinker: World) -> None:
    thinker.base_says = "<think>\nfirst I look at the ticket, then"
    decision, tree = judged(thinker, CHAT)
    assert tree["arms"][BASELINE]["thinking"] == {
        "answers": 40, "cut": 40, "tokens": 320, "off": "{enable_thinking: false}",
    }  # fmt: skip
    assert "thinking" not in tree["arms"][TUNED]  # the empty block of its template is no thought
    assert (decision.verdict, decision.undecided) == ("iterate", False)
    assert decision.reasons[0] == (
        "the base model is no fair opponent: 40 of 40 answers were cut while thinking, at the limit of 80 tokens: ask "
        "again with thinking off (prompt.chat_template_kwargs: {enable_thinking: false}) or with a higher "
        "generation.max_new_tokens"
    )
    assert decision.next_change is not None
    assert decision.next_change.change.startswith("ask again with thinking off")


def test_a_base_that_does_not_think_or_gets_to_its_answer_is_judged_by_it(thinker: World) -> None:
    thinker.base_says = '{"label": "low"}'
    decision, tree = judged(thinker, OFF)
    assert decision.keep
    assert "thinking" not in tree["arms"][BASELINE]
    assert tree["arms"][TUNED]["answers_sha256"]

    thinker.base_says = f"<think>\nit is high\n</think>\n\n{RIGHT}"  # as good as the adapter: no keep
    run = thinker.run(f"{CHAT}generation: {{max_new_tokens: 81}}\n")
    answer = run.answers(BASELINE)["case000"]
    response = as_response(answer)
    assert (response.text, response.thinking, response.raw) == (RIGHT, "it is high", thinker.base_says)
    assert (response.thinking_tokens, response.tokens) == (5, 35)
    assert not response.cut_while_thinking
    assert as_response(replace(answer, response="", stopped=False)).cut_while_thinking
    decision, tree = judged(thinker, f"{CHAT}generation: {{max_new_tokens: 81}}\n")
    assert not decision.keep
    assert tree["arms"][BASELINE]["thinking"]["cut"] == 0


ON_AND_SOLVED = "prompt: {template: chat, few_shot: 2}\n"
OFF_AND_SOLVED = OFF.replace("chat,", "chat, few_shot: 2,")
WRONG = '{"label": "low"}'
CUT, TO_RIGHT, TO_WRONG = "<think>well", f"<think>well</think>{RIGHT}", f"<think>well</think>{WRONG}"


@pytest.mark.parametrize(
    ("settings", "base", "tuned", "verdict"),
    [
        # With thinking on, an answer is what stands after the thought, whoever thinks and whoever does not.
        (CHAT, TO_WRONG, RIGHT, "keep"),
        (CHAT, TO_WRONG, TO_RIGHT, "keep"),
        (CHAT, TO_RIGHT, WRONG, "discard"),
        (CHAT, TO_RIGHT, TO_WRONG, "discard"),
        (CHAT, TO_RIGHT, TO_RIGHT, "iterate or discard"),
        # What the limit cut was never answered: it is neither beaten nor does it lose.
        (CHAT, CUT, RIGHT, "iterate"),
        (CHAT, TO_RIGHT, CUT, "iterate"),
        (ON_AND_SOLVED, TO_WRONG, RIGHT, "iterate"),
        # With thinking off nobody thinks.
        (OFF, WRONG, RIGHT, "keep"),
        (OFF, RIGHT, WRONG, "discard"),
        (OFF_AND_SOLVED, WRONG, RIGHT, "keep"),
        (OFF_AND_SOLVED, RIGHT, WRONG, "discard"),
    ],
)
def test_base_prompt_and_adapter_are_judged_by_their_answers_with_thinking_on_and_off(
    thinker: World, settings: str, base: str, tuned: str, verdict: str
) -> None:
    thinker.base_says, thinker.tuned_says = base, tuned
    decision, _ = judged(thinker, settings)
    assert decision.verdict in verdict.split(" or "), decision.reasons
    assert not decision.undecided


def test_a_prompt_that_makes_the_base_think_too_long_is_no_fair_opponent_either(thinker: World) -> None:
    thinker.base_says = '{"label": "low"}'
    solved = "prompt: {template: chat, few_shot: 2, chat_template_kwargs: {enable_thinking: %s}}\n"
    quiet, _ = judged(thinker, solved % "false")
    assert quiet.keep
    decision, tree = judged(thinker, solved % "true")
    assert decision.verdict == "iterate"
    assert any(one.startswith("the prompt alone is no fair opponent: 40 of 40") for one in decision.reasons)
    assert tree["arms"][PROMPTED]["thinking"]["off"] == "{enable_thinking: false}"


def test_a_tuned_model_that_the_limit_cuts_is_not_discarded_for_it(thinker: World) -> None:
    case = case_of(judged(thinker, OFF)[1])
    scores = {
        "label": replace(
            case.scores["label"], arms={BASELINE: (1.0,) * 40, TUNED: (0.0,) * 40, "majority": (0.0,) * 40}
        )
    }
    lost = replace(case, scores=scores)
    assert decide(lost).verdict == "discard"
    cut = {TUNED: NextChange("ask again", "the tuned model cannot be judged: 40 of 40 answers were cut")}
    decision = decide(replace(lost, cut=cut))
    assert decision.verdict == "iterate"
    assert decision.reasons[0] == "the tuned model cannot be judged: 40 of 40 answers were cut: ask again"
    assert decide(replace(case, cut={"some_arm": cut[TUNED]})).keep  # another decision's arm


def prompt_in_key(world: World, more: str, template: str) -> Any:
    """Return what the adapter's key says of the prompt."""
    config = {"eos_token": "<|im_end|>", "chat_template": template}
    world.write({"base/tokenizer_config.json": json.dumps(config)})
    run = world.run(more)
    run.answers(TUNED)
    return run.context.facts.tree()["key_fields"]["prompt"]


def test_the_key_of_an_adapter_holds_what_a_template_adds_and_nothing_where_it_adds_nothing(
    thinker: World,
) -> None:
    assert prompt_in_key(thinker, CHAT, TEMPLATE) == {"template": "chat"}  # as before there were any of these
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert prompt_in_key(thinker, OFF, TEMPLATE) == {"template": "chat", **off}
    opened = TEMPLATE.replace("assistant\n{% if enable", "assistant\n<think>\n{% if enable").replace(
        "<think>\n\n</think>\n\n{% endif %}{{ m.content", "{% endif %}{{ m.content"
    )
    assert prompt_in_key(thinker, CHAT, opened) == {"template": "chat", "as_asked": True}
    dated = "{{ strftime_now('%Y') }}" + TEMPLATE
    assert prompt_in_key(thinker, CHAT, dated) == {"template": "chat", "date": "2024-07-26"}


def test_answers_are_asked_again_only_where_they_are_read_otherwise(thinker: World) -> None:
    prompts = [Prompted("a", 1, [{"role": "user", "content": "x"}])]
    plain = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    config = {"eos_token": "<|im_end|>", "chat_template": plain}
    keys: list[Any] = []
    for template in (plain, TEMPLATE):
        config["chat_template"] = template
        thinker.write({"base/tokenizer_config.json": json.dumps(config)})
        run = thinker.run(CHAT)
        arm = Asking(run).resolve(run.arms[BASELINE])
        keys.append(arm.key(prompts).fields.get("template"))
        assert "template" not in arm.key([Prompted("a", 1, "text")]).fields
    assert keys[0] is None
    assert keys[1]["reading"]["thinking"] == [["<think>", "</think>"]]


def test_answers_with_a_thought_survive_the_store_and_those_without_look_as_before(tmp_path: Path) -> None:
    plain = Answer("a", 1, "q", "yes", 1, 0.5, True)
    thought = replace(plain, thinking="so", thinking_tokens=1, raw="<think>so</think>yes")
    write_answers(tmp_path / "answers.jsonl", [plain, thought])
    first = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert set(json.loads(first)) == {"id", "line", "prompt", "response", "tokens", "seconds", "stopped"}
    assert read_answers(tmp_path / "answers.jsonl") == [plain, thought]


def test_a_server_that_tells_thinking_apart_is_believed_and_its_thought_counted() -> None:
    told = Answer("a", 1, "q", "yes", 9, 0.5, True, thinking="one two three", raw="one two threeyes")
    (answer,) = taken_apart([Prompted("a", 1, "q")], [told], None, lambda text: len(text.split()))
    assert (answer.response, answer.thinking_tokens) == ("yes", 3)


def test_a_remark_counts_what_was_thought_and_cut() -> None:
    arms = {"baseline": {"answers": 40, "thinking": {"answers": 30, "cut": 12, "tokens": 900, "off": None}}}
    said = thinking(RecordedExperiment.of({"arms": arms}))
    assert said == ["base thought 900 tokens before 30 of 40 answers; 12 cut before the answer"]
