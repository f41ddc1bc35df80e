"""What an experiment says, as frozen records with a default for every key that may be left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment.runtimes import RuntimeSettings
from pytest_finetune.yamlfile import Json

DEFAULT_TEMPLATE: Final = "Instruction: {instruction}\nInput: {input}\nAnswer:"
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?$")


class ExperimentError(FinetuneError, ValueError):
    """The experiment file cannot be used; the message has one line for each mistake."""


@cache
def schema() -> Json:
    """Return the JSON Schema of the experiment file."""
    text = (Path(__file__).parent / "experiment.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter: rank, scale, dropout and the modules that it changes.

    `init_lora_weights` pissa and olora take a part of the base's weights for the adapter's first ones.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    init_lora_weights: str | bool = True

    @property
    def changes_base(self) -> bool:
        """Tell whether the base that is trained on is no longer the one that the adapter is served on."""
        return str(self.init_lora_weights).partition("_")[0] in {"pissa", "olora"}


@dataclass(frozen=True, slots=True)
class Launcher:
    """Where the training runs: in this process, or in so many of its own under ``accelerate launch``."""

    processes: int = 1


@dataclass(frozen=True, slots=True)
class Replay:
    """The base's own answers to other prompts, as a share of what is trained on; `neutral` are those that ship."""

    prompts: str = "neutral"
    share: float = 0.1


@dataclass(frozen=True, slots=True)
class Training:
    """The optimisation, and which answers of a conversation are taught; lengths in tokens, `max_steps` in its steps.

    `keep` says which of its adapters is kept: that of the last step, or the best on the development rows. `seeds` is
    empty unless several were named: then an adapter is trained with each, and `seed` is the first of them. With
    `replay` the base's own answers to other prompts are taught as well, so that it is not forgotten. With `shard` the
    launcher's processes share one model out among them (FSDP), where each holds a whole one otherwise.
    """

    max_seq_length: int = 512
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    learning_rate: float = 2e-4
    num_train_epochs: float = 2.0
    max_steps: int | None = None
    save_total_limit: int = 2
    seed: int = 0
    gradient_checkpointing: bool = False
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0
    packing: bool = False
    full_determinism: bool = False
    assistant_turns: Literal["last", "all"] = "last"
    keep: Literal["last", "best"] = "last"
    replay: Replay | None = None
    seeds: tuple[int, ...] = ()
    launcher: Launcher = field(default_factory=Launcher)
    shard: bool = False
    sft: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a row becomes a prompt; `few_shot` rows stand before the question in the prompt-only arm.

    `candidates` are templates written by hand: the best of them on `candidate_rows` training rows is an arm.
    `chat_template_kwargs` are handed to the tokenizer's chat template wherever it is rendered. Of a held-out
    conversation the last answer is asked for, or with `turns` each.
    """

    template: str = DEFAULT_TEMPLATE
    few_shot: int = 0
    candidates: tuple[str, ...] = ()
    candidate_rows: int = 40
    chat_template_kwargs: Json = field(default_factory=dict)
    turns: Literal["last", "each"] = "last"


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are decoded: greedy unless `do_sample`.

    In an experiment ``constrain: contract`` asks for one more arm, and False forbids it. In what a runtime is given,
    `constrain` is None, or as JSON text what every answer has to follow: a JSON Schema, or the list of all answers.
    """

    max_new_tokens: int = 80
    batch_size: int = 8
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    constrain: str | Literal[False] | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """Files of the experiment, relative to the root and inside it; `columns` maps our names of columns to theirs.

    Where a file of rows is named a data set can be: a folder that `datasets` saved, or one of the hub.
    On the rows of `dev_file` something is chosen: they are neither trained on nor judged by.
    """

    train_file: str
    eval_file: str
    contract_file: str | None = None
    suites: Mapping[str, str] = field(default_factory=dict)
    output_dir: str = "artifacts/adapter"
    columns: Mapping[str, str] = field(default_factory=dict)
    dev_file: str | None = None

    def of_rows(self) -> dict[tuple[str, ...], str]:
        """Return what names rows, by its keys: ``("train_file",)``, ``("suites", "general")``."""
        found: dict[tuple[str, ...], str] = {
            ("train_file",): self.train_file,
            ("eval_file",): self.eval_file,
        }
        if self.dev_file is not None:
            found["dev_file",] = self.dev_file
        found.update({("suites", name): file for name, file in self.suites.items()})
        return found


