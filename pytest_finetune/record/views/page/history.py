"""The page of all runs in a store: whole without a script, nothing fetched, the styles of a record's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_finetune.record.views.page.document import asset
from pytest_finetune.record.views.page.html import Child, Html, element, join
from pytest_finetune.record.views.page.sections.verdict import SYMBOLS
from pytest_finetune.record.views.page.svg import Axis, gain_axis, scale, whisker
from pytest_finetune.wording import (
    counted,
    duration,
    gain_span,
    percent,
    points,
    rate_span,
    size,
)

Run = Mapping[str, Any]

ID_SHOWN: Final = 12
_TONES: Final = {"keep": "good", "iterate": "warn", "discard": "bad"}


def history_page(runs: Sequence[Run]) -> str:
    """Return the runs, the newest first, as one HTML page."""
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", "Fine-tuning history"),
            element("style", Html(asset("style.css") + asset("page.css"))),
        ]
    )
    title = element("h1", "Fine-tuning history")
    body = element("main", title, element("p", _sum(runs)), _table(runs) if runs else None, class_="ft")
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en")


def _sum(runs: Sequence[Run]) -> str:
    verdicts = [run["verdict"] for run in runs]
    words = [f"{verdicts.count(word)} {word}" for word in _TONES if word in verdicts]
    order = ", the newest first" if len(runs) > 1 else ""
    return f"{counted(len(runs), 'run')}{order}: {', '.join(words) or 'none decided'}"


def _table(runs: Sequence[Run]) -> Html:
    values = [run[name] for run in runs for name in ("gain", "gain_low", "gain_high")]
    axis = gain_axis([value for value in values if value is not None])
    quiet = element("span", "gain in points", class_="ft-quiet")
    names: list[Child] = [
        "run", "verdict", "gain over the base", "look and cost", "run and key", join([scale(axis, ""), quiet]),
    ]  # fmt: skip
    return element(
        "table",
        element("caption", "Runs of the store"),
        element("thead", element("tr", *(element("th", name, scope="col") for name in names))),
        *(element("tbody", *_rows(run, axis)) for run in runs),
        class_="ft-grid-table ft-history",
    )


def _rows(run: Run, axis: Axis) -> list[Html]:
    plot = whisker(axis, "tuned", run["gain"], _span(run, "gain"), None)
    facts = element(
        "tr",
        element("th", element("strong", run["experiment"] or "-"), _line(_when(run)), scope="row"),
        element("td", _verdict(run)),
        element("td", *_gain(run)),
        element("td", *_cost(run)),
        element("td", element("code", run["run"][:ID_SHOWN]), _line((run["key"] or "-")[:ID_SHOWN])),
        element("td", plot, class_="ft-cell", rowspan=2),
    )
    why = element("td", run["reason"] or "No reason was recorded.", colspan="5", class_="ft-muted")
    return [facts, element("tr", why, class_="ft-why")]


def _verdict(run: Run) -> Html:
    tone = _TONES.get(run["verdict"], "none")
    word = (run["verdict"] or "no decision") + (" (undecided)" if run["undecided"] else "")
    symbol = element("span", SYMBOLS[tone], aria_hidden="true")
    return element("span", symbol, f" {word}", class_=f"ft-badge ft-{tone}")


def _gain(run: Run) -> list[Child]:
    if run["gain"] is None and run["rate"] is None:
        return ["not measured"]
    gain = element("strong", points(run["gain"]))
    span = element("span", f" {gain_span(_span(run, 'gain'))}", class_="ft-muted ft-nobreak")
    base = f"{percent(run['base_rate'])} → " if run["base_rate"] is not None else ""
    rate = f"{run['primary'] or 'primary rule'} {base}{percent(run['rate'])} {rate_span(_span(run, 'rate'))}"
    return [gain, span, _line(rate)]


def _cost(run: Run) -> list[Child]:
    looks = "no look" if run["look"] is None else f"look {run['look']}"
    spent = [
        duration(run["seconds"]) if run["seconds"] is not None else None,
        size(run["peak_bytes"]) if run["peak_bytes"] is not None else None,
    ]
    return [looks, _line(", ".join(part for part in spent if part) or "not trained")]


def _line(text: str) -> Html:
    return element("span", text, class_="ft-note")


def _when(run: Run) -> str:
    return (run["created"] or "-").replace("T", " ").removesuffix("+00:00")


def _span(run: Run, name: str) -> tuple[float, float] | None:
    low, high = run[f"{name}_low"], run[f"{name}_high"]
    return None if low is None or high is None else (low, high)
