"""Remarks that only some runs have, each a sentence without its subject: the same in the terminal, note and page."""

from __future__ import annotations

from typing import Final, NamedTuple

from pytest_finetune.record.drift import DriftFacts
from pytest_finetune.record.inputs import Finding, TrainingFacts
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import HeldOutRow, PeoplesLabels
from pytest_finetune.record.tables import passed_of
from pytest_finetune.wording import arm_word, counted, figure, gain_words, listed, one_line, percent, points

_RISEN: Final = 1.02
"""A rise that is told: a smaller one is noise."""


def reused(training: TrainingFacts) -> str:
    """Name what differs from the environment that an adapter comes from; empty where it is this one."""
    if training.reuse != "semantic":
        return ""
    differs = [
        f"{one_line(name.rpartition('.')[2])} {one_line(there)} -> {one_line(here)}"
        for name, (there, here) in sorted(training.reused_from.items())
    ]
    return "from another environment" + (f": {', '.join(differs)}" if differs else "")


def retrained(training: TrainingFacts) -> str:
    """Say what a retraining changed; empty where there was nothing to compare with."""
    found = training.retrained
    if not found:
        return ""
    if found.same_weights:
        return "the same weights as before, byte for byte"
    largest, changed = found.largest_difference, found.answers_changed
    apart = f"differ by at most {largest:.2g}" if largest is not None else "have other names or shapes"
    answers = "old answers not stored" if changed is None else f"{changed} of {found.answers} answers changed"
    return f"weights {apart}; {answers}"


def noise(experiment: RecordedExperiment) -> str:
    """Say how many rows the base scored otherwise when it was asked again; empty where it was asked once."""
    if not experiment.noise:
        return ""
    rows = {row for rule in experiment.rules.values() for row in rule.noisy_rows}
    scored = f"{counted(len(rows), 'row')} scored otherwise" if rows else "every score stayed the same"
    return f"asked {counted(len(experiment.noise) + 1, 'time')}, {scored}"


def judges(experiment: RecordedExperiment) -> str:
    """Say how far each judge can be believed; empty where no rule asks one."""
    return "; ".join(
        f"{rule.name} contradicts itself on {counted(len(rule.verdicts.contradicted), 'row')}, "
        + (
            listed([_checked(arm, found) for arm, found in rule.verdicts.agreement.items()])
            or "nobody checked it"
        )
        for rule in experiment.rules.values()
        if rule.verdicts
    )


def thinking(experiment: RecordedExperiment) -> list[str]:
    """Say of each arm that thought how often it did, and how often the token limit came before its answer."""
    said = []
    for name, arm in experiment.arms.items():
        found = arm.thinking
        if not found.answers:
            continue
        cut = f"; {found.cut} cut before the answer" if found.cut else ""
        spent = counted(found.tokens or 0, "token")
        often = f"{found.answers} of {counted(arm.answers or 0, 'answer')}"
        said.append(one_line(f"{arm_word(name)} thought {spent} before {often}{cut}"))
    return said


class Rendered(NamedTuple):
    """What is said of the prompts that a server makes, and whether they differ from those of the decision."""

    says: str
    differ: bool


def renderings(experiment: RecordedExperiment) -> list[Rendered]:
    """Say of each server how the prompts that it makes compare with those of the decision, arms alike together."""
    said: dict[Rendered, list[str]] = {}
    for name, arm in experiment.arms.items():
        if arm.rendering.rows:
            found = Rendered(arm.rendering.says, bool(arm.rendering.differences))
            said.setdefault(found, []).append(arm_word(name))
    return [Rendered(one_line(f"{listed(arms)}: {says}"), differ) for (says, differ), arms in said.items()]


def merges(experiment: RecordedExperiment) -> list[str]:
    """Say of each arm that a merged model answered how that model was proved."""
    return [
        one_line(f"{arm_word(name)}: {arm.merge.says}")
        for name, arm in experiment.arms.items()
        if arm.merge.rows
    ]


def runtimes(experiment: RecordedExperiment) -> list[str]:
    """Say of each further runtime how far the tuned model answers alike in it, and what moves."""
    told = []
    for match in experiment.runtime_match:
        first, second = (one_line(name or "?", 20) for name in (match.first, match.second))
        scores = match.rules[experiment.primary.name]
        alike = f", {scores.same} of {scores.total} scores" if scores else ""
        told.append(f"{second} like {first}: {match.text.same} of {match.text.total} texts{alike}")
        moved = match.moved[experiment.primary.name]
        if moved.worse or moved.better:
            change = gain_words(moved.gain, moved.interval)
            worse = counted(len(moved.worse), "row")
            told.append(f"in {second}: {worse} worse, {len(moved.better)} better, {change}")
    return told


