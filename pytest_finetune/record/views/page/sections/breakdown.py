"""What stands behind the rates: power and looks, the rows that changed, runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join, table
from pytest_finetune.wording import arm_word, counted, figure


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
            ("rules changed after a look", ", ".join(worn) if (worn := _worn(experiment)) else None),
            ("rules, sha256", element("code", digest) if digest else None),
        ]
    )
    risks = [element("li", str(risk)) for risk in reading.listed(decision, "risks")]
    return join([known, *([element("h4", "Remaining risks"), element("ul", *risks)] if risks else [])])


def _worn(experiment: Json) -> list[str]:
    """Name the rules whose text changed after a look at the held-out rows: they were written in view of them."""
    known = reading.part(experiment, "rules")
    return [name for name in reading.rules(experiment) if reading.part(known, name).get("changed_after_look")]


MOST_LINKS: Final = 200


def changed_rows(experiment: Json, anchor: str) -> Html | None:
    """Every row that the tuning fixed or broke, by rule and opponent, each a link to its answers."""
    places = row_places(experiment, anchor)
    main = reading.primary(experiment)
    first: list[list[Child]] = []
    rest: list[list[Child]] = []
    for pair in reading.comparisons(experiment):
        against = arm_word(reading.text(pair, "against", "an unknown arm"))
        name = f"{reading.text(pair, 'rule', 'unnamed rule')} over {against}"
        changed = [[str(row) for row in reading.listed(pair, key)] for key in ("broken", "fixed")]
        if any(changed):
            rows = first if main in (None, pair.get("rule")) else rest
            rows.append([name, *(row_links(ids, places) for ids in changed)])
    if not first and not rest:
        return None
    note = "Numbers are lines of the held-out file; each leads to the answers."
    return join(
        [
            _changed_table(first, "Rows that the tuning changed")
            if first
            else element("p", f"The tuning changed no row under {main}."),
            element("p", note, class_="ft-muted"),
            _further(rest),
        ]
    )


def _changed_table(rows: list[list[Child]], caption: str) -> Html:
    return table(["rule", "broken", "fixed"], rows, caption, "ft-links ft-compact")


def _further(rows: list[list[Child]]) -> Html | None:
    if not rows:
        return None
    caption = "Rows that the tuning changed under the further rules"
    return element(
        "details",
        element("summary", "Under the further rules"),
        _changed_table(rows, caption),
        class_="ft-more",
    )


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


def runtimes(experiment: Json, anchor: str) -> Html | None:
    """How far the tuned arm agrees between runtimes, a table each; None where one runtime was used."""
    places = row_places(experiment, anchor)
    grids = []
    for match in reading.parts(experiment, "runtime_match"):
        first, second = (reading.text(match, key, "unknown") for key in ("first", "second"))
        rules = reading.part(match, "rules")
        named = [("raw text", reading.part(match, "text"))]
        named += [(f"score, {rule}", reading.part(rules, rule)) for rule in _in_order(experiment, rules)]
        rows: list[list[Child]] = [[what, *_agreed(found, places)] for what, found in named]
        caption = f"The tuned model in {second}, against {first}"
        grids.append(table(["what", "alike", "rows that differ"], rows, caption, "ft-links ft-compact"))
    return join(grids) if grids else None


def _in_order(experiment: Json, rules: Json) -> list[str]:
    order = reading.rules(experiment)
    return sorted(rules, key=lambda rule: (order.index(rule) if rule in order else len(order), rule))


def _agreed(found: Json, places: Mapping[str, tuple[str, str]]) -> list[Child]:
    same, total = reading.whole(found, "same"), reading.whole(found, "total")
    alike = element("span", f"{same} of {total}", class_="ft-nobreak")
    return [alike, row_links([str(row) for row in reading.listed(found, "rows")], places)]
