"""The note that goes into the pull request: what was decided, on what evidence, and what remains open."""

from __future__ import annotations

from pytest_finetune.record import recipes, remarks
from pytest_finetune.record.headline import headline
from pytest_finetune.record.inputs import MemoryFacts, TrainingFacts
from pytest_finetune.record.model import Recorded, RecordedExperiment, RecordedRun
from pytest_finetune.record.tables import Gain, fits_word, gains, peaks, rate, rates, training_row
from pytest_finetune.record.views.markdown import code, plain, table
from pytest_finetune.wording import arm_word, counted, figure, threshold


def decision_note(record: Recorded) -> str:
    """Render `decision.md`: decision, evidence, runtime, remaining risks, next action."""
    run = RecordedRun.of(record)
    if not run.experiments:
        return "# No experiment was run\n"
    lines = [
        *(_overview(run) if len(run.experiments) > 1 else []),
        *(line for one in run.experiments for line in _experiment(one, run)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _overview(run: RecordedRun) -> list[str]:
    """All verdicts in one table, before the first experiment."""
    rows = []
    for one in run.experiments:
        said, tuned = headline(one, run), rate(one, "tuned", one.primary.name)
        rows.append([plain(one.name or "experiment"), plain(said.word), tuned.rate, plain(said.reason)])
    title = f"# {counted(len(rows), 'experiment')}"
    return [title, "", *table(["experiment", "verdict", "tuned, primary rule", "because"], rows), ""]


def _experiment(experiment: RecordedExperiment, run: RecordedRun) -> list[str]:
    said = headline(experiment, run)
    several = f"{experiment.name or 'experiment'}: " if len(run.experiments) > 1 else ""
    reasons = [plain(reason) for reason in (said.exact, *said.further) if reason]
    return [
        f"# {plain(said.word)}: {plain(f'{several}{experiment.title}')}",
        "",
        plain(said.reason),
        "",
        *(f"- {reason}" for reason in reasons),
        *([""] if reasons else []),
        *([f"{plain(said.counted_risks)}.", ""] if said.risks and said.tone == "good" else []),
        *_evidence(experiment),
        *_runtime(experiment, run),
        *_risks(experiment),
        "## Next action",
        "",
        plain(said.next) or "None was recorded.",
        "",
    ]


def _evidence(experiment: RecordedExperiment) -> list[str]:
    if not experiment.rules or not experiment.arms:
        return ["## Evidence", "", "No arm was judged by a rule.", ""]
    rows = [
        [
            plain(rule.name) + (" (primary)" if rule is experiment.primary else ""),
            *("not run" if one.score.rate is None else f"{one.counts}, {one.words}" for one in found),
            plain(rule.outcome or "not recorded"),
        ]
        for rule, found in rates(experiment)
    ]
    head = ["rule", *(plain(arm_word(arm)) for arm in experiment.arms), "outcome"]
    confidence = experiment.config.decision.confidence
    level = [f"Intervals at {threshold(confidence)}.", ""] if confidence is not None else []
    lines = ["## Evidence", "", *table(head, rows), "", *level]
    return [*lines, *_gains(experiment), *_remarks(experiment), *_power(experiment)]


def _gains(experiment: RecordedExperiment) -> list[str]:
    """The tuned arm's gain over each opponent, then over each arm that is only shown."""
    rows = [_gain(gain, several=not experiment.primary) for gain in gains(experiment)]
    head = ["the tuned model over", "gain", "rows fixed", "rows broken", "one-sided p", "finding"]
    return [*table(head, rows), ""] if rows else []


def _gain(gain: Gain, *, several: bool) -> list[str]:
    return [
        plain(gain.over + (f", {gain.pair.rule or 'a rule'}" if several else "")),
        gain.words,
        str(len(gain.pair.fixed)),
        str(len(gain.pair.broken)),
        plain(gain.pair.weight.removeprefix("p ").removeprefix("= ")),
        plain(gain.pair.verdict or "not recorded") if gain.asked else "only shown",
    ]


def _remarks(experiment: RecordedExperiment) -> list[str]:
    told = {
        "chance": remarks.chance(experiment),
        "best prompt": remarks.best_prompt(experiment),
        "the base": remarks.noise(experiment),
        "judges": remarks.judges(experiment),
        "drift from the base": remarks.drift(experiment.drift),
    }
    lines = [f"- {plain(said)}" for said in remarks.of_arms(experiment)]
    lines += [f"- runtimes: {plain(said)}" for said in remarks.runtimes(experiment)]
    lines += [f"- {about}: {plain(said)}" for about, said in told.items() if said]
    lines += [f"- recipe: {plain(said)}" for said in recipes.sentences(experiment)]
    return [*lines, ""] if lines else []


def _power(experiment: RecordedExperiment) -> list[str]:
    decision = experiment.decision
    said = [f"{plain(decision.plan_line).rstrip('.')}."] if decision.plan_line else []
    if not said and decision.looks is not None and decision.alpha is not None:
        judged = f"claims judged one-sided at {figure(decision.alpha)}"
        said.append(f"Look {decision.looks} at these held-out rows, {judged}.")
    if decision.examples_needed is not None:
        rows = "held-out row, those that are here included," if decision.growth else "fresh held-out row"
        said.append(
            f"About {counted(decision.examples_needed, rows, rows.replace('row', 'rows', 1))} would settle it."
        )
    if decision.growth:
        said.append(f"{decision.growth.words.capitalize()}.")
    return [" ".join(said), ""] if said else []


def _runtime(experiment: RecordedExperiment, run: RecordedRun) -> list[str]:
    config, key = experiment.config, experiment.key
    runtimes = sorted({arm.runtime or "unknown" for arm in experiment.arms.values()})
    lines = [
        f"base {code(config.base_model or 'unknown')}, method {plain(config.peft_method or 'unknown')}",
        f"answers by {plain(', '.join(runtimes))}" if runtimes else "no answers",
        _trained(experiment.training) if experiment.training else "not trained",
        _memory(experiment.memory),
        f"experiment key {code(key[:16])}" if key else "no experiment key",
        f"command {code(run.command or 'unknown')}, {plain(run.created or 'no date')}",
    ]
    return ["## Runtime", "", *(f"- {line}" for line in lines), ""]


def _memory(memory: MemoryFacts) -> str:
    return f"memory {plain(peaks(memory))}: {plain(fits_word(memory))}" if memory else "memory not planned"


def _trained(training: TrainingFacts) -> str:
    took = training_row(training)
    how = "adapter reused" if training.reused else f"trained in {took.seconds}"
    elsewhere, again = plain(remarks.reused(training)), plain(remarks.retrained(training))
    said = f"{how}{' ' if elsewhere else ''}{elsewhere} ({took.steps}, final loss {took.loss})"
    said += f"; retrained: {again}" if again else ""
    return said + (f", adapter sha256 {code(training.adapter_sha256)}" if training.adapter_sha256 else "")


def _risks(experiment: RecordedExperiment) -> list[str]:
    risks = [plain(risk.words) for risk in experiment.decision.weighed]
    findings = [one for one in experiment.findings if one.severity != "note"]
    if findings:
        first = plain(findings[0].read)
        risks.append(f"{counted(len(findings), 'finding')} in data and charter; the first: {first}")
    changed = [rule.name for rule in experiment.rules.values() if rule.changed_after_look]
    if changed:
        risks.append(f"Changed after a look at the held-out rows: {plain(', '.join(changed))}.")
    return ["## Remaining risks", "", *(f"- {risk}" for risk in risks or ["None was recorded."]), ""]