def files(experiment: RecordedExperiment) -> list[str]:
    """Say of each GGUF file that answered, once for all arms that it answered, how it is stored."""
    answered: dict[tuple[str, str], list[str]] = {}
    for name, arm in experiment.arms.items():
        if arm.gguf.sha256:
            answered.setdefault((arm.gguf.sha256, arm.gguf.says), []).append(arm_word(name))
    return [one_line(f"{', '.join(arms)}: {says}") for (_, says), arms in answered.items()]


def of_arms(experiment: RecordedExperiment) -> list[str]:
    """Say everything that is said of single arms."""
    return [*formats(experiment), *thinking(experiment), *of_models(experiment)]


def of_models(experiment: RecordedExperiment) -> list[str]:
    """Say everything that is said of the models that answered elsewhere than the decision is made."""
    return [*(found.says for found in renderings(experiment)), *merges(experiment), *files(experiment)]


def _checked(arm: str, found: PeoplesLabels) -> str:
    if not found.labels:
        return f"nobody checked it on {arm_word(arm)}"
    agreed, bias = percent(found.agreement), points(found.bias)
    return f"agrees with people on {agreed} of {found.labels} answers of {arm_word(arm)} (bias {bias})"


def best_prompt(experiment: RecordedExperiment) -> str:
    """Say which of the hand-written prompts competed; empty where none was written."""
    tried, best = experiment.prompt_candidates.tried, experiment.prompt_candidates.best
    if best is None or not 0 <= best < len(tried):
        return ""
    passed = passed_of(tried[best].passed, tried[best].total)
    return f"candidate {best + 1} of {len(tried)} competed, it passed {passed} training rows"


def chance(experiment: RecordedExperiment) -> str:
    """Say what the opponent that needs no model answers; empty where there is none."""
    return next((one_line(arm.described) for arm in experiment.arms.values() if arm.described), "")


def formats(experiment: RecordedExperiment) -> list[str]:
    """Say of each opponent that does not always speak the task's format how often it does, and is right then."""
    said = []
    for name, arm in experiment.arms.items():
        found, right = arm.format, arm.format.primary
        if found.whole or not experiment.is_opponent(name):
            continue
        among = f"; right on {figure(right.passed, 6)} of those ({percent(right.rate, 0)})" if right else ""
        speaks = f"{arm_word(name)} speaks the format on {found.readable} of {counted(found.total, 'row')}"
        said.append(one_line(f"{speaks}{among}"))
    return said


def drift(found: DriftFacts, *, brief: bool = False) -> str:
    """Say what was measured, or why nothing was; empty where drift was switched off or not reached.

    The brief one fits a line of the terminal.
    """
    if not found:
        return ""
    if found.outcome != "measured":
        return f"not measured: {found.reason or 'no reason was recorded'}"
    counts = (found.answers_changed, found.prompts, found.like_task.tuned, found.like_task.base)
    changed, of, tuned, base = ("?" if count is None else count for count in counts)
    answers = f"{changed} of {of} neutral answers changed"
    if brief:
        distance = "no KL" if found.mean_kl is None else f"KL {figure(found.mean_kl, 2)}"
        return f"{answers}, {distance}, {tuned} like the task (base {base})"
    if found.null_changed is not None:
        answers += f" (a random adapter of the same size changes {found.null_changed})"
    distance = "no token KL" if found.mean_kl is None else f"mean token KL {figure(found.mean_kl, 3)}"
    before = f"; without replay {found.without_replay.words}" if found.without_replay else ""
    return f"{answers}, {tuned} in the task's format ({base} by the base), {distance}{before}"


def held_out_loss(training: TrainingFacts) -> str:
    """Say that the loss on held-out rows rose again before the training ended; empty where it did not."""
    losses = [point.loss for point in training.held_out_loss if point.loss is not None]
    if len(losses) < 2 or losses[-1] <= min(losses) * _RISEN:
        return ""
    lowest = losses.index(min(losses)) + 1
    return (
        f"held-out loss was lowest after epoch {lowest} of {len(losses)} ({figure(min(losses))}) and rose to "
        f"{figure(losses[-1])}: fewer epochs may do as well"
    )


def place_of_row(row: HeldOutRow) -> str:
    """Name a held-out row: file and line, as far as they are known."""
    return one_line(f"{row.file}:{row.line}" if row.file and row.line else row.id)


def place(found: Finding) -> str:
    """Name where a finding was made: file and line, as far as they are known."""
    file = one_line(found.file or found.rule or "somewhere")
    return f"{file}:{found.line}" if found.line else file
