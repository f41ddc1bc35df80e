"""The data step: a contract that checks once, rows with their profile, and what was judged before."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models

from pytest_finetune.answering.runtimes.gguf.tools import FOLDER
from pytest_finetune.data.rows import Row, Rows, read_rows
from pytest_finetune.experiment import ExperimentError
from pytest_finetune.store import Store
from pytest_finetune.suite.steps.data_step import (
    base_findings,
    contract_of,
    file_of,
    read,
    taught,
    trained_after_a_look,
)
from pytest_finetune.suite.steps.premises import problems, unknown_runtimes

from .conftest import World, safetensors


def test_findings_of_the_same_rows_are_computed_once_and_recorded(world: World) -> None:
    context = world.context()
    contract = contract_of(context, lambda: None)
    train = read(context, contract, "train.jsonl", "train")
    held_out = read(context, contract, "eval.jsonl", "eval")
    found = contract.findings(train, held_out)
    assert contract.findings(train, held_out) is found
    data = context.facts.tree()["data"]
    assert data["findings"] == [one.as_json() for one in found]
    assert (data["train"]["rows"], data["eval"]["rows"]) == (12, 8)


def test_a_suite_is_a_file_of_the_experiment(world: World) -> None:
    world.write({"hard.jsonl": (world.path / "eval.jsonl").read_text(encoding="utf-8")})
    paths = "paths: {train_file: train.jsonl, eval_file: eval.jsonl, suites: {hard: hard.jsonl}}\n"
    experiment = world.experiment(paths)
    assert (file_of(experiment, None), file_of(experiment, "hard")) == ("eval.jsonl", "hard.jsonl")
    with pytest.raises(pytest.fail.Exception, match=r"no such suite under paths\.suites; known: hard"):
        file_of(experiment, "easy")


def test_without_a_look_no_row_is_digested_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Row, "digest", property(lambda row: pytest.fail("a row was digested")))
    train = read_rows(world.path, "train.jsonl", "train")
    book = Store(world.path / "empty").looks
    assert list(trained_after_a_look(book, train, train)) == []
    assert not (world.path / "empty").exists()


def test_a_server_that_writes_the_date_of_the_day_is_named(world: World) -> None:
    config = {"eos_token": "</s>", "chat_template": "{{ strftime_now('%d') }}{{ messages[0].content }}</s>"}
    world.write({"base/tokenizer_config.json": json.dumps(config)})
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.save(str(world.path / "base" / "tokenizer.json"))
    served = (
        "runtimes: [transformers, {{name: prod, openai: {{url: 'http://127.0.0.1:1', base_model: b{}}}}}]\n"
    )
    found = []
    for api in ("", ", api: completions"):
        context = world.context("prompt: {template: chat}\n" + served.format(api))
        contract = contract_of(context, lambda: None)
        rows = (read(context, contract, f"{name}.jsonl", name) for name in ("train", "eval"))
        found.append([one.read for one in contract.findings(*rows) if one.rule == "chat/date"])
    assert found == [["runtime 'prod' renders with today's date, training with 2024-07-26"], []]


def test_a_template_that_stands_around_no_row_is_noted(world: World) -> None:
    found = []
    whole = "".join(json.dumps({"prompt": f"zebra {n}", "completion": "low"}) + "\n" for n in range(3))
    for rows in (None, whole):
        world.write({} if rows is None else {"train.jsonl": rows})
        context = world.context()
        contract = contract_of(context, lambda: None)
        notes = contract.findings(
            *(read(context, contract, f"{name}.jsonl", name) for name in ("train", "eval"))
        ).notes
        found.append([(one.line, one.read) for one in notes if one.rule == "prompt/template"])
    assert found == [[], [(6, "3 rows of the shape prompt and completion bring their whole prompt")]]


def test_a_suite_is_checked_as_the_held_out_rows_are(world: World) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    )
    config = {"eos_token": "</s>", "chat_template": template + "{{ messages[0].content }}</s>"}
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "zebra"}]
    row = {"id": "h1", "messages": [*system, {"role": "assistant", "content": "low", "mood": "calm"}]}
    world.write(
        {
            "base/tokenizer_config.json": json.dumps(config),
            "hard.jsonl": json.dumps(row)
            + "\n{broken\n"
            + (world.path / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[4],
        }
    )
    Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]")).save(
        str(world.path / "base" / "tokenizer.json")
    )
    paths = "paths: {train_file: train.jsonl, eval_file: eval.jsonl, suites: {hard: hard.jsonl}}\n"
    context = world.context("prompt: {template: chat}\n" + paths)
    contract = contract_of(context, lambda: None)
    rows = (read(context, contract, f"{name}.jsonl", name) for name in ("train", "eval"))
    found = {one.rule: (one.line, one.read) for one in contract.findings(*rows) if one.file == "hard.jsonl"}
    said = "the chat template refuses these messages: System role not supported"
    assert found["chat/refused"] == (1, said)
    assert found["messages/unknown-key"][0] == 1
    assert found["data/invalid-json"][0] == 2
    assert found["leak/suite"] == (3, "the row of suite 'hard' is trained on: train.jsonl:5")

    world.write({"eval.jsonl": json.dumps(row) + "\n"})
    context = world.context("prompt: {template: chat, few_shot: 1}\n" + paths)
    contract = contract_of(context, lambda: None)
    rows = (read(context, contract, f"{name}.jsonl", name) for name in ("train", "eval"))
    rules = {one.rule for one in contract.findings(*rows) if one.file in ("eval.jsonl", "finetune.yaml")}
    assert "chat/refused" in rules
    assert "tokens/few-shot" not in rules  # it says no more than that


DEV = {
    "train": [("a", "low"), ("b", "high"), ("shared with training", "low"), ("c", "low")],
    "eval": [("d", "low"), ("shared with the held-out rows", "high")],
    "dev": [("Shared with training!", "low"), ("e", "high"), ("shared with the held-out rows", "low")],
}


def test_a_development_row_stands_in_no_other_file(world: World) -> None:
    texts = {
        name: "".join(
            json.dumps({"instruction": "Say it.", "input": asked, "output": said}) + "\n"
            for asked, said in rows
        )
        for name, rows in DEV.items()
    }
    world.write({f"{name}.jsonl": text for name, text in texts.items()})
    paths = "paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: dev.jsonl}\n"
    context = world.context(paths)
    contract = contract_of(context, lambda: rows.dev)
    rows = taught(context, contract)
    held_out = read(context, contract, "eval.jsonl", "eval")
    found = contract.findings(rows.train, held_out)
    assert [(one.line, one.read) for one in found if one.rule == "leak/dev"] == [
        (1, "the question is trained on: train.jsonl:3"),
        (3, "the question is held out: eval.jsonl:2"),
    ]
    assert [one.read for one in found if one.rule.startswith("dev/")] == ["3 rows to choose on"]
    assert context.facts.tree()["data"]["dev"]["rows"] == 3


def test_a_share_of_the_training_rows_is_set_aside_to_choose_on(world: World) -> None:
    apart = [{"instruction": "Say it.", "input": word * 3, "output": "low"} for word in "abcdefghijkl"]
    world.write({"train.jsonl": "".join(json.dumps(row) + "\n" for row in apart)})
    context = world.context("split: {dev: 0.5}\n")
    contract = contract_of(context, lambda: rows.dev)
    rows = taught(context, contract)
    assert rows.dev is not None
    whole = [row.digest for row in read_rows(world.path, "train.jsonl", "train")]
    train, dev = ([row.digest for row in part] for part in (rows.train, rows.dev))
    assert (len(train), len(dev)) == (6, 6)
    assert sorted(train + dev) == sorted(whole)
    assert [row for row in whole if row in set(train)] == train  # in the order of the file
    held_out = read(context, contract, "eval.jsonl", "eval")
    assert not any(one.rule.startswith("leak/dev") for one in contract.findings(rows.train, held_out))


def test_a_share_that_comes_to_nothing_is_told(world: World) -> None:
    context = world.context("split: {dev: 0.01}\n")
    contract = contract_of(context, lambda: rows.dev)
    rows = taught(context, contract)
    held_out = read(context, contract, "eval.jsonl", "eval")
    assert [one.read for one in contract.findings(rows.train, held_out) if one.rule == "dev/none"] == [
        "no row to choose on"
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "training: {keep: best}\n",
            "training.keep: 'best' needs rows to choose on: name them in paths.dev_file",
        ),
        (
            "paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: eval.jsonl}\n",
            "paths.dev_file: found 'eval.jsonl', which judges: what is chosen on held-out rows is not proven by them",
        ),
        (
            "paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: train.jsonl}\n",
            "paths.dev_file: found 'train.jsonl', which is trained on",
        ),
        (
            "split: {dev: 0.1}\npaths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: dev.jsonl}\n",
            "split: contradicts paths.dev_file 'dev.jsonl'",
        ),
    ],
)
def test_a_choice_without_rows_of_its_own_is_refused(more: str, said: str, world: World) -> None:
    world.write({"dev.jsonl": '{"instruction": "Say it.", "input": "e", "output": "low"}\n'})
    with pytest.raises(ExperimentError) as refused:
        world.experiment(more)
    assert said in str(refused.value)


LABELLED = """\
paths: {train_file: train.jsonl, eval_file: eval.jsonl, contract_file: contract.yaml}
runtimes: [{gguf: q8_0}]
"""


def test_before_a_run_a_gguf_runtime_says_what_it_will_need_and_leaves_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(world.path / "lost"))
    schema = "schema: {type: object, properties: {label: {type: string}}}"
    world.write({"contract.yaml": f"task: priority\nversion: 1\noutput: {{format: json, {schema}}}\n"})
    for finetune in (False, True):
        context = world.context(LABELLED, finetune=finetune)
        contract = contract_of(context, lambda: None)
        found = contract.findings(
            *(read(context, contract, f"{name}.jsonl", name) for name in ("train", "eval"))
        )
        told = {one.rule: one for one in found.notes}
        assert told["arms/left-out"].read.startswith("the arm 'constrained': the decision is made in 'gguf'")
        # Nothing fails for tools that only --finetune needs.
        assert [one.rule for one in found.errors] == (["gguf/tools"] if finetune else [])
        assert finetune or told["gguf/tools"].why.startswith("pytest --finetune needs it; ")


def test_an_arm_under_a_schema_that_the_first_runtime_cannot_ask_is_a_mistake(world: World) -> None:
    world.write({"contract.yaml": "task: priority\nversion: 1\n"})
    with pytest.raises(
        ExperimentError, match="the decision is made in 'gguf', which decodes freely: write tra"
    ):
        world.experiment(LABELLED + "generation: {constrain: contract}\n")


def test_a_runtime_that_no_plugin_brings_is_named_with_the_one_that_is_near(world: World) -> None:
    ((path, said),) = unknown_runtimes(world.experiment("runtimes: [transformers, mergd]\n"))
    assert path == ("runtimes", 1)
    assert said.startswith(
        "found 'mergd', which no plugin brings (pytest_finetune_runtime); did you mean 'merged'?"
    )


def test_a_template_that_does_not_compile_is_named_before_anything_is_trained(world: World) -> None:
    experiment = world.experiment("prompt: {template: chat}\n")
    world.write({"base/tokenizer.json": "{}", "base/chat_template.jinja": "{% if %}"})
    ((path, said),) = problems(experiment)
    assert path == ("prompt", "template")
    assert said.startswith("the chat template does not compile: ")
    assert said.endswith("base'")


def test_a_base_that_lacks_a_tensor_is_named_before_anything_is_loaded(world: World) -> None:
    experiment = world.experiment()
    names = [f"model.layers.{number}.mlp.{part}.weight" for number in (0, 1) for part in ("up", "down")]
    world.write({"base/tokenizer.json": "{}", "base/config.json": '{"model_type": "llama"}'})
    whole = ["model.embed_tokens.weight", "model.norm.weight", *names]
    for tensors in (whole, whole[:-1]):
        (world.path / "base" / "model.safetensors").write_bytes(safetensors([0.0] * len(tensors), *tensors))
        found = list(problems(experiment))
        assert [path for path, _ in found] == [("base_model",)] * (tensors != whole)
    assert found[0][1].startswith(
        "'base': 1 of 6 tensors are not in the files (model.layers.1.mlp.down.weight)"
    )
    (world.path / "base" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    ((path, said),) = problems(experiment)
    assert path == ("base_model",)
    assert "holds a model and an adapter (adapter_config.json)" in said


def test_an_adapter_on_the_output_head_is_refused_by_its_name(world: World) -> None:
    tensors = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up.weight"]
    world.write({"base/tokenizer.json": "{}", "base/config.json": '{"model_type": "llama"}'})
    (world.path / "base" / "model.safetensors").write_bytes(safetensors([0.0] * 3, *tensors))
    ((path, said),) = problems(world.experiment("lora: {r: 4, target_modules: [up, lm_head]}\n"))
    assert path == ("lora", "target_modules")
    assert said.startswith(
        "found 'lm_head', the output head: the loss is computed from the head's own weight"
    )


@pytest.mark.parametrize(
    ("base", "dtype", "fits"),
    [
        ([8, 4], "F32", True),
        ([4, 8], "F32", True),  # GPT-2 stores its weights turned round
        ([16, 1], "U8", True),  # packed, in 4 bits
        ([8, 6], "F32", False),
    ],
)
def test_a_given_adapter_is_held_to_the_sides_of_the_base(
    world: World, base: list[int], dtype: str, fits: bool
) -> None:
    experiment = world.experiment("trained: {adapter: theirs}\n")
    world.write(
        {
            "theirs/adapter_config.json": '{"peft_type": "LORA"}',
            "base/config.json": '{"model_type": "gpt2"}',
            "base/tokenizer.json": "{}",
        }
    )
    for file, name, shape, kind in (
        ("theirs/adapter_model.safetensors", "base_model.model.h.0.c_attn.lora_A.weight", [2, 4], "F32"),
        ("base/model.safetensors", "h.0.c_attn.weight", base, dtype),
    ):
        size = shape[0] * shape[1] * (4 if kind == "F32" else 1)
        header = json.dumps({name: {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}).encode()
        (world.path / file).write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    said = [text for _, text in problems(experiment)]
    assert len(said) == (not fits)
    assert fits or "h.0.c_attn takes 4 values there and 6 here" in said[0]


def test_the_commit_that_a_branch_of_the_hub_stands_for_is_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = world.path / "hub" / "models--org--base"
    monkeypatch.setenv("HF_HUB_CACHE", str(world.path / "hub"))
    (repository / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c" * 40)
    nothing, here = Rows((), path="none.jsonl", split="train"), world.experiment()
    (moving,) = base_findings(replace(here, base_model="org/base"), nothing, nothing)
    assert (moving.rule, moving.read) == (
        "base/revision",
        f"main of org/base is commit {'c' * 40} in the cache here",
    )
    pinned = replace(here, base_model="org/base", revision="c" * 40)
    assert [*base_findings(pinned, nothing, nothing), *base_findings(here, nothing, nothing)] == []
