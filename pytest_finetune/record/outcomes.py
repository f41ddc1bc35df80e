"""What came out of a run, a field for each key of the record that a reader looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_finetune.judging.rule import is_guard
from pytest_finetune.record.lenient import Facts, Json, Named, Span
from pytest_finetune.wording import counted, figure, one_line, p_words


class PlannedArm(Facts):
    opponent: bool
    min_gain: float | None


class Score(Facts):
    """An arm under a rule, or on one slice of it; gain and verdict are the tuned arm's on a slice."""

    passed: float | None
    total: int | None
    rate: float | None
    interval: Span | None
    slices: Named[Score]
    protected: bool
    gain: float | None
    gain_interval: Span | None
    verdict: str


class FormatFacts(Facts):
    """How many answers of an arm have the task's format, and how the primary rule fared among those."""

    readable: int | None
    total: int | None
    interval: Span | None
    told_by: str
    primary: Score

    @property
    def whole(self) -> bool:
        """Whether every answer can be read, or nothing is known of it."""
        return self.readable is None or self.readable == self.total


class ThinkingFacts(Facts):
    """How often an arm thought before it answered, and how often the token limit came before the answer."""

    answers: int | None
    cut: int | None
    tokens: int | None
    off: str


class MergeFacts(Facts):
    """How far a merged model's logits lie from those of the adapter on its base, and what rounding explains."""

    rows: int | None
    largest: float | None
    allowed: float | None
    says: str


class RenderingDifference(Facts):
    """One kind of difference between the prompts that a server makes and those of the decision."""

    kind: str
    rows: int | None
    says: str
    do: str


class RenderingFacts(Facts):
    """How the prompts that a server makes compare with those of the decision: by tokens, or by their counts."""

    rows: int | None
    by: str
    differences: tuple[RenderingDifference, ...]
    says: str


class GgufFacts(Facts):
    """The GGUF file that answered, and how its tensors are stored."""

    quantization: str
    sha256: str
    bytes: int | None
    adapter: str
    converter: str
    server: str
    modelfile: str
    says: str


class ArmFacts(Facts):
    """Who answered, and how it fared under each rule."""

    name: str
    runtime: str
    suite: str
    described: str
    says: str
    outputs: str
    outputs_key: str
    answers_sha256: str
    seconds: float | None
    tokens: int | None
    answers: int | None
    rules: Named[Score]
    format: FormatFacts
    thinking: ThinkingFacts
    rendering: RenderingFacts
    gguf: GgufFacts
    merge: MergeFacts


class PeoplesLabels(Facts):
    """How far a judge agrees with people's labels of one arm's answers, and how much more it gives."""

    labels: int | None
    agreement: float | None
    interval: Span | None
    bias: float | None
    bias_interval: Span | None


class Verdicts(Facts):
    """Who judged under a rule, on which rows it contradicts itself, and how far people agree with it."""

    judge: str
    contradicted: tuple[str, ...]
    agreement: Named[PeoplesLabels]


class RuleFacts(Facts):
    """A rule: what it asks for, what it found on every row, and its outcome; `raw` has every argument."""

    name: str
    primary: bool
    min_rate: float | None
    min_rate_bound: float | None
    min_gain: float | None
    max_loss: float | None
    confidence: float | None
    suite: str
    cluster: str
    corpus: bool
    slice: str
    sha256: str
    changed_after_look: bool
    outcome: str
    reasons: tuple[str, ...]
    lacks: str
    rows: tuple[str, ...]
    groups: tuple[str, ...]
    skipped: tuple[str, ...]
    scores: Mapping[str, tuple[float | None, ...]]
    noise: tuple[tuple[float | None, ...], ...]
    messages: Mapping[str, Mapping[str, str]]
    slice_rows: Mapping[str, tuple[str, ...]]
    confusion: Mapping[str, Mapping[str, Mapping[str, int]]]
    verdicts: Verdicts
    raw: Json

    @property
    def guard(self) -> bool:
        """Whether the rule also fails where the tuned arm is demonstrably worse than the base."""
        return self.recorded and is_guard(self.raw)

    @property
    def noisy_rows(self) -> list[str]:
        """The rows whose score differs between the runs of the base."""
        runs = (self.scores.get("baseline", ()), *self.noise)

        def scored(place: int) -> set[float | None]:
            return {run[place] if place < len(run) else None for run in runs}

        return [row for place, row in enumerate(self.rows) if len(scored(place)) > 1]


