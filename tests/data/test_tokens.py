"""Tokens are counted as training counts them, from the model folder alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pytest_finetune.data.chat import folder_chat
from pytest_finetune.data.chat_template import TemplateError, renderer
from pytest_finetune.data.formatting import format_pair
from pytest_finetune.data.tokenizer_files import NoTokenizer
from pytest_finetune.data.tokens import Limits, TokenCount, token_table, tokenization
from pytest_finetune.experiment import Prompt

TEMPLATE = Prompt("Q: {input}\nA:")
CHAT = Prompt("chat")
JINJA = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {% if m['role'] == 'assistant' %}\n"
    "<|a|>{% generation %}{{ m['content'] | trim }}{{ eos_token }}{% endgeneration %}\n"
    "    {% else %}\n"
    "<|{{ m.role[0] }}|>{{ m['content'] | tojson }}\n"
    "    {% endif %}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)


def save_tokenizer(folder: Path, template: str | None = None) -> Path:
    """A byte-level tokenizer without merges: every byte is a token, specials are one each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", "<|a|>", "<|u|>"]
    vocabulary = {token: number for number, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_row_is_prompt_answer_and_stop_token(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    counts = tokenization(folder, TEMPLATE, 64).counts(project.train([make_row("abc", "low")]))
    # <s>, "Q: abc\nA:" and then " low", </s>
    assert counts == [
        TokenCount(length=1 + 9 + 4 + 1, prompt=10, kept=True, stops=True, highest=counts[0].highest)
    ]
    assert counts[0].supervised(64) == 5
    assert counts[0].supervised(12) == 2
    assert counts[0].supervised(5) == 0


def test_a_stop_token_that_the_row_brings_is_not_added_twice(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    (count,) = tokenization(folder, TEMPLATE, 64).counts(project.train([make_row("abc", "low</s>")]))
    assert count.length == 15


def test_truncated_and_unsupervised_rows_are_named(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    rows = [make_row("ok"), make_row("x" * 30), make_row("y" * 80)]
    train, held_out = project.train(rows), project.held_out([make_row("zebra", key="expected")])
    contract = project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 39))
    found = contract.findings(train, held_out)
    assert [(one.rule, one.line, one.read) for one in found] == [
        ("tokens/truncated", 2, "42 tokens, cut at 39"),
        ("tokens/truncated", 3, "92 tokens, cut at 39"),
        ("tokens/unsupervised", 3, "the prompt has 87 tokens, the row 92, and 39 are kept"),
    ]
    lenient = project.contract("tokens: {max_truncated: 2}").with_tokens(tokenization(folder, TEMPLATE, 39))
    assert [one.rule for one in lenient.findings(train, held_out)] == ["tokens/unsupervised"]


def test_rows_that_are_more_than_the_base_can_take_are_named(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 40, "vocab_size": 259}))
    train = project.train([make_row("ok"), make_row("x" * 30), make_row("Río")])
    held_out = project.held_out([make_row("y" * 26, key="expected"), make_row("sí", key="expected")])
    contract = project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 64, new_tokens=8))
    assert contract.tokenization.limits == Limits(40, 259, 260, 8)
    found = contract.findings(train, held_out)
    assert [(one.rule, one.file, one.line, one.read) for one in found] == [
        ("tokens/positions", "train.jsonl", 2, "42 tokens, and the model has 40 positions"),
        ("tokens/no-room", "eval.jsonl", 1, "a prompt of 33 tokens, and generation.max_new_tokens leaves 32"),
        ("tokens/vocabulary", "eval.jsonl", 2, "token id 259, and the model has 259 embeddings"),
        ("tokens/vocabulary", "train.jsonl", 3, "token id 259, and the model has 259 embeddings"),
    ]


def test_more_new_tokens_than_positions_are_said_once(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 40, "vocab_size": 259}))
    held_out = project.held_out([make_row("ok", key="expected"), make_row("y" * 9, key="expected")])
    contract = project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 64, new_tokens=400))
    (found,) = contract.findings(project.train([make_row("no")]), held_out)
    assert found.read == "generation.max_new_tokens 400 is not less than the model's 40 positions"
    assert found.fix == "Set generation.max_new_tokens to at most 24."
    assert (found.file, found.line) == ("eval.jsonl", None)


def test_ids_that_no_row_uses_and_a_base_that_says_nothing_are_no_findings(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model")
    rows = project.train([make_row("ok")]), project.held_out([make_row("z", key="expected")])
    for config in (
        {"vocab_size": 259},
        {"text_config": {"max_position_embeddings": 64}},
        {},
        {"vocab_size": None},
    ):
        (folder / "config.json").write_text(json.dumps(config))
        assert project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 64)).findings(*rows) == []


def test_the_table_has_nearest_rank_percentiles_and_all_supervised_tokens() -> None:
    counts = [TokenCount(length, 5, True, True) for length in range(10, 30)]
    assert token_table(counts, 20) == {
        "p50": 19, "p95": 28, "max": 29, "truncated": 9, "supervised": sum(min(n, 20) - 5 for n in range(10, 30)),
    }  # fmt: skip
    assert token_table([], 20) == {"p50": 0, "p95": 0, "max": 0, "truncated": 0, "supervised": 0}


