"""What differs between two runs of one experiment: settings, files, packages."""

from __future__ import annotations

from pytest_finetune.fingerprint import flat
from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedExperiment


def outline(one: RecordedExperiment) -> dict[str, object]:
    """Return what two runs are compared by, as dotted names: the configuration, file digests, package versions."""
    files = flat(one.checksums, "checksums.")
    return {
        **flat(one.config.raw),
        **{name: value for name, value in files.items() if name.endswith(".sha256")},
        **flat(one.environment.packages, "packages."),
    }


def between(before: Json, now: Json) -> dict[str, list[object]]:
    """Return, by dotted name, what was there before and what is there now; None where a name was not known."""
    names = sorted({*before, *now})
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}
