"""What an auditor checks: data, charter, environment, configuration, lineage, tests, how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from pytest_finetune.record import reading, svg
from pytest_finetune.record.headline import BLOCKED, place
from pytest_finetune.record.html import Child, Html, element, facts, join, table
from pytest_finetune.record.reading import Json
from pytest_finetune.record.sections.evidence import badge
from pytest_finetune.record.wording import counted, duration, size

_TOKENS: Final = {"p50": "median", "p95": "95th percentile", "max": "longest", "truncated": "truncated"}

_PROFILE: Final = {
    "characters asked, median": ("lengths", "input", "p50"),
    "characters asked, longest": ("lengths", "input", "max"),
    "characters answered, median": ("lengths", "output", "p50"),
    "different questions": ("distinct_questions",),
    "different answers": ("distinct_answers",),
}
_CHARTER: Final = ("behaviour", "facts_change", "prompt_tried", "owner", "base_license", "data_license")


def data(experiment: Json) -> Html:
    """Both splits side by side: rows, token lengths, labels, tags; then the findings."""
    known = reading.part(experiment, "data")
    if not known:
        return element("p", "No rows were read in this run.", class_="ft-missing")
    profiled = (name for name in known if "rows" in reading.part(known, name))
    splits = sorted(profiled, key=lambda name: (name != "train", name))
    rows: list[list[Child]] = [["rows", *(_count(reading.part(known, split), "rows") for split in splits)]]
    rows += [
        [f"tokens, {title}", *(_count(reading.part(known, split, "tokens"), key) for split in splits)]
        for key, title in _TOKENS.items()
        if any(reading.part(known, split, "tokens") for split in splits)
    ]
    rows += [
        [title, *(_count(reading.part(known, split, *path[:-1]), path[-1]) for split in splits)]
        for title, path in _PROFILE.items()
        if any(reading.part(known, split, *path[:-1]).get(path[-1]) is not None for split in splits)
    ]
    for kind in ("label", "tag"):
        shares = {split: _shares(reading.part(known, split), f"{kind}s") for split in splits}
        names = {name for share in shares.values() for name in share}
        rows += [
            [f"{kind} {name}", *(_shared(shares[split].get(name, (0, 0.0))) for split in splits)]
            for name in sorted(
                names, key=lambda name: (-sum(s.get(name, (0, 0.0))[0] for s in shares.values()), name)
            )
        ]
    head = ["", *({"train": "training", "eval": "held out"}.get(split, split) for split in splits)]
    return join(
        [table(head, rows, "Profile of the rows"), _overlap(known), _findings(experiment), _waived(known)]
    )


def _overlap(known: Json) -> Html | None:
    """Say how much of the held-out questions training has already seen, word by word."""
    overlap = reading.part(known, "overlap")
    touched, rows = reading.whole(overlap, "touched"), reading.whole(overlap, "held_out_rows")
    words = reading.whole(overlap, "ngram_words")
    if touched is None or rows is None or words is None:
        return None
    said = (
        f"{touched:,} of {rows:,} held-out questions share {words} words in a row with a training question."
    )
    return element("p", said, class_="ft-muted")


def _count(of: Json, key: str) -> str:
    number = reading.whole(of, key)
    return "not counted" if number is None else f"{number:,}"


def _shares(split: Json, kind: str) -> dict[str, tuple[int, float]]:
    """Count each label or tag of a split, and its share of the rows."""
    total, counts = reading.whole(split, "rows") or 0, reading.part(split, kind)
    return {
        str(name): (count, count / total if total else 0.0)
        for name in counts
        if (count := reading.whole(counts, name)) is not None
    }


def _shared(counted_share: tuple[int, float]) -> Html:
    count, share = counted_share
    return join([svg.meter(share), f" {count:,} ({100 * share:.0f}%)"])


def _findings(experiment: Json) -> Html:
    found = reading.findings(experiment)
    if not found:
        return element("p", "The checks of data and charter found nothing.", class_="ft-muted")
    shown: list[list[Child]] = [
        [
            join([_severity(one), " ", place(one) if one.get("file") else None]),
            reading.text(one, "read"),
            reading.text(one, "why"),
            reading.text(one, "fix"),
            element("code", reading.text(one, "rule", "unnamed check")),
        ]
        for one in found[:200]
    ]
    more = (
        element("p", f"and {len(found) - 200} more, all of them in record.json") if len(found) > 200 else None
    )
    return join(
        [table(["where", "read", "why it matters", "fix", "check"], shown, "Findings", "ft-findings"), more]
    )


def _severity(one: Json) -> Html:
    return (
        element("span", "✕ error", class_="ft-bad-text")
        if one.get("severity") == "error"
        else element("span", "! warning", class_="ft-warn-text")
    )


def _waived(known: Json) -> Html | None:
    waived = [
        one if isinstance(one, str) else json.dumps(one, sort_keys=True)
        for one in reading.listed(known, "waived")
    ]
    return element("p", element("strong", "Waived by the contract: "), "; ".join(waived)) if waived else None


def charter(experiment: Json) -> Html:
    """Why the run should exist, in its owner's words."""
    known = reading.part(experiment, "charter")
    order = [*(key for key in _CHARTER if key in known), *sorted(known.keys() - set(_CHARTER))]
    pairs = [
        (key.replace("_", " "), value) for key in order if isinstance(value := known[key], str) and value
    ]
    if not pairs:
        return element("p", "The experiment has no charter.", class_="ft-missing")
    return facts(pairs)


