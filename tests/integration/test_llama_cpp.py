"""The real llama.cpp, where `make llama` has built it: convert, quantise, serve, ask, and compare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import Runtime
from pytest_finetune.answering.runtimes.gguf.products import GgufProducts
from pytest_finetune.answering.runtimes.gguf.runtime import GgufRuntime
from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
from pytest_finetune.answering.runtimes.gguf.tools import FOLDER, find_tools
from pytest_finetune.answering.runtimes.merged import ModelFolders
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.checking import RenderingCheck, judged_by
from pytest_finetune.answering.runtimes.server.decoding import base_decoding
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation, GgufSettings
from pytest_finetune.store import Store
from pytest_finetune.training.base import BaseSource

ROOT = Path(__file__).parents[2]
BASE = ROOT / "example_project" / "models" / "ticket-lm"
GREEDY = Generation(max_new_tokens=12)
TEXTS = ("Instruction: Say it.\nInput: The printer is on fire!\nAnswer:", "Hello, how are you", "x = 1 + 22")

# PEFT asks a model for an old name.
pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(autouse=True)
def llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, os.environ.get(FOLDER, str(ROOT / "build" / "llama.cpp")))
    try:
        find_tools()
    except AnsweringError as error:
        pytest.skip(f"{str(error).splitlines()[0]}: make llama")


def build_adapter(folder: Path) -> Path:
    """Return an adapter with random weights that changes answers, ranks and scales not all alike."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        rank_pattern={"q_proj": 8},
        alpha_pattern={"v_proj": 2},
        target_modules="all-linear",
        init_lora_weights="gaussian",
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.02)
    tuned.save_pretrained(folder)
    return folder


def served(tmp_path: Path, quantization: str, adapter: str = "merged") -> GgufRuntime:
    store, source = Store(tmp_path / "store"), BaseSource(str(BASE))
    settings = GgufSettings(quantization, adapter=adapter)
    folders = ModelFolders(store, source, BASE, "cpu", "float32")
    decoding = base_decoding(BASE, GREEDY)
    return GgufRuntime(
        ServedFiles(
            "shipped",
            settings,
            GgufProducts(store, folders, settings, find_tools),
            find_tools,
            tmp_path / f"{quantization}-{adapter}.log",
            decoding,
            RenderingCheck("shipped", judged_by(source, decoding.stops), refuses=True),
            folders.proof,
        )
    )


def texts(runtime: Runtime, adapter: Path | None) -> list[str]:
    asked = [Prompted(f"r{line}", line, text) for line, text in enumerate(TEXTS, 1)]
    return [answer.response for answer in runtime.answer(asked, GREEDY, adapter)]


def test_a_gguf_in_f32_answers_as_the_adapter_on_its_base_merged_or_beside_it(tmp_path: Path) -> None:
    adapter = build_adapter(tmp_path / "adapter")
    here = TransformersRuntime(str(BASE))
    judged = {arm: texts(here, arm) for arm in (None, adapter)}
    assert judged[None] != judged[adapter]
    for form in ("merged", "lora"):
        runtime = served(tmp_path, "f32", form)
        try:
            assert texts(runtime, adapter) == judged[adapter]
            assert runtime.gguf["tensors"] == {"F32": 47}
            assert texts(runtime, None) == judged[None]
        finally:
            runtime.release()
        assert (runtime.rendering["rows"], runtime.rendering["differences"]) == (len(TEXTS), [])


def test_small_tensors_fall_back_in_quantising_and_the_record_says_it(tmp_path: Path) -> None:
    runtime = served(tmp_path, "q4_k_m")
    try:
        first = texts(runtime, None)
        assert texts(runtime, None) == first
    finally:
        runtime.release()
    stored = runtime.gguf["tensors"]
    assert stored["Q4_K"] < stored["Q5_0"]  # a width of 192 is no multiple of 256
    assert "tensors Q5_0" in runtime.gguf["says"]
