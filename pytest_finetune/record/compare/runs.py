"""Two finished runs side by side: what differs in what went in, and what came out of each. Nothing here decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pytest_finetune.fingerprint import flat
from pytest_finetune.judging.rule import RECORDED
from pytest_finetune.record.changes import between
from pytest_finetune.record.compare.recipes import compared_recipes
from pytest_finetune.record.compare.rows import changed_answers, changed_outcomes, held_out
from pytest_finetune.record.compare.stored_run import StoredRun
from pytest_finetune.record.lenient import whole
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import Score
from pytest_finetune.record.recipes import main_spread

_HARDWARE: Final = ("name", "device", "driver", "runtime", "total_bytes")
_PROFILE: Final = ("rows", "groups", "distinct_questions", "distinct_answers", "labels", "tags")
_TOKENS: Final = ("p50", "p95", "max", "truncated")


def compared(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    """Return everything that two runs can be compared in; each pair holds A's value first."""
    one, other = a.experiment, b.experiment
    return {
        "a": _heading(a),
        "b": _heading(b),
        "key": between(flat(one.key_fields), flat(other.key_fields)),
        "config": between(flat(one.config.raw), flat(other.config.raw)),
        "data": between(_data(one), _data(other)),
        "environment": between(_environment(one), _environment(other)),
        "rules": _rules(one, other),
        "figures": {name: [given, _figures(other)[name]] for name, given in _figures(one).items()},
        "rates": list(_rates(one, other)),
        "held_out": held_out(one, other),
        "answers": changed_answers(a, b),
        "outcomes": list(changed_outcomes(one, other)),
        "recipes": compared_recipes(one, other),
    }


def _heading(run: StoredRun) -> dict[str, object]:
    experiment, decision = run.experiment, run.experiment.decision
    return {
        "named": run.named,
        "created": run.session.created,
        "command": run.session.command,
        "experiment": experiment.name,
        "task": experiment.task,
        "verdict": decision.verdict or None,
        "undecided": decision.undecided is True,
        "reasons": list(decision.reasons),
        "next_change": decision.next_change.raw or None,
        "key": experiment.key or None,
        "adapter_sha256": experiment.training.adapter_sha256 or None,
    }


def _data(experiment: RecordedExperiment) -> dict[str, object]:
    files = flat(experiment.checksums)
    found = {name: value for name, value in files.items() if name.endswith(".sha256")}
    for name, split in experiment.data.splits.items():
        told = {key: getattr(split, key) for key in _PROFILE}
        tokens = {key: getattr(split.tokens, key) for key in _TOKENS}
        found |= flat({**told, "tokens": tokens}, f"{name}.")
    return {name: value for name, value in found.items() if value not in (None, {})}


def _environment(experiment: RecordedExperiment) -> dict[str, object]:
    hardware = experiment.hardware.raw
    told = {f"hardware.{name}": hardware[name] for name in _HARDWARE if name in hardware}
    return {**flat(experiment.environment.raw), **told}


def _rules(one: RecordedExperiment, other: RecordedExperiment) -> dict[str, object]:
    """Return rules that only one run has, whose text differs, and whose arguments differ."""
    both = [name for name in one.rules if one.rules[name] and other.rules[name]]
    arguments = [
        {f"{name}.{key}": run.rules[name].raw.get(key) for name in both for key in RECORDED}
        for run in (one, other)
    ]
    return {
        "only_a": [name for name in one.rules if not other.rules[name]],
        "only_b": [name for name in other.rules if not one.rules[name]],
        "text_differs": [name for name in both if one.rules[name].sha256 != other.rules[name].sha256],
        "arguments": between(*arguments),
    }


def _figures(experiment: RecordedExperiment) -> dict[str, object]:
    decision, training, memory = experiment.decision, experiment.training, experiment.memory
    tuned, drift, rule = experiment.arms["tuned"], experiment.drift, experiment.primary
    gain = experiment.gain_over_base(rule.name)
    return {
        "verdict": decision.verdict or None,
        "recipe": experiment.recipe.word or None,
        "next_seed": main_spread(experiment).interval,
        "look": decision.looks,
        "alpha": decision.alpha,
        "primary": rule.name or None,
        "gain_over_base": {"gain": gain.gain, "interval": gain.interval} if gain else None,
        "steps": training.steps,
        "final_loss": training.final_loss,
        "training_seconds": training.seconds,
        "predicted_peak_bytes": whole(memory.predicted_peak_bytes),
        "measured_peak_bytes": whole(memory.measured_peak_bytes) or training.peak_bytes,
        "trainable": training.trainable,
        "answering_seconds": tuned.seconds,
        "answered_tokens": tuned.tokens,
        "neutral_answers_changed": drift.answers_changed,
        "neutral_mean_kl": drift.mean_kl,
    }


def _rates(one: RecordedExperiment, other: RecordedExperiment) -> Iterator[dict[str, object]]:
    for rule in dict.fromkeys([*one.rules, *other.rules]):
        for arm in dict.fromkeys([*one.arms, *other.arms]):
            a, b = (run.arms[arm].rules[rule] for run in (one, other))
            if a or b:
                yield {"rule": rule, "arm": arm, "a": _rate(a), "b": _rate(b)}


def _rate(score: Score) -> dict[str, object] | None:
    if not score:
        return None
    return {"passed": score.passed, "total": score.total, "rate": score.rate, "interval": score.interval}