def environment(experiment: Json) -> Html:
    """Packages, Python, operating system and hardware."""
    known, machine = reading.part(experiment, "environment"), reading.part(experiment, "hardware")
    packages = [
        (str(name), str(version)) for name, version in sorted(reading.part(known, "packages").items())
    ]
    processes = [
        f"{reading.text(one, 'name', 'unnamed')} ({size(reading.number(one, 'bytes'))})"
        for one in reading.parts(machine, "processes")
    ]
    if not known and not machine:
        return element("p", "The environment was not recorded.", class_="ft-missing")
    return facts(
        [
            ("Python", reading.text(known, "python") or None),
            ("platform", reading.text(known, "platform") or None),
            ("hardware", reading.text(machine, "name") or None),
            *((name, _bytes(machine, key)) for name, key in _SIZES),
            ("driver", reading.text(machine, "driver") or None),
            ("runtime", reading.text(machine, "runtime") or None),
            ("other processes", ", ".join(processes) or None),
            *packages,
        ]
    )


_SIZES = (
    ("memory", "total_bytes"), ("free memory", "free_bytes"), ("usable after headroom", "usable_bytes"),
    ("free disk", "disk_free_bytes"),
)  # fmt: skip


def _bytes(machine: Json, key: str) -> str | None:
    count = reading.number(machine, key)
    return None if count is None else size(count)


def config(experiment: Json) -> Html:
    """The resolved configuration: first what changed since the last run, then all of it."""
    changed = [
        [key, _literal(old), _literal(new)]
        for key, (old, new) in sorted(_pairs(reading.part(experiment, "key_changed")).items())
    ]
    since = (
        table(["key", "before", "now"], changed, "Changed since the last run of this experiment")
        if changed
        else element(
            "p",
            "No key changed since the last run of this experiment, or it is the first.",
            class_="ft-muted",
        )
    )
    overrides = reading.part(experiment, "overrides")
    rows: list[list[Child]] = [
        [key, element("code", value), "command line" if key in overrides else ""]
        for key, value in flat(reading.part(experiment, "config"))
    ]
    if not rows:
        return join([since, element("p", "The configuration was not recorded.", class_="ft-missing")])
    file = reading.text(experiment, "config_file", "the experiment file")
    caption = f"All keys of {file}, defaults included"
    whole = element("details", element("summary", caption), table(["key", "value", "set by"], rows, caption))
    return join([since, whole])


def _pairs(changed: Json) -> dict[str, tuple[object, object]]:
    return {
        key: (pair[0], pair[1])
        for key, pair in changed.items()
        if isinstance(pair, list | tuple) and len(pair) == 2
    }


