"""The record as its readers see it: read once, in a fixed order, from JSON whose parts may be missing or null.

A run may have ended anywhere, so every part is there, and false where the record does not have it. Orders are fixed
here, not taken from the document: a record that was read back from its file has sorted keys. A new key needs a field
of its name in `inputs`, `outcomes` or here, its writer, and a line in `record.schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Self

from pytest_finetune.answering.arm_plans import is_seed_arm
from pytest_finetune.record import inputs, outcomes
from pytest_finetune.record.drift import DriftFacts
from pytest_finetune.record.lenient import Facts, Json, Named, Pair
from pytest_finetune.record.recipe_facts import RecipeFacts

# From the outside in: what an adapter is held against, then the adapter itself.
_ARMS: Final = ("baseline", "prompted", "best_prompt", "constrained", "majority", "copy")
_STAGES: Final = ("data", "fit", "baseline", "training", "rules", "comparison", "decision")


class RecordedExperiment(Facts):
    """One experiment: its arms from the outside in; its rules the primary one, those with a threshold, then guards."""

    name: str
    task: str
    key: str
    key_fields: Json
    key_changed: Mapping[str, Pair]
    changes: inputs.Changes
    config: inputs.ConfigFacts
    config_file: str
    overrides: Json
    checksums: Json
    charter: inputs.Charter
    environment: inputs.Environment
    hardware: inputs.Hardware
    data: inputs.DataFacts
    memory: inputs.MemoryFacts
    training: inputs.TrainingFacts
    timings: Mapping[str, float]
    power: outcomes.PowerFacts
    gate: outcomes.Gate
    planned_arms: Named[outcomes.PlannedArm]
    arms: Named[outcomes.ArmFacts]
    rules: Named[outcomes.RuleFacts]
    held_out: tuple[outcomes.HeldOutRow, ...]
    comparisons: tuple[outcomes.Comparison, ...]
    pairs: tuple[outcomes.ArmPair, ...]
    noise: Named[outcomes.NoiseRun]
    prompt_candidates: outcomes.Candidates
    runtime_match: tuple[outcomes.RuntimeMatch, ...]
    recipe: RecipeFacts
    drift: DriftFacts
    decision: outcomes.DecisionFacts
    raw: Json

    @classmethod
    def of(cls, value: object, **known: object) -> Self:
        """Read an experiment and put its parts in order; rules that only an arm knows come last."""
        if isinstance(value, cls):
            return value
        one = super().of(value, **known)
        arms = {name: one.arms[name] for name in sorted(one.arms, key=place_of) if not is_seed_arm(name)}
        scored = {name: one.rules[name] for arm in arms.values() for name in arm.rules}
        rules = {rule.name: rule for rule in sorted((scored | one.rules).values(), key=_rule_rank)}
        ordered = replace(one, arms=Named(outcomes.ArmFacts, arms), rules=Named(outcomes.RuleFacts, rules))
        place = ordered.place_of_rule
        comparisons = sorted(one.comparisons, key=lambda pair: (place(pair.rule)[0], place_of(pair.against)))
        pairs = sorted(
            one.pairs, key=lambda pair: (place(pair.rule), place_of(pair.against), place_of(pair.arm))
        )
        return replace(ordered, comparisons=tuple(comparisons), pairs=tuple(pairs))

    @property
    def outputs(self) -> set[str]:
        """The files of all answers, also those of single seeds, which are no arms of the verdict."""
        given = _tree(self.raw.get("arms")).values()
        return {name for facts in given if (name := outcomes.ArmFacts.of(facts).outputs)}

    @property
    def title(self) -> str:
        """The task, else the name."""
        return self.task or self.name or "experiment"

    @property
    def primary(self) -> outcomes.RuleFacts:
        """The primary rule; false when none was recorded."""
        return next((rule for rule in self.rules.values() if rule.primary), self.rules[""])

    @property
    def stopped(self) -> bool:
        """Tell whether the run ended before the model could be judged."""
        return not self.decision.verdict or (bool(self.decision.undecided) and not self.arms)

    @property
    def findings(self) -> list[inputs.Finding]:
        """The findings of data and charter, errors first and notes last."""
        found = (*self.data.findings, *self.charter.findings)
        return sorted(found, key=lambda one: {"error": 0, "note": 2}.get(one.severity, 1))

    @property
    def files(self) -> Named[inputs.FileFacts]:
        """The files that were read, by name; those of further suites are called after them."""
        suites = self.checksums.get("suites")
        named = {**self.checksums, **{f"suite {name}": file for name, file in _tree(suites).items()}}
        named.pop("suites", None)
        found = {name: _tree(named[name]) for name in sorted(named) if _tree(named[name])}
        return Named(
            inputs.FileFacts, {name: inputs.FileFacts.of(file, name=name) for name, file in found.items()}
        )

    def place_of_rule(self, name: str) -> tuple[int, str]:
        """Return where a rule stands among others; one that nobody knows comes last."""
        return list(self.rules).index(name) if name in self.rules else len(self.rules), name

    def gain_over_base(self, rule: str) -> outcomes.Comparison:
        """Return the tuned arm's comparison with the base under a rule; false where there is none."""
        found = (one for one in self.comparisons if (one.rule, one.against) == (rule, "baseline"))
        return next(found, outcomes.Comparison.of(None))

    @property
    def over_other_models(self) -> tuple[outcomes.Comparison, ...]:
        """The comparisons with other models; the tuned one in a further runtime is the same model."""
        return tuple(pair for pair in self.comparisons if not pair.against.startswith("tuned@"))

    def is_opponent(self, arm: str) -> bool:
        """Tell whether an adapter is kept only when it beats this arm; without a plan, base and prompt are."""
        plan = self.planned_arms[arm]
        return plan.opponent if plan else arm in ("baseline", "prompted")

    def confidence(self, rule: outcomes.RuleFacts) -> float | None:
        """Return the confidence of a rule's intervals: its own, else the experiment's."""
        return self.config.decision.confidence if rule.confidence is None else rule.confidence


