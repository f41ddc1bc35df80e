"""The merged model: what would be shipped, made once, the same answers as the adapter on its base."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError, Runtime, merging
from pytest_finetune.answering.runtimes import merged as merged_module
from pytest_finetune.answering.runtimes.merged import PROOF, MergedRuntime, ModelFolders
from pytest_finetune.answering.runtimes.merging import base_dtype
from pytest_finetune.answering.runtimes.proof import check_tokens, prove
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation
from pytest_finetune.store import Store
from pytest_finetune.training.base import BaseSource
from tests.small_base import small_base

WORDS = [f"ticket {number}: the printer on floor {number % 7} is out of paper again" for number in range(12)]
GREEDY = Generation(max_new_tokens=8, batch_size=4)
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def build_base(folder: Path, dtype: str) -> Path:
    import torch

    def peaked(model: Any) -> None:
        model.lm_head.weight.data *= 50  # so that rounding never changes the choice
        model.to(getattr(torch, dtype))

    return small_base(folder, WORDS, vocab_size=320, hidden=32, heads=2, chat=CHAT, change=peaked)


def build_adapter(
    base: Path, folder: Path, scale: float = 1.0, targets: str | list[str] = "all-linear"
) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False),
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= scale
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"), "float32")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def folders(store: Store, base: Path, dtype: str = "auto", quantization: str = "none") -> ModelFolders:
    return ModelFolders(store, BaseSource(str(base), quantization=quantization), base, "cpu", dtype)


def ask() -> list[Prompted]:
    return [Prompted(f"r{line}", line, text) for line, text in enumerate(WORDS, 1)]


def texts(runtime: Runtime, adapter: Path | None) -> list[str]:
    return [answer.response for answer in runtime.answer(ask(), GREEDY, adapter)]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def test_the_merged_model_answers_as_the_adapter_on_its_base(store: Store, base: Path, adapter: Path) -> None:
    merged = MergedRuntime(folders(store, base), "cpu")
    beside = TransformersRuntime(str(base))
    assert isinstance(merged, Runtime)
    tuned = texts(merged, adapter)
    assert tuned == texts(beside, adapter)
    untuned = texts(merged, None)
    assert untuned == texts(beside, None)
    assert tuned != untuned
    merged.release()
    assert texts(merged, adapter) == tuned


def test_a_model_is_merged_once_and_kept(store: Store, base: Path, adapter: Path) -> None:
    first = folders(store, base).folder(adapter)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert folders(store, base).folder(adapter) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert [entry.about["dtype"] for entry in store.entries("models")] == ["float32"]
    assert store.warnings == []


def test_a_base_that_can_be_served_as_it_is_is_not_copied(store: Store, base: Path) -> None:
    assert folders(store, base).folder(None) == base
    assert list(store.entries("models")) == []


def test_the_dtype_is_the_one_that_is_shipped(
    store: Store, base: Path, adapter: Path, tmp_path: Path
) -> None:
    half = build_base(tmp_path / "half", "bfloat16")
    assert (base_dtype(base), base_dtype(half)) == ("float32", "bfloat16")
    assert folders(store, half).dtype == "bfloat16"
    made = folders(store, base, "bfloat16").folder(adapter)
    assert {str(tensor.dtype) for tensor in weights(made).values()} == {"torch.bfloat16"}
    assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
    assert made != folders(store, base).folder(adapter)


def test_merging_happens_in_full_precision_and_rounds_once(store: Store, base: Path, adapter: Path) -> None:
    import torch

    exact = weights(folders(store, base).folder(adapter))
    rounded = weights(folders(store, base, "bfloat16").folder(adapter))
    assert all(torch.equal(tensor.to(torch.bfloat16), rounded[name]) for name, tensor in exact.items())


def test_a_quantised_base_is_dequantised_before_the_adapter_is_merged(
    store: Store, base: Path, adapter: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = folders(store, base, quantization="nf4")
    made, alone = quantised.folder(adapter), quantised.folder(None)
    assert alone != base
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    plain = weights(folders(store, base).folder(adapter))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not plain[name].equal(weights(made)[name])  # not merged into the unquantised weights
    # The adapter's part is the same: what differs is the base's rounding to four bits, and nothing else.
    change = weights(made)[name] - weights(alone)[name]
    assert change.allclose(plain[name] - weights(base)[name], atol=1e-6)


def test_tokenizer_and_template_are_copied_byte_for_byte(store: Store, base: Path, adapter: Path) -> None:
    made = folders(store, base).folder(adapter)
    names = {file.name for file in base.iterdir()} - {"config.json", "model.safetensors"}
    assert "tokenizer.json" in names
    assert all((made / name).read_bytes() == (base / name).read_bytes() for name in names)


def test_a_whole_model_in_place_of_an_adapter_is_served_as_it_is(
    store: Store, base: Path, tmp_path: Path
) -> None:
    whole = build_base(tmp_path / "whole", "float32")
    assert folders(store, base).folder(whole) == whole


def test_a_model_that_overflows_in_its_dtype_is_refused_and_not_kept(
    store: Store, base: Path, tmp_path: Path
) -> None:
    loud = build_adapter(base, tmp_path / "loud", scale=1e7)
    with pytest.raises(AnsweringError) as caught:
        folders(store, base, "float16").folder(loud)
    told = str(caught.value)
    assert "the merged model holds numbers that are not finite in float16, in 14 of its tensors" in told
    assert told.endswith("take another dtype for this runtime: {merged: {dtype: bfloat16}}")
    assert list(store.entries("models")) == []


def test_the_answers_key_knows_the_dtype(store: Store, base: Path) -> None:
    abouts = [MergedRuntime(folders(store, base, dtype), "cpu").about() for dtype in ("auto", "bfloat16")]
    assert [about["dtype"] for about in abouts] == ["float32", "bfloat16"]


def test_a_merge_is_proved_once_and_its_proof_is_kept_with_the_model(
    store: Store, base: Path, adapter: Path
) -> None:
    made = folders(store, base)
    assert made.proof(adapter) is None
    made.folder(adapter)
    proof = made.proof(adapter)
    assert proof is not None
    assert proof.rows == 3
    assert 0 < proof.largest < proof.allowed / 100
    assert proof.line.startswith("merge proved on 3 rows: largest logit difference ")
    asked = list[int]()

    def rows(tokenizer: object) -> list[list[int]]:
        asked.append(1)
        return [[5, 6, 7]]

    again = ModelFolders(store, BaseSource(str(base)), base, "cpu", rows=rows)
    again.folder(adapter)
    assert again.proof(adapter) == proof
    later = ModelFolders(
        store, BaseSource(str(base)), base, "cpu", rows=rows
    )  # a file made of it answers for it
    assert (later.proof(adapter), later.stored_proof(None)) == (None, None)
    assert later.stored_proof(adapter) == proof
    assert asked == []


def test_a_model_that_was_merged_before_merges_were_proved_is_merged_again(
    store: Store, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_module, "PROOF", "not proved")
    folders(store, base).folder(adapter)
    monkeypatch.undo()
    folders(store, base).folder(adapter)
    assert [PROOF in entry.about for entry in store.entries("models")] == [True]


def test_a_merge_that_loses_a_part_of_the_adapter_is_refused(
    store: Store, base: Path, adapter: Path, tmp_path: Path
) -> None:
    """A tied embedding is one tensor with two uses: the adapter changes one of them, the merge both."""
    tied = retied(base, tmp_path / "tied")
    on_embedding = build_adapter(tied, tmp_path / "adapter", scale=30, targets=["q_proj", "embed_tokens"])
    with pytest.raises(AnsweringError) as caught:
        folders(store, tied).folder(on_embedding)
    assert str(caught.value).startswith(
        "the merged model is not the one that was judged: on 3 held-out rows its logits differ by up to "
    )
    assert list(store.entries("models")) == []


def retied(base: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("moved", "agrees"), [(0.0009, True), (0.002, False), (float("nan"), False)])
def test_the_tolerance_of_a_proof_hangs_on_the_dtype(moved: float, agrees: bool) -> None:
    import torch

    before = torch.linspace(-1, 1, 8).reshape(2, 4)
    after = before + moved * torch.tensor([1.0, -1.0, 1.0, -1.0])
    if agrees:
        assert prove([before], [after], ("float32", "float32"), "none").largest == pytest.approx(
            moved, rel=1e-3
        )
    else:
        with pytest.raises(AnsweringError, match="its logits differ by up to"):
            prove([before], [after], ("float32", "float32"), "none")
    if moved == moved:
        assert prove([before], [after], ("float32", "bfloat16"), "none").allowed == pytest.approx(0.1)


def test_a_tokenizer_that_reads_otherwise_beside_the_merged_model_is_refused() -> None:
    check_tokens([[1, 2], [3]], [[1, 2], [3]])
    with pytest.raises(AnsweringError, match="reads 1 of 2 rows as other tokens"):
        check_tokens([[1, 2], [3]], [[1, 2], [4]])


def test_a_quantised_base_of_transposed_modules_is_not_merged_into() -> None:
    import torch
    from transformers.pytorch_utils import Conv1D

    model = torch.nn.ModuleDict({"c_attn": torch.nn.Linear(2, 2)})
    model["c_attn"].source_cls = Conv1D
    with pytest.raises(AnsweringError, match="c_attn and its like are transposed modules"):
        merging._check_transposed(model)
