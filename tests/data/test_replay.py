"""What is replayed against forgetting: prompts that nothing is measured by, as many as were asked for."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_finetune.data.formatting import format_pair
from pytest_finetune.data.neutral import neutral_rows
from pytest_finetune.data.replay import chosen, replay_findings, replay_prompts, with_answer
from pytest_finetune.data.words import words_of
from pytest_finetune.experiment import Prompt, Replay


def test_the_prompts_that_are_replayed_are_none_of_those_that_drift_is_measured_on(tmp_path: Path) -> None:
    replayed, measured = replay_prompts(tmp_path, Replay()), neutral_rows(tmp_path)
    assert len(replayed) == 62
    assert len({row.input for row in replayed}) == len({row.id for row in replayed}) == 62
    assert {row.id for row in replayed}.isdisjoint(row.id for row in measured)
    for row in replayed:
        words = set(words_of(row.input))
        alike = [
            other.input for other in measured if len(words & set(words_of(other.input))) > 0.6 * len(words)
        ]
        assert not alike, row.input
    kinds = {row.id.removeprefix("replay-").rpartition("-")[0] for row in replayed}
    assert kinds == {row.id.rpartition("-")[0] for row in measured}, "in the same spirit"


def test_as_many_are_chosen_as_make_up_the_share_and_every_kind_is_there(tmp_path: Path) -> None:
    prompts = replay_prompts(tmp_path, Replay())
    some = chosen(prompts, 180, 0.1)
    assert len(some) == 20
    assert len({row.id for row in some}) == 20
    assert len({row.id.rpartition("-")[0] for row in some}) == 9
    assert len(chosen(prompts, 10_000, 0.1)) == 62
    assert len(chosen(prompts, 1, 0.1)) == 1


def test_an_answer_is_taught_as_the_prompt_was_asked(tmp_path: Path) -> None:
    row = replay_prompts(tmp_path, Replay())[0]
    taught = with_answer(row, "Honey.")
    assert format_pair(taught, Prompt(template="Q: {instruction} {input}\nA:")).fields() == [
        "Q: Answer the question. What do bees make from nectar?\nA:",
        " Honey.",
    ]
    own = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]}
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n", encoding="utf-8")
    spoken = with_answer(replay_prompts(tmp_path, Replay("own.jsonl"))[0], "Me.")
    pair = format_pair(spoken, Prompt(template="chat"))
    assert pair.completion == [{"role": "assistant", "content": "Me."}]
    assert [message["role"] for message in pair.prompt if isinstance(message, dict)] == ["system", "user"]


def test_prompts_that_something_is_measured_by_and_too_few_of_them_are_told(tmp_path: Path) -> None:
    measured = neutral_rows(tmp_path)
    rows = [{"instruction": row.instruction, "input": row.input.upper()} for row in measured[:2]]
    lines = [
        *rows,
        {"instruction": "Say it.", "input": "held out"},
        {"instruction": "Say it.", "input": "free"},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    replay = Replay("own.jsonl", 0.2)
    prompts = replay_prompts(tmp_path, replay)
    train, held_out = prompts[3:] * 96, prompts[2:3]
    found = list(replay_findings(replay, prompts, measured, train, held_out))
    assert [(one.rule, one.severity, one.line) for one in found] == [
        ("replay/measured", "error", 1),
        ("replay/measured", "error", 2),
        ("replay/measured", "error", 3),
        ("replay/few-prompts", "note", None),
    ]
    assert found[0].read.startswith("the prompt is one that drift is measured on: 'WHICH PLANET")
    assert found[2].read == "the prompt is held out: 'held out'"
    assert found[3].read == "4 prompts, each replayed once: 4% of what is trained on, 20% need 24"
    assert (
        list(replay_findings(Replay(), replay_prompts(tmp_path, Replay()), measured, train, held_out)) == []
    )
