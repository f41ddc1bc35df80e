"""Several seeds: the gain of each, the interval of the next one, and how far every rule moves between them."""

from __future__ import annotations

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.recipe_facts import RuleSpread, SeedTraining
from pytest_finetune.record.recipes import main_spread, named, rates_by_seed
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, grid, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.wording import figure, gain_span, margin, percent, points

NOTE = (
    "The verdict is about the judged adapter alone. The last line is a prediction interval: the gain of one more "
    "adapter, trained in the same way with another seed, lies in it."
)


def recipe(experiment: RecordedExperiment) -> Html | None:
    """Each seed beside the next one; None where one was trained."""
    found, spread = experiment.recipe, main_spread(experiment)
    if not found:
        return None
    told = [paragraph("muted", text) for text in (found.sentence, found.says) if text]
    title = element("p", element("strong", f"{named(found.word).capitalize()}.")) if found.word else None
    if not spread:
        return join([title, *told])
    drawn = _seeds(experiment, spread)
    others = {name: one for name, one in found.rules.items() if name != experiment.primary.name}
    return join(
        [title, *told, drawn, paragraph("muted", NOTE), _others(experiment, others) if others else None]
    )


def _seeds(experiment: RecordedExperiment, spread: RuleSpread) -> Html:
    base, found = spread.base or 0.0, experiment.recipe
    each = [rate - base for rate in spread.rates]
    axis = svg.gain_axis([*each, *(spread.interval or ())])
    rows = [
        _row(f"seed {one.seed}", axis, gain, None, _told(one, judged=one.seed == found.seed))
        for one, gain in zip(found.seeds, each, strict=False)
    ]
    rows.append(_row("the next seed", axis, spread.gain, spread.interval, ""))
    scale = join([svg.scale(axis, ""), element("span", "gain in points", class_="ft-quiet")])
    caption = f"Gain of each seed over the base, {experiment.primary.name}"
    return grid(
        ["training", scale, "gain", "development rows"], [element("tbody", *rows)], caption, "ft-gains"
    )


def _row(name: str, axis: svg.Axis, gain: float | None, span: tuple[float, float] | None, told: str) -> Html:
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", svg.whisker(axis, "tuned", gain, span, None), class_="ft-cell"),
        element("td", with_span(points(gain), gain_span(span))),
        element("td", told),
    )


def _told(one: SeedTraining, *, judged: bool) -> str:
    """Say what the adapter did on the development rows, and whether it is the one that is judged."""
    on_rows = percent(one.dev.rate) if one.dev.rate is not None else ""
    loss = f"loss {figure(one.dev_loss)}" if one.dev_loss is not None else ""
    return ", ".join(text for text in (on_rows, loss, "judged" if judged else "") if text)


def _others(experiment: RecordedExperiment, spreads: dict[str, RuleSpread]) -> Html:
    """The further rules: how far they move from seed to seed."""
    rows: list[list[Child]] = [
        [
            f"{name} (guard)" if experiment.rules[name].guard else name,
            margin(round(one.spread or 0.0, 3)),
            rates_by_seed(one),
            percent(one.base),
        ]
        for name, one in spreads.items()
    ]
    return table(
        ["rule", "spread", "rate of each seed", "base"], rows, "How far the other rules move between seeds"
    )
