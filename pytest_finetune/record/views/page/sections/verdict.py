"""The opening of the page: the verdict, its sentence, the next change and the numbers that carry it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.inputs import MemoryFacts, TrainingFacts
from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.remarks import held_out_loss
from pytest_finetune.record.tables import Gain, fits_word, gain, gains, rate, training_row
from pytest_finetune.record.views.page.html import Child, Html, element, facts, folded, join, table
from pytest_finetune.record.views.page.sections.example import example
from pytest_finetune.wording import counted, margin, size

SYMBOLS: Final = {"good": "✓", "warn": "↻", "bad": "✕", "none": "–"}
_MOST_GAINS: Final = 2
Tile = tuple[str, Child]


def banner(
    experiment: RecordedExperiment, run: RecordedRun, anchor: str, answers: Mapping[str, Sequence[Json]]
) -> Html:
    """Open an experiment: verdict, sentence, a row before and after, next change, then the numbers that carry it."""
    said, name = headline(experiment, run), experiment.name or "experiment"
    several = len(run.experiments) > 1 and experiment.title != name
    symbol = element("span", SYMBOLS[said.tone], aria_hidden="true")
    head = element(
        "h2",
        element("span", symbol, f" {said.word}", class_="ft-word"),
        " ",
        element("span", f"{name}: {experiment.title}" if several else experiment.title, class_="ft-task"),
        id=anchor,
    )
    opened = element(
        "header",
        head,
        element("p", said.reason, class_="ft-reason"),
        element("p", said.exact, class_="ft-exact ft-muted") if said.exact else None,
        _further(said),
        example(experiment, answers),
        _risks(said),
        _learning(experiment),
        _change(said),
        element("p", _about(experiment, run), class_="ft-about"),
        class_=f"ft-banner ft-{said.tone}",
    )
    return join([opened, facts(_tiles(experiment), "ft-tiles")])


def _change(said: Headline) -> Html | None:
    if not said.change:
        return None
    because = element("span", f" because {said.because}", class_="ft-muted") if said.because else None
    change = element("p", element("strong", f"{said.label.capitalize()}: "), said.change, because)
    return element("div", change, class_="ft-change")


def _further(said: Headline) -> Html | None:
    """The reasons after the first; a keep has many that say the same of each opponent, so its list is folded."""
    if not said.further:
        return None
    listed = element("ul", *(element("li", reason) for reason in said.further), class_="ft-reasons")
    if said.tone != "good" or len(said.further) <= 2:
        return listed
    return folded(f"and {counted(len(said.further), 'further reason')}", listed, class_="ft-further")


def _risks(said: Headline) -> Html | None:
    if not said.risks or said.tone != "good":
        return None  # what is kept will be served; of the rest the section on power tells the risks
    if len(said.risks) == 1:
        alone = element("p", element("strong", "Risk: "), said.risks[0].words)
        return element("div", alone, class_="ft-change")
    listed = element("ul", *(element("li", risk.words) for risk in said.risks), class_="ft-reasons")
    counts = element("p", element("strong", said.counted_risks))
    return element("div", counts, listed, class_="ft-change")


def _learning(experiment: RecordedExperiment) -> Html | None:
    said = held_out_loss(experiment.training)
    return element("p", element("strong", "Note: "), said, class_="ft-exact") if said else None


def _about(experiment: RecordedExperiment, run: RecordedRun) -> Html:
    config = experiment.config
    rank = f", rank {config.lora['r']}" if config.lora.get("r") is not None else ""
    method = f" with {config.peft_method or 'unknown method'}{rank}"
    said: list[Child] = [
        join([element("code", config.base_model or "unknown base"), method]),
        counted(experiment.data.splits["eval"].rows, "held-out row"),
        (run.created or "at an unknown time").replace("T", " "),
        element("code", run.command or "unknown command"),
    ]
    return join(said, " · ")


def _tiles(experiment: RecordedExperiment) -> Iterator[Tile]:
    """Rates before and after, gains, rows, runtime, training, memory; what a run did not get to is left out."""
    if experiment.primary:
        yield from _rate_tiles(experiment)
        yield from _gain_tiles(experiment)
        yield from _runtime_tiles(experiment)
    if experiment.training:
        yield "training", _training_tile(experiment.training)
    if experiment.memory:
        said = "measured memory" if experiment.memory.not_planned else "predicted memory"
        yield said, _memory_tile(experiment.memory)


def _rate_tiles(experiment: RecordedExperiment) -> Iterator[Tile]:
    """The primary rule's rate before and after."""
    main = experiment.primary.name
    base, tuned = (rate(experiment, arm, main) for arm in ("baseline", "tuned"))
    if base.score.rate is not None and tuned.score.rate is not None:
        yield f"{main}, base to tuned", _tile(f"{base.rate} → {tuned.rate}", f"{tuned.counts} rows")