def test_chat_rows_are_rendered_with_the_folders_template(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model", JINJA)
    (count,) = tokenization(folder, CHAT, 64).counts(project.train([make_row("abc", "low")]))
    prompt_text = '"Classify the ticket.\\n\\nabc"\n'
    assert count.prompt == 1 + 1 + len(prompt_text) + 1
    assert count.length == count.prompt + len("low") + 1 + 0
    assert (count.kept, count.stops, count.moved) == (True, True, False)


def test_a_chat_template_that_never_stops_is_found(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model", JINJA.replace("{{ eos_token }}", ""))
    contract = project.contract("{}").with_tokens(tokenization(folder, CHAT, 64))
    found = contract.findings(
        project.train([make_row("abc")]), project.held_out([make_row("z", key="expected")])
    )
    assert [one.rule for one in found] == ["tokens/no-eos"]


def test_a_template_that_ends_answers_with_a_token_that_stops_none_is_told_with_what_to_write(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model", JINJA.replace("{{ eos_token }}", "<|u|>"))
    rows = project.train([make_row("abc")]), project.held_out([make_row("z", key="expected")])
    (found,) = project.contract("{}").with_tokens(tokenization(folder, CHAT, 64)).findings(*rows)
    assert found.rule == "tokens/no-eos"
    assert found.read == (
        "the answer ends in '<|u|>', which stops no answer of this base: name it in eos_token_id of its "
        "generation_config.json as well"
    )
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    assert project.contract("{}").with_tokens(tokenization(folder, CHAT, 64)).findings(*rows) == []


def test_text_and_chat_are_tokenised_as_transformers_does_it(project: Any, make_row: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = save_tokenizer(project.root / "model", JINJA)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = project.train([make_row("abc d\u00e9f <b>", ' {"a": "b"} '), make_row("g", "high")])
    for prompt in (TEMPLATE, CHAT):
        ours = tokenization(folder, prompt, 512).counts(rows)
        for row, count in zip(rows, ours, strict=True):
            pair: Any = format_pair(row, prompt)
            if prompt is CHAT:
                messages = [*pair.prompt, *pair.completion]
                whole = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
                opened = theirs.apply_chat_template(pair.prompt, add_generation_prompt=True, return_dict=True)
                asked = opened["input_ids"]
            else:
                whole = theirs(pair.prompt + pair.completion + theirs.eos_token)["input_ids"]
                asked = theirs(pair.prompt)["input_ids"]
            assert (count.length, count.prompt) == (len(whole), len(asked))


def test_a_prompt_whose_end_changes_is_found(project: Any, make_row: Any) -> None:
    contract = project.contract("{}")
    train = project.train([make_row("abc")])
    from pytest_finetune.data.checks.files import token_findings

    (found,) = token_findings(contract, train, [TokenCount(20, 9, False, True)], 64)
    assert found.rule == "tokens/prompt"


@pytest.mark.parametrize("missing", ["tokenizer.json", "eos", "template"])
def test_what_cannot_be_counted_here_is_said(project: Any, make_row: Any, missing: str) -> None:
    folder = save_tokenizer(project.root / "model")
    rows = project.train([make_row("abc")])
    if missing == "tokenizer.json":
        (folder / "tokenizer.json").unlink()
    if missing == "eos":
        (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(
        NoTokenizer, match={"eos": "no eos_token"}.get(missing, "tokenizer.json|no chat template")
    ):
        tokenization(folder, CHAT if missing == "template" else TEMPLATE, 64).counts(rows)


def test_a_template_cannot_leave_its_sandbox_and_its_refusals_are_told() -> None:
    render = renderer("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(TemplateError, match="unsafe"):
        render([{"role": "user", "content": "x"}], (), True)
    refuse = renderer("{{ raise_exception('system comes first') }}", {})
    with pytest.raises(TemplateError, match="system comes first"):
        refuse([], (), True)
    with pytest.raises(TemplateError, match="does not compile"):
        renderer("{% if %}", {})


def test_older_folders_name_their_special_tokens_in_a_file_of_their_own(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    rows = project.train([make_row("abc", "low")])
    (new,) = tokenization(folder, TEMPLATE, 64).counts(rows)
    (folder / "tokenizer_config.json").rename(folder / "special_tokens_map.json")
    known = tokenization(folder, CHAT, 64)
    assert tokenization(folder, TEMPLATE, 64).counts(rows) == [new]
    assert known.chat is not None
    assert known.chat.asked([{"role": "user", "content": "x"}]) == "<s>x</s>"
    (folder / "tokenizer_config.json").write_text(
        '{"added_tokens_decoder": {}}'
    )  # as newer versions write it
    with pytest.raises(NoTokenizer, match="no eos_token"):
        tokenization(folder, TEMPLATE, 64)


def test_a_template_in_a_file_stands_for_all_that_the_configuration_names(project: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [
        {"name": name, "template": f"{name}: {{{{ messages[0].content }}}}"}
        for name in ("default", "tool_use")
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    asked = [{"role": "user", "content": "x"}]
    assert folder_chat(folder, {}).asked(asked, [{"type": "function"}]) == "tool_use: x"
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert folder_chat(folder, {}).asked(asked, [{"type": "function"}]) == "file: x"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", b'{"eos_token": ', "tokenizer_config.json is not readable JSON"),
        ("generation_config.json", b"version https://git-lfs", "generation_config.json is not readable JSON"),
        ("chat_template.jinja", "é".encode("latin-1"), "chat_template.jinja is not in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(project: Any, name: str, content: bytes, said: str) -> None:
    folder = save_tokenizer(project.root / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(NoTokenizer, match=said):
        tokenization(folder, CHAT, 64)


def test_a_tokenizer_that_ends_every_text_is_told_from_a_prompt_that_ends_badly(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    contract = project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 512))
    found = contract.findings(project.train([make_row("abc")]), project.held_out([make_row("xyz")]))
    reads = [one.read for one in found if one.rule == "tokens/prompt"]
    assert len(reads) == 2
    assert reads[0].startswith(
        "the tokenizer puts '</s>' after every text, so the question would be asked as one "
    )
    assert "take add_eos_token out of its tokenizer_config.json" in reads[0]


def test_a_start_token_in_the_template_would_stand_there_twice(project: Any, make_row: Any) -> None:
    folder = save_tokenizer(project.root / "model")
    found = []
    for template in ("<s>[INST] {input} [/INST]", "[INST] {input} [/INST]"):
        contract = project.contract("{}").with_tokens(
            tokenization(folder, replace(TEMPLATE, template=template), 512)
        )
        rows = project.train([make_row("abc"), make_row("def")]), project.held_out([make_row("xyz")])
        found.append([one.read for one in contract.findings(*rows) if one.rule == "tokens/two-starts"])
    assert found == [["the prompt begins with '<s>', which the tokenizer puts before it as well"], []]


TALK = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if m.role == 'assistant' %}<|a|>{{ m.content.split('</think>')[-1] }}</s>{% else %}<|u|>{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|a|><think>\n{% endif %}"
)


def test_what_a_chat_template_does_to_a_row_is_found_before_anything_is_trained(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model", TALK)
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "zebra"}]
    refused = {"messages": [*system, {"role": "assistant", "content": "low"}]}
    train = [
        make_row("abc"),
        make_row("def", "<think>so</think>low"),
        make_row("ghi", "lo</s>w"),
        make_row("jkl", "<|u|>"),
    ]
    contract = project.contract("{}").with_tokens(tokenization(folder, CHAT, 512))
    found = contract.findings(project.train(train), project.rows("eval.jsonl", [refused], "eval"))
    told = [
        (one.rule, one.file, one.line, one.severity)
        for one in found
        if one.rule.startswith(("chat", "tokens"))
    ]
    assert told == [
        ("tokens/stop-token", "train.jsonl", 3, "error"),
        ("tokens/special-token", "train.jsonl", 4, "warning"),
        ("chat/refused", "eval.jsonl", 1, "error"),
        ("chat/answer", "train.jsonl", 2, "error"),
    ]
    reads = {one.rule: one.read for one in found}
    assert reads["chat/refused"] == "the chat template refuses these messages: System role not supported"
    assert reads["chat/answer"] == "the answer is '<think>so</think>low', and the template writes 'low'"
    assert contract.tokenization.table(project.train(train))["max"] > 0  # a refused row is counted by nobody


def test_a_row_is_counted_as_it_is_trained_where_the_prompt_opens_a_thought(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model", TALK)
    (count,) = tokenization(folder, CHAT, 512).counts(project.train([make_row("abc", "low")]))
    prompt = "Classify the ticket.\n\nabc"
    assert count.prompt == 1 + len(prompt) + 1 + len("<think>\n")
    assert count.supervised(512) == len("\n</think>\n\nlow") + 1
    assert (count.kept, count.moved) == (True, True)


def test_both_ends_of_a_prompt_that_changes_are_shown_for_held_out_rows_too(
    project: Any, make_row: Any
) -> None:
    folder = save_tokenizer(project.root / "model")
    joined = json.loads((folder / "tokenizer.json").read_text())
    joined["model"]["vocab"]["bc"] = len(joined["model"]["vocab"])
    joined["model"]["merges"] = [["b", "c"]]
    joined["decoder"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(joined))
    contract = project.contract("{}").with_tokens(tokenization(folder, TEMPLATE, 512))
    half = {"prompt": "zebra ab", "completion": "cd"}
    found = contract.findings(
        project.train([half]), project.held_out([{"prompt": "another ab", "completion": "cd"}])
    )
    assert [(one.rule, one.file, one.read) for one in found if one.rule == "tokens/prompt"] == [
        ("tokens/prompt", "eval.jsonl", "asked alone it goes on 'r ab', and with the answer 'r abc'"),
        ("tokens/prompt", "train.jsonl", "asked alone it goes on 'a ab', and with the answer 'a abc'"),
    ]
