"""Two finished runs side by side: what differs in what went in, and what came out of each. Nothing here decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_finetune.judging.rule import RECORDED
from pytest_finetune.record import changes, reading
from pytest_finetune.record.compare.rows import changed_answers, changed_outcomes, held_out
from pytest_finetune.record.compare.stored_run import StoredRun
from pytest_finetune.record.reading import Json

Pairs = dict[str, list[Any]]

_HARDWARE: Final = ("name", "device", "driver", "runtime", "total_bytes")
_PROFILE: Final = ("rows", "groups", "distinct_questions", "distinct_answers", "labels", "tags")
_TOKENS: Final = ("p50", "p95", "max", "truncated")


def compared(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    """Return everything that two runs can be compared in; each pair holds A's value first."""
    one, other = a.experiment, b.experiment
    return {
        "a": _heading(a),
        "b": _heading(b),
        "key": _between(_key_fields(one), _key_fields(other)),
        "config": _between(_config(one), _config(other)),
        "data": _between(_data(one), _data(other)),
        "environment": _between(_environment(one), _environment(other)),
        "rules": _rules(one, other),
        "figures": {name: [given, _figures(other)[name]] for name, given in _figures(one).items()},
        "rates": list(_rates(one, other)),
        "held_out": held_out(one, other),
        "answers": changed_answers(a, b),
        "outcomes": list(changed_outcomes(one, other)),
    }


def _heading(run: StoredRun) -> dict[str, Any]:
    decision = reading.part(run.experiment, "decision")
    return {
        "named": run.named,
        "created": reading.text(run.header, "created"),
        "command": reading.text(run.header, "command"),
        "experiment": reading.text(run.experiment, "name"),
        "task": reading.text(run.experiment, "task"),
        "verdict": decision.get("verdict"),
        "undecided": decision.get("undecided") is True,
        "reasons": reading.listed(decision, "reasons"),
        "next_change": decision.get("next_change"),
        "key": run.experiment.get("key"),
        "adapter_sha256": reading.part(run.experiment, "training").get("adapter_sha256"),
    }


def _between(before: Json, now: Json) -> Pairs:
    return changes.between(before, now)


def _key_fields(experiment: Json) -> dict[str, Any]:
    return changes.flat(reading.part(experiment, "key_fields"))


def _config(experiment: Json) -> dict[str, Any]:
    return changes.flat(reading.part(experiment, "config"))


def _data(experiment: Json) -> dict[str, Any]:
    files = changes.flat(reading.part(experiment, "checksums"))
    found = {name: value for name, value in files.items() if name.endswith(".sha256")}
    for split, profile in reading.part(experiment, "data").items():
        if isinstance(profile, Mapping) and "rows" in profile:
            told = {name: profile.get(name) for name in _PROFILE}
            tokens = {name: reading.part(profile, "tokens").get(name) for name in _TOKENS}
            found |= changes.flat({**told, "tokens": tokens}, f"{split}.")
    return {name: value for name, value in found.items() if value not in (None, {})}


def _environment(experiment: Json) -> dict[str, Any]:
    environment, hardware = reading.part(experiment, "environment"), reading.part(experiment, "hardware")
    return {
        **changes.flat(environment),
        **{f"hardware.{name}": hardware.get(name) for name in _HARDWARE if name in hardware},
    }


def _rules(one: Json, other: Json) -> dict[str, Any]:
    """Return rules that only one run has, whose text differs, and whose arguments differ."""
    mine, theirs = reading.part(one, "rules"), reading.part(other, "rules")
    both = [name for name in reading.rules(one) if name in mine and name in theirs]
    arguments = [
        {f"{name}.{key}": reading.part(rules, name).get(key) for name in both for key in RECORDED}
        for rules in (mine, theirs)
    ]
    return {
        "only_a": [name for name in reading.rules(one) if name not in theirs],
        "only_b": [name for name in reading.rules(other) if name not in mine],
        "text_differs": [name for name in both if mine[name].get("sha256") != theirs[name].get("sha256")],
        "arguments": _between(*arguments),
    }


def _figures(experiment: Json) -> dict[str, Any]:
    decision, training = reading.part(experiment, "decision"), reading.part(experiment, "training")
    memory, tuned = reading.part(experiment, "memory"), reading.part(experiment, "arms", "tuned")
    return {
        "verdict": decision.get("verdict"),
        "look": reading.whole(decision, "looks"),
        "alpha": reading.number(decision, "alpha"),
        "primary": reading.primary(experiment),
        "gain_over_base": _gain(experiment),
        "steps": reading.whole(training, "steps"),
        "final_loss": reading.number(training, "final_loss"),
        "training_seconds": reading.number(training, "seconds"),
        "predicted_peak_bytes": reading.whole(memory, "predicted_peak_bytes"),
        "measured_peak_bytes": reading.whole(memory, "measured_peak_bytes")
        or reading.whole(training, "peak_bytes"),
        "trainable": reading.whole(training, "trainable"),
        "answering_seconds": reading.number(tuned, "seconds"),
        "answered_tokens": reading.whole(tuned, "tokens"),
        "neutral_answers_changed": reading.whole(reading.part(experiment, "drift"), "answers_changed"),
        "neutral_mean_kl": reading.number(reading.part(experiment, "drift"), "mean_kl"),
    }


def _gain(experiment: Json) -> dict[str, Any] | None:
    rule = reading.primary(experiment)
    for one in reading.comparisons(experiment):
        if one.get("rule") == rule and one.get("against") == "baseline":
            return {"gain": reading.number(one, "gain"), "interval": reading.span(one, "interval")}
    return None


def _rates(one: Json, other: Json) -> Iterator[dict[str, Any]]:
    rules = list(dict.fromkeys([*reading.rules(one), *reading.rules(other)]))
    arms = list(dict.fromkeys([*reading.arms(one), *reading.arms(other)]))
    for rule in rules:
        for arm in arms:
            rates = [_rate(experiment, arm, rule) for experiment in (one, other)]
            if any(rates):
                yield {"rule": rule, "arm": arm, "a": rates[0], "b": rates[1]}


def _rate(experiment: Json, arm: str, rule: str) -> dict[str, Any] | None:
    rate = reading.part(experiment, "arms", arm, "rules", rule)
    if not rate:
        return None
    return {
        "passed": reading.number(rate, "passed"),
        "total": reading.whole(rate, "total"),
        "rate": reading.number(rate, "rate"),
        "interval": reading.span(rate, "interval"),
    }