def _gain_tiles(experiment: RecordedExperiment) -> Iterator[Tile]:
    """The gain over the base and over the other opponents; of many, the smallest one stands for all."""
    found = [one for one in gains(experiment) if one.asked]
    shown = found if len(found) <= _MOST_GAINS else found[:1]
    for one in shown:
        yield f"gain over {one.over}", _tile(one.points, one.span, _wish(experiment, one))
    rest = [one for one in found[len(shown) :] if one.pair.gain is not None]
    if rest:
        least = min(rest, key=lambda one: one.pair.gain or 0.0)
        value = _tile(least.points, least.span, f"over {least.over}")
        yield f"smallest of {len(rest)} further gains", value
    for one in found[:1]:
        yield f"rows, against {one.over}", _tile(*one.changed)


def _wish(experiment: RecordedExperiment, one: Gain) -> str:
    wanted = experiment.primary.min_gain
    return f"wanted {margin(wanted)}" if wanted is not None and one.pair.against == "baseline" else ""


def _runtime_tiles(experiment: RecordedExperiment) -> Iterator[Tile]:
    """How far the further runtime that scores least like the one that the decision was made in does so."""
    found = [
        (same, match) for match in experiment.runtime_match if (same := match.rules[experiment.primary.name])
    ]
    if found:
        same, match = min(found, key=lambda one: one[0].same or 0)
        least = f", the least alike of {len(found)}" if len(found) > 1 else ""
        alike = _tile(f"{same.same} of {same.total}", f"like in {match.first or 'unknown'}{least}")
        yield f"scores in {match.second or 'unknown'}", alike


def _training_tile(training: TrainingFacts) -> Html:
    took = training_row(training)
    elsewhere = "from another environment" if training.reuse == "semantic" else ""
    return _tile("reused" if training.reused else took.seconds, took.steps, elsewhere)


def _memory_tile(memory: MemoryFacts) -> Html:
    peak = memory.measured_peak_bytes if memory.not_planned else memory.predicted_peak_bytes
    return _tile(size(peak), f"of {size(memory.budget_bytes)}, {fits_word(memory)}")


def _tile(value: str, *below: str) -> Html:
    lines = [element("span", line, class_="ft-note") for line in below if line]
    return join([element("span", value, class_="ft-value"), *lines])


def overview(run: RecordedRun, anchors: list[str]) -> Html:
    """One table of experiments by rules; it stands first where there are several."""
    names = list(dict.fromkeys(rule for one in run.experiments for rule in one.rules))
    rows = []
    for one, anchor in zip(run.experiments, anchors, strict=True):
        said = headline(one, run)
        link = element("a", one.name or "experiment", href=f"#{anchor}")
        word = element("span", f"{SYMBOLS[said.tone]} {said.word}", class_=f"ft-badge ft-{said.tone}")
        rows.append([link, word, *(_cell(one, name) for name in names), said.reason])
    head: list[Child] = ["experiment", "verdict", *names, "because"]
    title = element("h2", f"{len(rows)} experiments", id="ft-overview")
    note = element("p", "Each cell: the tuned model's rate, and its gain over the base.", class_="ft-muted")
    return element("section", title, note, table(head, rows, "Experiments by rules"), class_="ft-overview")


def _cell(experiment: RecordedExperiment, rule: str) -> Child:
    tuned = rate(experiment, "tuned", rule)
    over_base = gain(experiment.gain_over_base(rule))
    if tuned.score.rate is None or over_base.pair.gain is None:
        return tuned.rate
    return join([tuned.rate, element("span", over_base.points, class_="ft-note ft-nobreak")])
