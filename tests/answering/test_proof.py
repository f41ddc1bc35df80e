"""Which rows a merged model is proved on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.answering.runtimes import proof
from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import load_experiment


def test_a_merge_is_proved_on_the_held_out_rows_under_the_names_that_their_file_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e.csv").write_text("body,category\nwhere is it,delivery\n")
    (tmp_path / "t.csv").write_text("body,category\nthanks,praise\n")
    (tmp_path / "finetune.yaml").write_text(
        "base_model: base\npeft_method: lora\nlora: {}\ntraining: {}\n"
        "paths: {train_file: t.csv, eval_file: e.csv, columns: {prompt: body, completion: category}}\n"
    )
    asked: list[Pair] = []

    def tokenise(_: Any, pairs: list[Pair], *more: Any) -> list[Any]:
        asked.extend(pairs)
        return [SimpleNamespace(ids=[1, 2])]

    monkeypatch.setattr(proof, "tokenise", tokenise)
    tokenizer: Any = None
    assert proof.held_out_rows(load_experiment(tmp_path, "finetune.yaml"))(tokenizer) == [[1, 2]]
    assert [(pair.prompt, pair.completion) for pair in asked] == [("where is it", "delivery")]