class Evidence(Facts):
    """What a gain is claimed by where rows may be added; `more` rows are needed if the rate stays."""

    e: float | None
    highest: float | None
    needed: float | None
    rows: int | None
    more: int | None

    @property
    def words(self) -> str:
        """The evidence as a table shows it."""
        much = "over a million" if self.e is not None and self.e >= 1_000_000 else figure(self.e, 3)
        return f"e = {much} of {figure(self.needed, 3)}"


class Comparison(Facts):
    """The tuned arm against another one under a rule."""

    rule: str
    against: str
    gain: float | None
    interval: Span | None
    p_value: float | None
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    same: int | None
    verdict: str
    sentence: str
    evidence: Evidence

    @property
    def weight(self) -> str:
        """What a gain is claimed by: a p-value, or where rows may be added an e-value."""
        return self.evidence.words if self.evidence else p_words(self.p_value)

    @property
    def proven(self) -> bool | None:
        """Whether the evidence alone shows a gain; None where a p-value says it."""
        found = self.evidence
        return None if found.highest is None or found.needed is None else found.highest >= found.needed


class ArmPair(Facts):
    """Two arms against each other, without the tuned one; rows are only counted."""

    rule: str
    arm: str
    against: str
    gain: float | None
    interval: Span | None
    p_value: float | None
    fixed: int | None
    broken: int | None


class HeldOutRow(Facts):
    id: str
    line: int | None
    file: str
    input: str
    expected: str
    tags: tuple[str, ...]
    group: str
    digest: str


class NoiseRun(Facts):
    """A further run of the base: the rows whose text differs from the first one's."""

    changed: tuple[str, ...]


class Candidate(Facts):
    """A hand-written prompt on training rows."""

    template: str
    passed: float | None
    total: int | None
    rate: float | None


class Candidates(Facts):
    """The hand-written prompts; `best` is the place of the one that competed."""

    rule: str
    rows: tuple[str, ...]
    best: int | None
    tried: tuple[Candidate, ...]


class Agreement(Facts):
    """How many rows came out alike, and those that did not."""

    same: int | None
    total: int | None
    rows: tuple[str, ...]


class Moved(Facts):
    """Rows whose score became worse or better from the first runtime to the second; mean change, 95% interval."""

    worse: tuple[str, ...]
    better: tuple[str, ...]
    total: int | None
    gain: float | None
    interval: Span | None


class RuntimeMatch(Facts):
    """How far the tuned arm agrees with itself between two runtimes."""

    first: str
    second: str
    text: Agreement
    rules: Named[Agreement]
    cause: str
    moved: Named[Moved]


class NextChange(Facts):
    change: str
    because: str
    raw: Json


class WeighedRisk(NamedTuple):
    """A risk of a decision: high, medium, low, or nothing where the record does not say."""

    weight: str
    sentence: str

    @property
    def words(self) -> str:
        """The risk behind its weight."""
        return f"{self.weight}: {self.sentence}" if self.weight else self.sentence


class GrowthFacts(Facts):
    """How the held-out rows of one adapter were added: the look that is spent for all, and the rows at earlier ones."""

    k: int | None
    ends: tuple[int, ...]
    why: str

    @property
    def words(self) -> str:
        """How often rows were added; empty where their number is fixed."""
        if self.k is None:
            return ""
        times = counted(len(self.ends), "time")
        return f"rows added {times} at look {self.k}" if self.ends else f"rows may be added at look {self.k}"


class DecisionFacts(Facts):
    verdict: str
    keep: bool
    undecided: bool | None
    reasons: tuple[str, ...]
    next_change: NextChange
    examples_needed: int | None
    looks: int | None
    alpha: float | None
    rules_sha256: str
    plan_line: str
    risks: tuple[str, ...]
    risk_weights: tuple[str, ...]
    growth: GrowthFacts

    @property
    def weighed(self) -> tuple[WeighedRisk, ...]:
        """The risks with their weights; an older record has none."""
        known = len(self.risk_weights) == len(self.risks)
        weights = self.risk_weights if known else ("",) * len(self.risks)
        return tuple(map(WeighedRisk, weights, map(one_line, self.risks)))


class PowerFacts(Facts):
    """What the held-out rows can show."""

    line: str
    warning: str


class Gate(Facts):
    """What kept the model from being asked."""

    stage: str
    by: str
    because: str


class RecordedTest(Facts):
    nodeid: str
    stage: str
    experiment: str
    outcome: str
    seconds: float | None
    message: str