class RecordedRun(Facts):
    """One session."""

    created: str
    project: str
    command: str
    exit_status: int | None
    finetune: bool | None
    plugin_version: str
    notes: tuple[str, ...]
    experiments: tuple[RecordedExperiment, ...]
    tests: tuple[outcomes.RecordedTest, ...]

    @property
    def broken_off(self) -> bool:
        """Whether somebody stopped the session (pytest's exit status 2)."""
        return self.exit_status == 2

    @property
    def cheap_only(self) -> bool:
        """Whether the session ran without `--finetune`: only the stages that need no model.

        `finetune` of the record says so; without it the command does, unless a model was used all the same.
        """
        if self.finetune is not None:
            return not self.finetune
        used = any(one.arms or one.training for one in self.experiments)
        return not used and self.recorded and "--finetune" not in self.command.split()

    def failed_tests(self, experiment: RecordedExperiment) -> list[outcomes.RecordedTest]:
        """Return the failed or broken tests of one experiment, earliest stage first.

        A test that names no experiment counts when the record has only one.
        """
        about = {experiment.name, *([""] if len(self.experiments) == 1 else [])}
        failed = [one for one in self.tests if one.outcome in ("failed", "error") and one.experiment in about]
        return sorted(
            failed, key=lambda one: _STAGES.index(one.stage) if one.stage in _STAGES else len(_STAGES)
        )


Recorded = Json | RecordedRun
"""A record, read already or not: views take either, so that whoever shows several reads it once."""


def place_of(arm: str) -> tuple[int, str]:
    """Return where an arm stands: the base as it was asked, arms from outside by name, tuned, tuned elsewhere."""
    if arm in _ARMS:
        return _ARMS.index(arm), arm
    return len(_ARMS) + (2 if arm.startswith("tuned@") else arm == "tuned"), arm


def _rule_rank(rule: outcomes.RuleFacts) -> tuple[int, str]:
    return 3 if not rule else 0 if rule.primary else 2 if rule.guard else 1, rule.name


def _tree(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}
