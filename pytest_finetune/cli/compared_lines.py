"""The lines of a comparison of two runs: what went in, what came out, and the rows that changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pytest_finetune.cli.answer import columns
from pytest_finetune.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_span,
    gain_words,
    listed,
    one_line,
    percent,
    points,
    rate_span,
    size,
)
from pytest_finetune.yamlfile import Json

_VALUE_CHARS: Final = 44
_ANSWER_CHARS: Final = 140
_IDS_SHOWN: Final = 8
_ROWS_SHOWN: Final = 5
_DIGEST_DIGITS: Final = 64
_WHY_LOST: Final = "the answers of {} are not in the store any more (gc removed them) or beside the record"


def causes(found: Json) -> Iterator[str]:
    """Yield what differs in what went into the runs; one line where nothing does."""
    key = found["key"]
    told = {
        f"packages.{name.rpartition('.')[2]}" for name in key if name.startswith("environment.")
    } | key.keys()
    rows = [("key", name, *pair) for name, pair in key.items()]
    for part, names in (
        ("config", found["config"]),
        ("data", found["data"]),
        ("environment", found["environment"]),
    ):
        rows += [(part, name, *pair) for name, pair in names.items() if name not in told]
    rows += [("rules", name, *pair) for name, pair in found["rules"]["arguments"].items()]
    yield ""
    if rows:
        yield from columns(
            ("differs in", "", "A", "B"), [(*row[:2], *map(_value, row[2:])) for row in rows], indent=0
        )
    else:
        yield "no difference in key, configuration, data, environment or arguments of rules"
    yield from _rules(found["rules"])


def _rules(rules: Json) -> Iterator[str]:
    for name in rules["text_differs"]:
        yield f"rule {one_line(name)}: rule text differs, so its rates are measured with two different rules"
    for run in ("a", "b"):
        if names := rules[f"only_{run}"]:
            yield f"only {run.upper()} has {counted(len(names), 'rule')}: {_ids(names)}"


def effects(found: Json) -> Iterator[str]:
    """Yield the runs' figures and rates side by side."""
    yield ""
    yield from columns(("", "A", "B"), list(_figures(found["figures"])), indent=0, right=(1, 2))
    rows = [_rate_row(one) for one in found["rates"]]
    if rows:
        yield ""
        yield from columns(("rule", "arm", "A", "B", "B - A"), rows, indent=0, right=(2, 3, 4))
        yield one_line(found["recipes"]["says"])


def _figures(figures: Json) -> Iterator[tuple[str, ...]]:
    def row(label: str, name: str, word: Callable[..., str]) -> tuple[str, ...]:
        return (label, *("-" if value is None else str(word(value)) for value in figures[name]))

    yield row("verdict", "verdict", str)
    yield row("gain over the base", "gain_over_base", lambda gain: gain_words(gain["gain"], gain["interval"]))
    if any(figures["recipe"]):
        yield row("recipe", "recipe", str)
        yield row("gain of the next seed", "next_seed", gain_span)
    yield row("look", "look", str)
    yield row("training time", "training_seconds", duration)
    yield row("steps", "steps", str)
    yield row("final loss", "final_loss", figure)
    yield row("peak, predicted", "predicted_peak_bytes", size)
    yield row("peak, measured", "measured_peak_bytes", size)
    yield row("answering time (tuned)", "answering_seconds", duration)
    yield row("neutral answers changed", "neutral_answers_changed", str)
    yield row("neutral answers, token KL", "neutral_mean_kl", figure)


def _rate_row(one: Json) -> tuple[str, ...]:
    before, now = (None if rate is None else rate["rate"] for rate in (one["a"], one["b"]))
    gap = "-" if before is None or now is None else points(now - before)
    return (one["rule"], arm_word(one["arm"]), _rate(one["a"]), _rate(one["b"]), gap)


def _rate(rate: Json | None) -> str:
    return "-" if rate is None else f"{percent(rate['rate'])} {rate_span(rate['interval'])}".rstrip()


def rows_changed(found: Json) -> Iterator[str]:
    """Yield which held-out rows the runs share, which answers changed, and what was fixed and broken."""
    yield ""
    for suite, rows in found["held_out"].items():
        yield f"held-out rows{f' of {one_line(suite)}' if suite else ''}: {', '.join(_shared(rows))}"
    for arm, answers in found["answers"].items():
        yield f"answers of {one_line(arm_word(arm))}: {_answers(answers)}"
    if found["outcomes"]:
        yield ""
        head = ("rule, tuned B against tuned A", "rows", "fixed", "broken", "gain")
        yield from columns(
            head, [_outcome_row(one) for one in found["outcomes"]], indent=0, right=(1, 2, 3, 4)
        )
    for one in found["outcomes"]:
        yield from _outcome_rows(one, found["answers"])


def _shared(rows: Json) -> Iterator[str]:
    yield f"{rows['both']:,} in both runs"
    for name, words in (
        ("only_a", "only in A"),
        ("only_b", "only in B"),
        ("reworded", "with another text in B"),
    ):
        if ids := rows[name]:
            yield f"{len(ids):,} {words} ({_ids(ids)})"


def _answers(answers: Json) -> str:
    if answers["lost"]:
        lost = " and ".join(run.upper() for run in answers["lost"])
        known = "all are the same by their digest" if answers["same"] else "some differ by their digest"
        return f"{known}; which is not known: {_WHY_LOST.format(lost)}"
    changed = answers["changed"]
    if not changed:
        return f"none of {answers['both']:,} changed"
    return f"{len(changed):,} of {answers['both']:,} changed ({_ids([one['a'] for one in changed])})"


def _outcome_row(one: Json) -> tuple[str, ...]:
    gain = "-" if one["gain"] is None else gain_words(one["gain"], one["interval"])
    return (one["rule"], f"{one['both']:,}", f"{len(one['fixed']):,}", f"{len(one['broken']):,}", gain)


def _outcome_rows(one: Json, answers: Mapping[str, Json]) -> Iterator[str]:
    """Name the broken and fixed rows of a rule; the first of them with both answers."""
    texts = {
        (changed["a"], changed["b"]): changed["answers"]
        for changed in (answers.get(one["arm"]) or {}).get("changed") or ()
    }
    for kind in ("broken", "fixed"):
        pairs = [tuple(pair) for pair in one[kind]]
        if not pairs:
            continue
        yield ""
        yield f"{kind} under {one_line(one['rule'])}: {_ids([_pair(pair) for pair in pairs])}"
        for pair in pairs[:_ROWS_SHOWN]:
            for run, text in zip("AB", texts.get(pair, ()), strict=False):
                yield f"  {one_line(_pair(pair), 40)}  {run}: {one_line(text, _ANSWER_CHARS)}"
    if one["by_id"]:
        yield f"  (the rows of {one_line(one['rule'])} were matched by id: a run does not say what stood in them)"


def _pair(pair: Sequence[str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} (in B {pair[1]})"


def _ids(ids: Sequence[str]) -> str:
    return one_line(listed([one_line(id_, 60) for id_ in ids], _IDS_SHOWN))


def _value(value: object) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == _DIGEST_DIGITS and not set(text) - set("0123456789abcdef"):
        return text[:12]
    return one_line(text, _VALUE_CHARS)
