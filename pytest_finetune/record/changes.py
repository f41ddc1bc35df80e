"""What differs between two runs of one experiment: settings, files, packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json


def outline(experiment: Json) -> dict[str, Any]:
    """Return what two runs are compared by, as dotted names: the configuration, file digests, package versions."""
    files = reading.part(experiment, "checksums")
    packages = reading.part(experiment, "environment", "packages")
    return {
        **flat(reading.part(experiment, "config")),
        **{name: value for name, value in flat(files, "checksums.").items() if name.endswith(".sha256")},
        **flat(packages, "packages."),
    }


def between(before: Json, now: Json) -> dict[str, list[Any]]:
    """Return, by dotted name, what was there before and what is there now; None where a name was not known."""
    names = sorted({*before, *now})
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def flat(tree: Json, above: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name; lists and empty mappings are leaves."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