@dataclass(frozen=True, slots=True)
class Split:
    """What share (0 to 1) of the training rows is set aside as development rows."""

    dev: float


@dataclass(frozen=True, slots=True)
class DecisionDefaults:
    """What the primary rule must show when the rule itself does not say; `grow`: rows may be added until it does."""

    confidence: float = 0.95
    min_gain: float = 0.05
    prompt_gain: float | None = None
    power: float = 0.8
    spend: bool = True
    noise_runs: int = 0
    grow: bool = False


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Whether drift from the base is measured, and on which file of prompts; None is the set that ships."""

    measure: bool = True
    prompts: str | None = None


@dataclass(frozen=True, slots=True)
class OutsideArm:
    """An arm from outside; exactly one of the first four says what it is.

    `adapter` is a key in the store (its beginning is enough) or a folder, `bundle` a promoted folder, `base_model`
    another base, `answers` a file in one of the formats. `chat_template_kwargs` None: those of `prompt`. `must_beat`
    None: an adapter or a bundle must be beaten, the others are shown.
    """

    adapter: str | None = None
    bundle: str | None = None
    base_model: str | None = None
    answers: str | None = None
    format: str = "outputs"
    revision: str | None = None
    quantization: str | None = None
    chat_template_kwargs: Json | None = None
    must_beat: bool | None = None
    min_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class CharterText:
    """Why the run should exist, as its owner wrote it down."""

    behaviour: str | None = None
    facts_change: str | None = None
    prompt_tried: str | None = None
    owner: str | None = None
    base_license: str | None = None
    data_license: str | None = None
    personal_data: str | None = None
    retire_when: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """What a job of this experiment asks its engine for, where an executor runs its steps elsewhere.

    `cards` are names of our table, the one to try first in front. `minutes` is a guess until a step was measured;
    `memory` GiB of main memory, None: by the plan; `queue_minutes` how long a job may wait unheard of after the
    engine's command has ended well. `submitit` is passed through to Slurm.
    """

    cards: tuple[str, ...] = ()
    minutes: int | None = None
    memory: int | None = None
    queue_minutes: int | None = None
    submitit: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One resolved experiment: every key has its value, `resolved` is the same as a JSON tree.

    With ``peft_method: full`` nothing reads `lora`, which is null in `resolved`. `trained` is the folder of an adapter
    that is judged instead of being trained. `split` sets development rows aside where no file holds them.
    """

    name: str
    file: str
    root: Path
    task: str
    base_model: str
    revision: str | None
    trust_remote_code: bool
    peft_method: str
    quantization: str
    lora: Lora
    training: Training
    prompt: Prompt
    generation: Generation
    runtimes: tuple[str, ...]
    paths: Paths
    decision: DecisionDefaults
    charter: CharterText
    overrides: Json
    resolved: Json = field(repr=False)
    runtime_settings: Mapping[str, RuntimeSettings] = field(default_factory=dict)
    arms: Mapping[str, OutsideArm] = field(default_factory=dict)
    drift: DriftSettings = field(default_factory=DriftSettings)
    trained: str | None = None
    attn_implementation: str | None = None
    split: Split | None = None
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)

    @property
    def has_dev_rows(self) -> bool:
        """Whether there are rows to choose on."""
        return self.paths.dev_file is not None or self.split is not None

    def of_seed(self, seed: int) -> Experiment:
        """Return the experiment that trains with this seed, as if no other had been named."""
        written = {name: value for name, value in self.resolved["training"].items() if name != "seeds"}
        return replace(
            self,
            training=replace(self.training, seed=seed, seeds=()),
            resolved={**self.resolved, "training": {**written, "seed": seed}},
        )

    def path(self, relative: str) -> Path:
        """Return the absolute path of a file of the project; ExperimentError when it lies outside."""
        return contained(self.root, relative)

    def local_base(self) -> Path | None:
        """Return the base model's folder, or None when `base_model` is a hub id."""
        folder = (self.root / Path(self.base_model).expanduser()).resolve()
        if folder.is_dir():
            return folder
        return None if is_hub_id(self.base_model) else folder


def is_hub_id(name: str) -> bool:
    """Tell whether `name` has the form of a hub id (``org/model``)."""
    return _HUB_ID.match(name) is not None


def contained(root: Path, relative: str) -> Path:
    """Return ``root / relative`` resolved; ExperimentError when that lies outside the root."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ExperimentError(f"the path {relative!r} leads outside the project {str(root)!r}")
    return path
