"""What an auditor checks: charter, environment, configuration, lineage, tests, how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pytest_finetune.fingerprint import flat
from pytest_finetune.record.headline import BLOCKED
from pytest_finetune.record.lenient import Pair
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.recipes import ONE_SEED, seed_count
from pytest_finetune.record.views.page.html import Child, Html, element, facts, folded, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.wording import counted, duration, size

_CHARTER: Final = ("behaviour", "facts_change", "prompt_tried", "owner", "base_license", "data_license")


def charter(experiment: RecordedExperiment) -> Html:
    """Why the run should exist, in its owner's words."""
    known = experiment.charter.raw
    order = [*(key for key in _CHARTER if key in known), *sorted(known.keys() - set(_CHARTER))]
    pairs = [(key.replace("_", " "), said) for key in order if isinstance(said := known[key], str) and said]
    return facts(pairs) if pairs else paragraph("missing", "The experiment has no charter.")


def environment(experiment: RecordedExperiment) -> Html:
    """Packages, Python, operating system and hardware."""
    known, machine = experiment.environment, experiment.hardware
    if not known and not machine:
        return paragraph("missing", "The environment was not recorded.")
    processes = [f"{one.name or 'unnamed'} ({size(one.bytes)})" for one in machine.processes]
    sizes = {
        "memory": machine.total_bytes,
        "free memory": machine.free_bytes,
        "usable after headroom": machine.usable_bytes,
        "free disk": machine.disk_free_bytes,
    }
    packages = [
        element("li", name, " ", element("span", str(version), class_="ft-muted"))
        for name, version in sorted(known.packages.items())
    ]
    return facts(
        [
            ("hardware", machine.name),
            ("leased", machine.lease.get("uuid")),
            *((name, None if count is None else size(count)) for name, count in sizes.items()),
            ("driver", machine.driver),
            ("runtime", machine.runtime),
            ("other processes", ", ".join(processes)),
            ("Python", known.python),
            ("platform", known.platform),
            ("packages", element("ul", *packages, class_="ft-keys") if packages else None),
        ]
    )


def config(experiment: RecordedExperiment) -> Html:
    """The resolved configuration: first what changed since the last run, then all of it."""
    overrides = experiment.overrides
    changed = {**experiment.key_changed, **experiment.changes.fields}

    def set_by(key: str) -> str:
        said = ["from the command line"] * (key in overrides) + ["changed since the last run"] * (
            key in changed
        )
        return ", ".join(said)

    settings = sorted(flat(experiment.config.raw).items())
    rows: list[list[Child]] = [[key, _code(value), set_by(key)] for key, value in settings]
    since = _since(experiment, changed)
    if not rows:
        return join([since, paragraph("missing", "The configuration was not recorded.")])
    caption = f"All keys of {experiment.config_file or 'the experiment file'}, defaults included"
    whole = folded(caption, table(["key", "value", "note"], rows, caption))
    return join([_remote_code(experiment), since, whole])


def _since(experiment: RecordedExperiment, changed: Mapping[str, Pair]) -> Html:
    """Only the differences: the first question about a run that came out otherwise than the one before."""
    last = experiment.changes.created.replace("T", " ")
    if not changed:
        said = f"Nothing changed since the last run ({last})." if last else "No earlier run is known."
        return paragraph("muted", said)
    caption = "Changed since the last run" + (f" ({last})" if last else "")
    head = ["key", "before", "now", "in the adapter's key"]
    shown = changed_table(
        head, changed, caption, lambda name: "yes" if name in experiment.key_changed else ""
    )
    alone = bool(experiment.key_changed) and seed_count(experiment) == 1
    note = f"Whether a change of these moved the rates is not known: {ONE_SEED} (training.seeds)."
    return join([shown, paragraph("muted", note) if alone else None])


def changed_table(
    head: Sequence[Child], pairs: Mapping[str, Pair], caption: str, note: Callable[[str], Child] | None = None
) -> Html:
    """Lay out both values of each name; `note` gives a last column."""
    rows: list[list[Child]] = [
        [name, *map(_code, pair), *([note(name)] if note else [])] for name, pair in sorted(pairs.items())
    ]
    return table(head, rows, caption)


def _remote_code(experiment: RecordedExperiment) -> Html | None:
    """Say it in words and in red: code that came with a model ran in this process."""
    if not experiment.config.trust_remote_code:
        return None
    said = "trust_remote_code is on: Python code that came with the base model ran in this session."
    return paragraph("alert ft-alert-bad", element("strong", "✕ "), said)


def _code(value: object) -> Html:
    """Show a setting as JSON."""
    return element("code", json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def lineage(experiment: RecordedExperiment) -> Html:
    """What the adapter was made from: its key, the fields of the key, the digests of the files."""
    key, fields = experiment.key, sorted(flat(experiment.key_fields).items())
    files: list[list[Child]] = [
        [file.name, file.path or "unknown", element("code", file.sha256 or "unknown")]
        for file in experiment.files.values()
    ]
    what = " is the digest of everything below: the same key is the same training, and its adapter is reused."
    said = (
        element("p", "Key ", element("code", key), what)
        if key
        else paragraph("missing", "This run has no key.")
    )
    rows: list[list[Child]] = [[name, _code(value)] for name, value in fields]
    return join(
        [
            said,
            table(["file", "path", "sha256"], files, "Files that were read") if files else None,
            folded("fields of the key", table(["field", "value"], rows, "Fields of the key"))
            if rows
            else None,
        ]
    )


def failures(experiment: RecordedExperiment, run: RecordedRun) -> Html | None:
    """What the failed tests of an experiment said, in full up to a page of text; None where none failed."""
    failed = run.failed_tests(experiment)
    failed = [test for test in failed if not test.message.startswith(BLOCKED)] or failed
    shown = [
        part
        for test in failed[:5]
        for part in (
            element("h4", badge(test.outcome), " ", test.nodeid or "unnamed test"),
            element("pre", (test.message or "No message.")[:4000], class_="ft-failure", tabindex="0"),
        )
    ]
    title = element("h3", "What stopped the run")
    return element("section", title, *shown, class_="ft-section") if shown else None


def tests(run: RecordedRun) -> Html:
    """Every test of the session with its stage and outcome; the first line of what a failed one said."""
    rows: list[list[Child]] = [
        [
            element("code", test.nodeid or "unnamed test"),
            test.stage or "–",
            badge(test.outcome or "not recorded"),
            duration(test.seconds),
            (test.message.strip().splitlines() or [""])[0][:300],
        ]
        for test in run.tests
    ]
    if not rows:
        return paragraph("missing", "No test was recorded.")
    caption = f"{counted(len(rows), 'test')} of this session"
    return folded(caption, table(["test", "stage", "outcome", "time", "message"], rows, caption))


def repeat(experiment: RecordedExperiment, run: RecordedRun) -> Html:
    """The commands that repeat the run: packages, data, the session itself."""
    packages = sorted(experiment.environment.packages.items())
    pins = " \\\n".join(f"  {name}=={version}" for name, version in packages)
    files = [file for file in experiment.files.values() if file.sha256 and file.path and not file.data_set]
    sums = [f"{file.sha256}  {file.path}" for file in files]
    steps = [f"python -m pip install \\\n{pins}"] if pins else []
    if sums:
        steps.append("\n".join(["sha256sum --check <<'END'", *sums, "END"]))
    steps.append(run.command or "pytest --finetune")
    return element("pre", "\n".join(steps), class_="ft-commands", tabindex="0")