def flat(tree: Json, above: str = "") -> Iterator[tuple[str, str]]:
    """Walk a tree of settings in the order of its keys, as (dotted key, JSON value)."""
    for key in sorted(tree):
        name, value = f"{above}{key}", tree[key]
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, _literal(value)


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def lineage(experiment: Json) -> Html:
    """What the adapter was made from: its key, the fields of the key, the digests of the files."""
    key = reading.text(experiment, "key")
    fields: list[list[Child]] = [
        [name, element("code", value)] for name, value in flat(reading.part(experiment, "key_fields"))
    ]
    files: list[list[Child]] = [
        [
            name,
            reading.text(entry, "path", "unknown"),
            element("code", reading.text(entry, "sha256", "unknown")),
        ]
        for name, entry in _files(reading.part(experiment, "checksums"))
    ]
    said = (
        element("p", "Key ", element("code", key))
        if key
        else element("p", "This run has no key.", class_="ft-missing")
    )
    more = element(
        "details",
        element("summary", "fields of the key"),
        table(["field", "value"], fields, "Fields of the key"),
    )
    return join(
        [
            said,
            table(["file", "path", "sha256"], files, "Files that were read") if files else None,
            more if fields else None,
        ]
    )


def _files(checksums: Json) -> Iterator[tuple[str, Json]]:
    for name in sorted(checksums):
        entry = reading.part(checksums, name)
        if "path" in entry or "sha256" in entry:
            yield name, entry
        elif name == "suites":
            yield from ((f"suite {suite}", reading.part(entry, suite)) for suite in sorted(entry))


def failures(experiment: Json, record: Json) -> Html | None:
    """What the failed tests of an experiment said, in full up to a page of text; None where none failed."""
    failed = reading.failed_tests(record, experiment)
    failed = [test for test in failed if not reading.text(test, "message").startswith(BLOCKED)] or failed
    shown = [
        join(
            [
                element(
                    "h4",
                    badge(reading.text(test, "outcome")),
                    " ",
                    reading.text(test, "nodeid", "unnamed test"),
                ),
                element(
                    "pre",
                    reading.text(test, "message", "No message.")[:4000],
                    class_="ft-failure",
                    tabindex="0",
                ),
            ]
        )
        for test in failed[:5]
    ]
    return (
        element("section", element("h3", "What stopped the run"), *shown, class_="ft-section")
        if shown
        else None
    )


def tests(record: Json) -> Html:
    """Every test of the session with its stage and outcome; the first line of what a failed one said."""
    rows: list[list[Child]] = [
        [
            element("code", reading.text(test, "nodeid", "unnamed test")),
            reading.text(test, "stage", "–"),
            badge(reading.text(test, "outcome", "not recorded")),
            duration(reading.number(test, "seconds")),
            (reading.text(test, "message").strip().splitlines() or [""])[0][:300],
        ]
        for test in reading.parts(record, "tests")
    ]
    if not rows:
        return element("p", "No test was recorded.", class_="ft-missing")
    caption = f"{counted(len(rows), 'test')} of this session"
    grid = table(["test", "stage", "outcome", "time", "message"], rows, caption)
    return element("details", element("summary", caption), grid)


def repeat(experiment: Json, record: Json) -> Html:
    """The commands that repeat the run: packages, data, the session itself."""
    packages = reading.part(experiment, "environment", "packages")
    pins = " ".join(f"{name}=={version}" for name, version in sorted(packages.items()))
    sums = [
        f"{reading.text(entry, 'sha256')}  {reading.text(entry, 'path')}"
        for _, entry in _files(reading.part(experiment, "checksums"))
        if entry.get("sha256") and entry.get("path")
    ]
    steps = [f"python -m pip install {pins}"] if pins else []
    if sums:
        steps.append("\n".join(["sha256sum --check <<'END'", *sums, "END"]))
    steps.append(reading.text(record, "command", "pytest --finetune"))
    return element("pre", "\n".join(steps), class_="ft-commands", tabindex="0")
