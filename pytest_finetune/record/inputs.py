"""What a run worked with, a field for each key of the record that a reader looks at."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_finetune.record.lenient import Facts, Json, Named, Pair
from pytest_finetune.wording import counted, percent


class DecisionSettings(Facts):
    """What a decision asks for where a rule does not."""

    confidence: float | None
    min_gain: float | None
    prompt_gain: float | None


class Paths(Facts):
    eval_file: str
    suites: Mapping[str, str]


class ConfigFacts(Facts):
    """The resolved configuration; `raw` has every setting."""

    base_model: str
    peft_method: str
    quantization: str
    trust_remote_code: bool
    lora: Mapping[str, object]
    decision: DecisionSettings
    paths: Paths
    raw: Json


class FileFacts(Facts):
    name: str
    path: str
    sha256: str
    data_set: bool


class Changes(Facts):
    """What differs from the last run of the experiment."""

    created: str
    fields: Mapping[str, Pair]


class Finding(Facts):
    """What a check of the data or the charter found."""

    rule: str
    severity: str
    read: str
    why: str
    fix: str
    file: str
    line: int | None


class Charter(Facts):
    """Why the run should exist; `raw` has all of its owner's words."""

    behaviour: str
    owner: str
    base_license: str
    data_license: str
    personal_data: str
    retire_when: str
    findings: tuple[Finding, ...]
    raw: Json


class Environment(Facts):
    python: str
    platform: str
    packages: Mapping[str, object]
    raw: Json


class Process(Facts):
    """A process that holds some of the card."""

    name: str
    bytes: float | None


class Hardware(Facts):
    name: str
    driver: str
    runtime: str
    total_bytes: float | None
    free_bytes: float | None
    usable_bytes: float | None
    disk_free_bytes: float | None
    lease: Mapping[str, str]
    processes: tuple[Process, ...]
    raw: Json


class Quantiles(Facts):
    """Lengths of texts, in tokens or characters."""

    p50: int | None
    p95: int | None
    max: int | None
    truncated: int | None


class Split(Facts):
    """The rows of one file."""

    rows: int | None
    groups: int | None
    distinct_questions: int | None
    distinct_answers: int | None
    tokens: Quantiles
    lengths: Named[Quantiles]
    labels: Mapping[str, int]
    tags: Mapping[str, int]


class DataFacts(Facts):
    findings: tuple[Finding, ...]
    waived: tuple[object, ...]
    checked: bool | None
    overlap: Mapping[str, int]
    raw: Json

    @property
    def splits(self) -> Named[Split]:
        """Every file's rows, those to train on first."""
        found = {str(name): part for name, part in self.raw.items() if isinstance(part, Mapping)}
        order = sorted(
            (name for name in found if "rows" in found[name]), key=lambda name: (name != "train", name)
        )
        return Named(Split, {name: Split.of(found[name]) for name in order})


class Remedy(Facts):
    """One change that makes the training smaller."""

    change: str
    peak_bytes: float | None
    enough: bool


class MemoryFacts(Facts):
    """The predicted and the measured peak against the budget.

    `not_planned` is why nothing was predicted, `not_compared` why prediction and measurement are of different cards.
    """

    predicted_peak_bytes: float | None
    measured_peak_bytes: float | None
    measured_card: str
    not_planned: str
    not_compared: str
    budget_bytes: float | None
    budget_name: str
    fits: str
    breakdown: Mapping[str, float]
    remedies: tuple[Remedy, ...]
    notes: tuple[str, ...]


class LossPoint(Facts):
    step: float | None
    loss: float | None


class Retrained(Facts):
    """What a retraining changed against the stored adapter that it replaced."""

    before_sha256: str
    same_weights: bool
    largest_difference: float | None
    answers_changed: int | None
    answers: int | None


class ReplayFacts(Facts):
    """The base's own answers that were taught besides the rows."""

    prompts: str
    rows: int | None
    left_out: int | None
    share: float | None

    @property
    def words(self) -> str:
        """How many answers were taught, and how many could not be."""
        left = f"; {self.left_out:,} left out: cut, empty or too long" if self.left_out else ""
        source = "the prompts that ship" if self.prompts == "neutral" else self.prompts
        return (
            f"{counted(self.rows, 'answer')} of the base to {source}, "
            f"{percent(self.share)} of what is trained on{left}"
        )


class TrainingFacts(Facts):
    """The training, or the adapter that was reused."""

    reused: bool
    reuse: str
    reused_from: Mapping[str, Pair]
    retrained: Retrained
    seconds: float | None
    steps: int | None
    final_loss: float | None
    log: tuple[LossPoint, ...]
    held_out_loss: tuple[LossPoint, ...]
    dev_loss: tuple[LossPoint, ...]
    kept_step: int | None
    replay: ReplayFacts
    notes: tuple[str, ...]
    adapter_sha256: str
    adapter_path: str
    trainable: int | None
    parameters: int | None
    peak_bytes: int | None
