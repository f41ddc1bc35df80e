from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import World


def row(text: str, label: str, key: str = "output", **more: object) -> dict[str, object]:
    return {"instruction": "Classify.", "input": text, key: f'{{"label": "{label}"}}', **more}


def test_every_split_is_counted(world: World) -> None:
    tree = world.run("profile", "--json").tree
    train, held_out = tree["splits"]["train"], tree["splits"]["eval"]
    assert (train["rows"], held_out["rows"]) == (12, 40)
    assert train["labels"] == {"high": 8, "low": 4}
    assert held_out["labels"] == {"high": 40}
    assert train["lengths"]["input"]["max"] == len("ticket 11")
    assert (train["tokens"], tree["tokens_counted"]) == (None, False)


def test_the_table_shows_labels_with_their_share_tags_lengths_and_a_histogram(world: World) -> None:
    world.rows(
        "train.jsonl", [row("a" * 10, "low", tags=["negative"]), row("b" * 60, "high"), row("b" * 60, "high")]
    )
    out = world.run("profile").out
    cells = [line.split() for line in out.splitlines()]
    assert ["train", "train.jsonl", "3", "0", "1", "2", "0"] in cells
    assert ["high", "2", "(67%)", "40", "(100%)"] in cells
    assert ["negative", "1", "(33%)", "0", "(0%)"] in cells
    assert ["train", "input", "10", "60", "60", "60"] in cells
    assert ["50+", "2", "0"] in cells
    assert "tokens are not counted" in out


def test_tokens_are_counted_with_the_base_models_own_tokenizer(world: World) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: n for n, token in enumerate(["</s>", *alphabet])}, merges=[])
    )
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(world.root / "model" / "tokenizer.json"))
    world.write("model/tokenizer_config.json", '{"eos_token": "</s>"}')
    world.rows("train.jsonl", [row("abc", "low")])
    ran = world.run("profile", "--json", "--set", "training.max_seq_length=10")
    tokens = ran.tree["splits"]["train"]["tokens"]
    answer = len(' {"label": "low"}')
    assert tokens["max"] == len("abc ->") + answer + 1  # a token a byte, and the stop token
    assert tokens["truncated"] == 1
    assert "supervised" in world.run("profile").out


def test_repeated_and_defective_lines_are_counted(world: World) -> None:
    world.write("train.jsonl", '{"instruction": "I", "input": "x", "output": "y"}\n' * 3 + "{broken\n")
    train = world.run("profile", "--json").tree["splits"]["train"]
    assert (train["rows"], train["repeated_questions"], train["defects"]) == (3, 2, 1)
    assert "1 defects" not in (out := world.run("profile").out)
    assert "1 defect was found and its line left out" in out


def test_suites_are_splits_too(world: World) -> None:
    world.rows("general.jsonl", [row("tell me", "low", "expected")])
    ran = world.run("profile", "--json", "--set", "paths.suites={general: general.jsonl}")
    assert ran.tree["splits"]["general"]["rows"] == 1


def test_empty_files_are_described_not_feared(world: World) -> None:
    world.write("train.jsonl", "")
    world.write("eval.jsonl", "")
    ran = world.run("profile")
    assert ran.code == 0
    assert "0 of 0 held-out inputs" in ran.out


def test_what_a_label_or_tag_says_never_reaches_the_terminal_as_a_command(world: World) -> None:
    evil = "\x1b]0;owned\x07\u202e"
    world.rows("train.jsonl", [row("a", "low", tags=[evil])])
    world.write("finetune.yaml", (world.root / "finetune.yaml").read_text().replace("priority", '"a\\eb"'))
    for words in (["profile"], ["profile", "--json"], ["power"], ["power", "--json"]):
        ran = world.run(*words)
        assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err)
    assert r"\x1b]0;owned\x07\u202e" in world.run("profile").out
