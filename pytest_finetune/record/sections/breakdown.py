"""What stands behind the rates: power and looks, the rows that changed, runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.html import Child, Html, element, facts, join, table
from pytest_finetune.record.reading import Json
from pytest_finetune.record.wording import arm_word, counted, figure


def power(experiment: Json) -> Html:
    """How much these rows can show, how often they were looked at, and what remains at risk."""
    decision = reading.part(experiment, "decision")
    if not decision:
        return element("p", "Nothing was decided in this run.", class_="ft-missing")
    needed, alpha = reading.whole(decision, "examples_needed"), reading.number(decision, "alpha")
    looks, digest = reading.whole(decision, "looks"), reading.text(decision, "rules_sha256")
    known = facts(
        [
            ("power", reading.text(decision, "plan_line") or None),
            ("looks at these rows", f"this is look {looks}" if looks is not None else None),
            ("claims are judged at", f"{figure(alpha)}, one-sided" if alpha is not None else None),
            (
                "rows that would settle it",
                f"about {counted(needed, 'fresh row')}" if needed is not None else None,
            ),
            ("rules, sha256", element("code", digest) if digest else None),
        ]
    )
    risks = [element("li", str(risk)) for risk in reading.listed(decision, "risks")]
    return join([known, *([element("h4", "Remaining risks"), element("ul", *risks)] if risks else [])])


MOST_LINKS: Final = 200
_APART: Final = 5


def changed_rows(experiment: Json, anchor: str) -> Html | None:
    """Every row that the tuning fixed or broke, by rule and opponent, each a link to its answers."""
    places = row_places(experiment, anchor)
    rows: list[list[Child]] = []
    for pair in reading.comparisons(experiment):
        against = arm_word(reading.text(pair, "against", "an unknown arm"))
        name = f"{reading.text(pair, 'rule', 'unnamed rule')} over {against}"
        changed = [[str(row) for row in reading.listed(pair, key)] for key in ("broken", "fixed")]
        if any(changed):
            rows.append([name, *(row_links(ids, places) for ids in changed)])
    if not rows:
        return None
    note = element(
        "p", "Numbers are lines of the held-out file; each leads to the answers.", class_="ft-muted"
    )
    return join([table(["rule", "broken", "fixed"], rows, "Rows that the tuning changed", "ft-links"), note])


def row_places(experiment: Json, anchor: str) -> dict[str, tuple[str, str]]:
    """Give each held-out row its place on the page and a short name: its line, with its file among several."""
    held_out = reading.parts(experiment, "held_out")
    several = len({reading.text(row, "file") for row in held_out}) > 1
    places: dict[str, tuple[str, str]] = {}
    for place, row in enumerate(held_out, start=1):
        line, name = reading.text(row, "line"), reading.text(row, "id")
        file = reading.text(row, "file").rsplit("/", 1)[-1]
        short = f"{file}:{line}" if several and line and file else line or name
        places.setdefault(name, (f"{anchor}-row-{place}", short))
    return places


def row_links(ids: Sequence[str], places: Mapping[str, tuple[str, str]]) -> Html:
    """Link rows by their lines, in the order of the file; long lists are folded and end at 200."""
    order = {name: at for at, name in enumerate(places)}
    known = sorted((row for row in ids if row in places), key=order.__getitem__)
    links = [element("a", places[row][1], href=f"#{places[row][0]}") for row in known[:MOST_LINKS]]
    more = f" and {counted(len(ids) - len(links), 'more row')}" if len(ids) > len(links) else None
    listed = element("span", join(links, " "), more, class_="ft-lines")
    if len(ids) <= 12:
        return listed if ids else element("span", "none", class_="ft-muted")
    return element("details", element("summary", counted(len(ids), "row")), listed)


def runtimes(experiment: Json) -> Html | None:
    """How far the tuned arm agrees between runtimes; None where one runtime was used."""
    rows: list[list[Child]] = []
    for match in reading.parts(experiment, "runtime_match"):
        first, second = (reading.text(match, key, "unknown") for key in ("first", "second"))
        named = [("raw text", reading.part(match, "text")), *reading.part(match, "rules").items()]
        rows += [
            [second, first, what, *_agreed(found)] for what, found in named if isinstance(found, Mapping)
        ]
    head = ["runtime", "against", "what", "alike", "rows that differ"]
    return table(head, rows, "Agreement of the tuned model between runtimes") if rows else None


def _agreed(found: Json) -> list[Child]:
    apart = [str(row) for row in reading.listed(found, "rows")]
    more = f" and {len(apart) - _APART}" if len(apart) > _APART else ""
    same, total = reading.whole(found, "same"), reading.whole(found, "total")
    return [f"{same} of {total}", (", ".join(apart[:_APART]) + more) or "none"]
