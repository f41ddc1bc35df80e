"""The note that goes into the pull request: what was decided, on what evidence, and what remains open."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.record import reading, remarks
from pytest_finetune.record.drift import drift_sentence
from pytest_finetune.record.headline import headline
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.markdown import code, plain, table
from pytest_finetune.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_words,
    p_words,
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
    lines = [
        *(_overview(runs, record) if len(runs) > 1 else []),
        *(line for run in runs for line in _experiment(run, record)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _overview(runs: Sequence[Json], record: Json) -> list[str]:
    """All verdicts in one table, before the first experiment."""
    rows = []
    for run in runs:
        said, main = headline(run, record), reading.primary(run)
        rate = reading.number(reading.part(run, "arms", "tuned", "rules", main or ""), "rate")
        name = plain(reading.text(run, "name", "experiment"))
        rows.append(
            [name, plain(said.word), "not run" if rate is None else percent(rate), plain(said.reason)]
        )
    title = f"# {counted(len(runs), 'experiment')}"
    return [title, "", *table(["experiment", "verdict", "tuned, primary rule", "because"], rows), ""]


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
    confidence = reading.number(reading.part(experiment, "config", "decision"), "confidence")
    level = [f"Intervals at {threshold(confidence)}.", ""] if confidence is not None else []
    lines = ["## Evidence", "", *table(head, rows), "", *level]
    return [*lines, *_gains(experiment, main), *_remarks(experiment), *_power(experiment)]


def _gains(experiment: Json, main: str | None) -> list[str]:
    """The tuned arm's gain over each opponent, then over each arm that is only shown."""
    pairs = [pair for pair in reading.comparisons(experiment) if main is None or pair.get("rule") == main]
    pairs.sort(key=lambda pair: not reading.is_opponent(experiment, reading.text(pair, "against")))
    if not pairs:
        return []
    head = ["the tuned model over", "gain", "rows fixed", "rows broken", "one-sided p", "finding"]
    return [*table(head, [_gain(experiment, pair, main) for pair in pairs]), ""]


def _gain(experiment: Json, pair: Json, main: str | None) -> list[str]:
    against = reading.text(pair, "against", "an unknown arm")
    rule = "" if main is not None else f", {reading.text(pair, 'rule', 'a rule')}"
    asked = reading.is_opponent(experiment, against)
    return [
        plain(arm_word(against) + rule),
        gain_words(reading.number(pair, "gain"), reading.span(pair, "interval")),
        *(str(len(reading.listed(pair, key))) for key in ("fixed", "broken")),
        plain(p_words(reading.number(pair, "p_value")).removeprefix("p ").removeprefix("= ")),
        plain(reading.text(pair, "verdict", "not recorded")) if asked else "only shown",
    ]


def _remarks(experiment: Json) -> list[str]:
    told = {
        "best prompt": remarks.best_prompt(experiment),
        "the base": remarks.noise(experiment),
        "drift from the base": drift_sentence(experiment),
    }
    lines = [f"- {about}: {plain(said)}" for about, said in told.items() if said]
    return [*lines, ""] if lines else []


def _rate(score: Json) -> str:
    rate = reading.number(score, "rate")
    if rate is None:
        return "not run"
    counts = f"{figure(reading.number(score, 'passed'), 6)} of {figure(reading.number(score, 'total'), 6)}"
    return f"{counts}, {percent(rate)} {rate_span(reading.span(score, 'interval'))}".rstrip()


def _power(experiment: Json) -> list[str]:
    decision = reading.part(experiment, "decision")
    looks, alpha = reading.whole(decision, "looks"), reading.number(decision, "alpha")
    said = [f"{plain(reading.text(decision, 'plan_line')).rstrip('.')}."] if decision.get("plan_line") else []
    if not said and looks is not None and alpha is not None:
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
    elsewhere, again = plain(remarks.reused(training)), plain(remarks.retrained(training))
    said = f"{how}{' ' if elsewhere else ''}{elsewhere} ({steps}, final loss {loss})"
    said += f"; retrained: {again}" if again else ""
    return said + (f", adapter sha256 {code(digest)}" if digest else "")


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
    return ["## Remaining risks", "", *(f"- {risk}" for risk in risks or ["None was recorded."]), ""]
