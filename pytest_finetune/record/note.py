"""The note that goes into the pull request: what was decided, on what evidence, and what remains open."""

from __future__ import annotations

from pytest_finetune.record import reading
from pytest_finetune.record.drift import drift_sentence
from pytest_finetune.record.headline import headline
from pytest_finetune.record.markdown import code, plain, table
from pytest_finetune.record.reading import Json
from pytest_finetune.record.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_words,
    percent,
    rate_span,
    size,
    threshold,
)


def decision_note(record: Json) -> str:
    """Render `decision.md`: decision, evidence, runtime, remaining risks, next action."""
    runs = reading.experiments(record)
    if not runs:
        return "# No experiment was run\n"
    return "\n".join(line for run in runs for line in _experiment(run, record)).rstrip() + "\n"


def _experiment(experiment: Json, record: Json) -> list[str]:
    said = headline(experiment, record)
    name = reading.text(experiment, "task", reading.text(experiment, "name", "experiment"))
    if len(reading.experiments(record)) > 1:
        name = f"{reading.text(experiment, 'name', 'experiment')}: {name}"
    reasons = [plain(reason) for reason in said.further]
    return [
        f"# {plain(said.word)}: {plain(name)}",
        "",
        plain(said.reason),
        "",
        *(f"- {reason}" for reason in reasons),
        *([""] if reasons else []),
        *_evidence(experiment),
        *_runtime(experiment, record),
        *_risks(experiment),
        "## Next action",
        "",
        plain(said.next) if said.next else _closing(experiment),
        "",
    ]


def _closing(experiment: Json) -> str:
    if reading.part(experiment, "decision").get("keep"):
        return f"Promote the adapter with {code('--finetune-promote')}; retire it when the charter says so."
    return "None was recorded."


def _evidence(experiment: Json) -> list[str]:
    names, arms = reading.rules(experiment), reading.arms(experiment)
    if not names or not arms:
        return ["## Evidence", "", "No arm was judged by a rule.", ""]
    main = reading.primary(experiment)
    rows = [
        [
            plain(name) + (" (primary)" if name == main else ""),
            *(_rate(reading.part(experiment, "arms", arm, "rules", name)) for arm in arms),
            plain(reading.text(reading.part(experiment, "rules", name), "outcome", "not recorded")),
        ]
        for name in names
    ]
    head = ["rule", *(plain(arm_word(arm)) for arm in arms), "outcome"]
    lines = ["## Evidence", "", *table(head, rows), ""]
    pairs = reading.comparisons(experiment)
    gains = [_gain(pair) for pair in pairs if main is None or pair.get("rule") == main]
    drift = drift_sentence(experiment)
    gains += [f"- drift from the base: {plain(drift)}"] if drift else []
    return [*lines, *gains, *([""] if gains else []), *_power(experiment)]


def _rate(score: Json) -> str:
    rate = reading.number(score, "rate")
    if rate is None:
        return "not run"
    counts = f"{figure(reading.number(score, 'passed'), 6)} of {figure(reading.number(score, 'total'), 6)}"
    return f"{counts}, {percent(rate)} {rate_span(reading.span(score, 'interval'))}".rstrip()


def _gain(pair: Json) -> str:
    gain = gain_words(reading.number(pair, "gain"), reading.span(pair, "interval"))
    fixed, broken = (counted(len(reading.listed(pair, key)), "row") for key in ("fixed", "broken"))
    against = arm_word(reading.text(pair, "against", "an unknown arm"))
    sided = f"one-sided p = {figure(reading.number(pair, 'p_value'), 2)}"
    about = plain(f"{reading.text(pair, 'rule', 'a rule')} over {against}")
    return f"- {about}: {gain}, {fixed} fixed, {broken} broken, {sided}"


def _power(experiment: Json) -> list[str]:
    decision = reading.part(experiment, "decision")
    looks, alpha = reading.whole(decision, "looks"), reading.number(decision, "alpha")
    said = [plain(reading.text(decision, "plan_line"))] if decision.get("plan_line") else []
    if looks is not None and alpha is not None:
        said.append(f"Look {looks} at these held-out rows, claims judged one-sided at {figure(alpha)}.")
    if (needed := reading.whole(decision, "examples_needed")) is not None:
        said.append(f"About {counted(needed, 'fresh held-out row')} would settle it.")
    return [" ".join(said), ""] if said else []


def _runtime(experiment: Json, record: Json) -> list[str]:
    config, training = reading.part(experiment, "config"), reading.part(experiment, "training")
    runtimes = sorted({reading.text(arm, "runtime", "unknown") for arm in map(dict, _arm_values(experiment))})
    key = reading.text(experiment, "key")
    base, method = (reading.text(config, name, "unknown") for name in ("base_model", "peft_method"))
    command, created = reading.text(record, "command", "unknown"), reading.text(record, "created", "no date")
    lines = [
        f"base {code(base)}, method {plain(method)}",
        f"answers by {plain(', '.join(runtimes))}" if runtimes else "no answers",
        _trained(training) if training else "not trained",
        _memory(reading.part(experiment, "memory")),
        f"experiment key {code(key[:16])}" if key else "no experiment key",
        f"command {code(command)}, {plain(created)}",
    ]
    return ["## Runtime", "", *(f"- {line}" for line in lines), ""]


def _memory(memory: Json) -> str:
    if not memory:
        return "memory not planned"
    measured = reading.number(memory, "measured_peak_bytes")
    also = f", {size(measured)} measured" if measured is not None else ""
    fits = plain(reading.text(memory, "fits", "not judged"))
    return f"memory {size(reading.number(memory, 'predicted_peak_bytes'))} predicted{also}: {fits}"


def _arm_values(experiment: Json) -> list[Json]:
    return [reading.part(experiment, "arms", arm) for arm in reading.arms(experiment)]


def _trained(training: Json) -> str:
    steps = counted(reading.number(training, "steps"), "step")
    digest = reading.text(training, "adapter_sha256")
    seconds, loss = (
        duration(reading.number(training, "seconds")),
        figure(reading.number(training, "final_loss")),
    )
    how = "adapter reused" if training.get("reused") else f"trained in {seconds}"
    return f"{how} ({steps}, final loss {loss})" + (f", adapter sha256 {code(digest)}" if digest else "")


def _risks(experiment: Json) -> list[str]:
    risks = [plain(risk) for risk in reading.listed(reading.part(experiment, "decision"), "risks")]
    findings = reading.findings(experiment)
    if findings:
        first = plain(reading.text(findings[0], "read"))
        risks.append(f"{counted(len(findings), 'finding')} in data and charter; the first: {first}")
    rules = reading.part(experiment, "rules")
    changed = [
        name for name in reading.rules(experiment) if reading.part(rules, name).get("changed_after_look")
    ]
    if changed:
        risks.append(f"Changed after a look at the held-out rows: {plain(', '.join(changed))}.")
    confidence = reading.number(reading.part(experiment, "config", "decision"), "confidence")
    if confidence is not None and reading.arms(experiment):
        risks.append(f"Intervals are at {threshold(confidence)}: the held-out rows are a sample.")
    return ["## Remaining risks", "", *(f"- {risk}" for risk in risks or ["None was recorded."]), ""]
