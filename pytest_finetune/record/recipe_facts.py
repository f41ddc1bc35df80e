"""What the record says of several seeds: their trainings, and what they show together."""

from __future__ import annotations

from pytest_finetune.record.lenient import Facts, Named, Span


class OnDevelopment(Facts):
    """What the primary rule gave an adapter's answers to the development rows."""

    passed: float | None
    total: int | None
    rate: float | None


class SeedTraining(Facts):
    """The training of one of several seeds, and what it was chosen or passed over by."""

    seed: int | None
    key: str
    adapter_sha256: str
    reused: bool
    steps: int | None
    seconds: float | None
    final_loss: float | None
    dev: OnDevelopment
    dev_loss: float | None


class RuleSpread(Facts):
    """A rule's rate with each seed, in their order; gain and interval (the next seed's) are over the base."""

    base: float | None
    rates: tuple[float, ...]
    spread: float | None
    gain: float | None
    interval: Span | None


class RecipeFacts(Facts):
    """What several seeds show together, and which of their adapters is judged; false where there was one."""

    word: str
    sentence: str
    seed: int | None
    chosen_by: str
    says: str
    seeds: tuple[SeedTraining, ...]
    rules: Named[RuleSpread]
