"""What an auditor checks: charter, environment, configuration, lineage, tests, how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import BLOCKED
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join, table
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.wording import counted, duration, size

Pair = tuple[object, object]

_CHARTER: Final = ("behaviour", "facts_change", "prompt_tried", "owner", "base_license", "data_license")


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
    processes = [
        f"{reading.text(one, 'name', 'unnamed')} ({size(reading.number(one, 'bytes'))})"
        for one in reading.parts(machine, "processes")
    ]
    if not known and not machine:
        return element("p", "The environment was not recorded.", class_="ft-missing")
    return facts(
        [
            ("hardware", reading.text(machine, "name") or None),
            ("leased", reading.text(reading.part(machine, "lease"), "uuid") or None),
            *((name, _bytes(machine, key)) for name, key in _SIZES),
            ("driver", reading.text(machine, "driver") or None),
            ("runtime", reading.text(machine, "runtime") or None),
            ("other processes", ", ".join(processes) or None),
            ("Python", reading.text(known, "python") or None),
            ("platform", reading.text(known, "platform") or None),
            ("packages", _packages(reading.part(known, "packages"))),
        ]
    )


def _packages(packages: Json) -> Html | None:
    each = [
        element("li", str(name), " ", element("span", str(packages[name]), class_="ft-muted"))
        for name in sorted(packages)
    ]
    return element("ul", *each, class_="ft-keys") if each else None


_SIZES = (
    ("memory", "total_bytes"), ("free memory", "free_bytes"), ("usable after headroom", "usable_bytes"),
    ("free disk", "disk_free_bytes"),
)  # fmt: skip


def _bytes(machine: Json, key: str) -> str | None:
    count = reading.number(machine, key)
    return None if count is None else size(count)


def config(experiment: Json) -> Html:
    """The resolved configuration: first what changed since the last run, then all of it."""
    changed, overrides = _changed(experiment), reading.part(experiment, "overrides")
    rows: list[list[Child]] = [
        [key, element("code", value), _set_by(key, overrides, changed)]
        for key, value in flat(reading.part(experiment, "config"))
    ]
    since = _since(experiment, changed)
    if not rows:
        return join([since, element("p", "The configuration was not recorded.", class_="ft-missing")])
    file = reading.text(experiment, "config_file", "the experiment file")
    caption = f"All keys of {file}, defaults included"
    whole = element("details", element("summary", caption), table(["key", "value", "note"], rows, caption))
    return join([_remote_code(experiment), since, whole])


def _set_by(key: str, overrides: Json, changed: Mapping[str, Pair]) -> str:
    said = ["from the command line"] * (key in overrides) + ["changed since the last run"] * (key in changed)
    return ", ".join(said)


def _changed(experiment: Json) -> dict[str, Pair]:
    """What differs from the last run: in configuration, files, packages and the fields of the key."""
    since = reading.part(experiment, "changes", "fields")
    return {**_pairs(reading.part(experiment, "key_changed")), **_pairs(since)}


def _since(experiment: Json, changed: Mapping[str, Pair]) -> Html:
    """Only the differences: the first question about a run that came out otherwise than the one before."""
    key, changes = reading.part(experiment, "key_changed"), reading.part(experiment, "changes")
    last = reading.text(changes, "created").replace("T", " ")
    if not changed:
        said = f"Nothing changed since the last run ({last})." if last else "No earlier run is known."
        return element("p", said, class_="ft-muted")
    rows: list[list[Child]] = [
        [name, element("code", literal(old)), element("code", literal(new)), "yes" if name in key else ""]
        for name, (old, new) in sorted(changed.items())
    ]
    caption = "Changed since the last run" + (f" ({last})" if last else "")
    return table(["key", "before", "now", "in the adapter's key"], rows, caption)


def _remote_code(experiment: Json) -> Html | None:
    """Say it in words and in red: code that came with a model ran in this process."""
    if not reading.part(experiment, "config").get("trust_remote_code"):
        return None
    said = "trust_remote_code is on: Python code that came with the base model ran in this session."
    return element("p", element("strong", "✕ "), said, class_="ft-alert ft-alert-bad")


def _pairs(changed: Json) -> dict[str, Pair]:
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
            yield name, literal(value)


def literal(value: object) -> str:
    """Word a setting as JSON."""
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
    pins = " \\\n".join(f"  {name}=={version}" for name, version in sorted(packages.items()))
    sums = [
        f"{reading.text(entry, 'sha256')}  {reading.text(entry, 'path')}"
        for _, entry in _files(reading.part(experiment, "checksums"))
        if entry.get("sha256") and entry.get("path")
    ]
    steps = [f"python -m pip install \\\n{pins}"] if pins else []
    if sums:
        steps.append("\n".join(["sha256sum --check <<'END'", *sums, "END"]))
    steps.append(reading.text(record, "command", "pytest --finetune"))
    return element("pre", "\n".join(steps), class_="ft-commands", tabindex="0")
