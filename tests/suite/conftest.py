"""One experiment in a folder with a stand-in trainer and runtime: what the steps of a run need, without a session."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from pytest_finetune import hookspecs
from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.experiment import Experiment, Generation, load_experiment
from pytest_finetune.store import Store
from pytest_finetune.suite.context import Context
from pytest_finetune.suite.device import ChosenDevice
from pytest_finetune.suite.evidence import Facts, Outbox
from pytest_finetune.suite.gate import Gate
from pytest_finetune.suite.markers import ExperimentRef
from pytest_finetune.suite.options import Settings
from pytest_finetune.suite.run import ExperimentRun
from pytest_finetune.training.request import Progress, TrainingRequest, TrainingResult

EXPERIMENT = """\
task: priority
base_model: base
peft_method: lora
lora: {r: 4}
training: {num_train_epochs: 1}
prompt: {template: "{input} ->"}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
drift: false
"""
LABELS = ("critical", "high", "medium", "low")


def safetensors(values: Sequence[float], *names: str) -> bytes:
    """Return the bytes of a safetensors file with one float32 number a tensor."""
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(values)}f", *values)


class SilentLine:
    """A terminal that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def begin(self, part: str) -> None:
        """Begin nothing."""

    def note(self, text: str) -> None:
        """Note nothing."""

    def say(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.said.append(f"warning: {text}")

    def close(self) -> None:
        """Close nothing."""


class TableRuntime:
    """A model that is a table: the tuned one answers rightly, the base with what `World.base_says`."""

    def __init__(self, world: World, base: str) -> None:
        self.world = world
        self.base = base

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return the table's answers."""
        self.world.calls.append(f"answer {'tuned' if adapter else Path(self.base).name}")
        said = self.world.tuned_says if adapter else self.world.base_says
        return [Answer(asked.id, asked.line, asked.recorded, said, 4, 0.01, True) for asked in prompts]

    def release(self) -> None:
        """Note the release."""
        self.world.calls.append("release")


@dataclass(eq=False)
class World:
    """A project's folder, and what trainer and runtime were asked to do."""

    path: Path
    calls: list[str] = field(default_factory=list)
    base_says: str = "prose"
    tuned_says: str = '{"label": "high"}'
    loss: float = 0.5
    line: SilentLine = field(default_factory=SilentLine)
    plugins: list[object] = field(default_factory=list)

    @pytest.hookimpl
    def pytest_finetune_train(self, request: TrainingRequest) -> TrainingResult:
        """Write a real adapter file."""
        self.calls.append("train")
        names = [f"base_model.model.q.lora_{side}.weight" for side in "AB"]
        (request.folder / "adapter_model.safetensors").write_bytes(safetensors([0.5, 1.0], *names))
        (request.folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
        return TrainingResult(
            folder=request.folder,
            steps=2,
            seconds=0.1,
            final_loss=self.loss,
            log=({"step": 1, "loss": 2.0},),
            held_out_loss=({"step": 1, "loss": 2.0},),
        )

    @pytest.hookimpl
    def pytest_finetune_runtime(self, name: str, base: str) -> TableRuntime | None:
        """Return the table, under the built-in runtime's name."""
        return TableRuntime(self, base) if name == "transformers" else None

    def write(self, files: Mapping[str, str]) -> None:
        """Write files by relative name."""
        for name, text in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")

    def experiment(self, more: str = "") -> Experiment:
        """Return the experiment, with more lines in its file."""
        lines = {line.partition(":")[0]: line for line in (EXPERIMENT + more).splitlines()}
        self.write({"finetune.yaml": "\n".join(lines.values()) + "\n"})
        return load_experiment(self.path, "finetune.yaml", {}, name="finetune")

    def context(self, more: str = "", **settings: Any) -> Context:
        """Return what steps work with; a new one knows nothing of what an earlier one recorded."""
        plugins = pluggy.PluginManager("pytest")
        plugins.add_hookspecs(hookspecs)
        for plugin in (self, *self.plugins):
            plugins.register(plugin)
        return Context(
            experiment=self.experiment(more),
            settings=dataclasses.replace(self.settings(), **settings),
            store=Store(self.path / "store"),
            hooks=plugins.hook,
            chosen=ChosenDevice(SimpleNamespace(), "cpu", lambda: None),  # type: ignore[arg-type]
            line=self.line,
            facts=Facts("finetune", Outbox()),
        )

    def settings(self) -> Settings:
        """Return the settings of a bare ``pytest --finetune``."""
        return Settings(
            finetune=True,
            experiments=("finetune.yaml",),
            overrides={},
            promote=None,
            promote_data=False,
            sign=None,
            budget=None,
            store="store",
            record=self.path / "record",
            retrain=False,
            reuse="exact",
            device="cpu",
            require_gpu=False,
            asked=True,
        )

    def run(self, more: str = "", **settings: Any) -> ExperimentRun:
        """Return a run with no rules."""
        return ExperimentRun(ExperimentRef("finetune.yaml"), self.context(more, **settings), Gate(), ())

    def asked(self) -> list[str]:
        """Return what trainer and runtime were asked to do since the last question."""
        calls, self.calls[:] = list(self.calls), []
        return calls


def rows(count: int, word: str, output: str) -> str:
    """Return a file of rows."""
    lines = [
        {
            "id": f"{word}{i:03d}",
            "instruction": "label it",
            "input": f"{word} {i} on "
            + " ".join(f"w{(i * 7919 + k * 104729 + len(word)) % 99991}" for k in range(6)),
            output: json.dumps({"label": LABELS[i % 4]}),
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A project of 12 training rows and 8 held-out rows."""
    world = World(tmp_path)
    world.write(
        {
            "train.jsonl": rows(12, "training ticket", "output"),
            "eval.jsonl": rows(8, "case", "expected"),
            "base/config.json": '{"model_type": "llama"}',
        }
    )
    (tmp_path / "base" / "model.safetensors").write_bytes(safetensors([0.5], "weight"))
    return world
