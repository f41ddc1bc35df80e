"""The pages of the reference are what the code says today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields

import pytest

from docs.reference import EXIT_CODES, FOLDER, pages, type_of
from pytest_finetune.experiment import records
from pytest_finetune.experiment.runtimes import ServerSettings


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_of_the_reference_is_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == pages()[name], "write the pages again: python -m docs.reference"


def test_every_exit_code_of_pytest_is_explained() -> None:
    assert set(map(int, pytest.ExitCode)) <= set(EXIT_CODES)


@pytest.mark.parametrize(
    ("section", "record"),
    [
        ("lora", records.Lora),
        ("training", records.Training),
        ("prompt", records.Prompt),
        ("generation", records.Generation),
        ("paths", records.Paths),
        ("decision", records.DecisionDefaults),
        ("charter", records.CharterText),
    ],
)
def test_the_defaults_that_the_reference_shows_are_those_of_the_code(section: str, record: type) -> None:
    assert shown_defaults(records.schema()["properties"][section]) == defaults(record)


def test_so_are_those_of_a_server_and_of_an_arm() -> None:
    properties = records.schema()["properties"]
    server = shown_defaults(properties["runtimes"]["items"]["properties"]["openai"])
    assert server.items() <= defaults(ServerSettings).items()
    arm = shown_defaults(properties["arms"]["additionalProperties"])
    assert arm.items() <= defaults(records.OutsideArm).items()


def defaults(record: type) -> dict[str, object]:
    """Return what a field has when nothing is written, as JSON would hold it; fields without a default are absent."""
    found = {}
    for each in fields(record):
        made = each.default_factory() if each.default_factory is not MISSING else each.default
        if made is not MISSING:
            found[each.name] = {} if made == records.Launcher() else list(made) if made == () else made
    return found


def shown_defaults(holder: Mapping[str, object]) -> dict[str, object]:
    properties = holder["properties"]
    assert isinstance(properties, dict)
    return {key: rule["default"] for key, rule in properties.items() if "default" in rule}


def test_a_type_is_told_in_words() -> None:
    assert type_of({"type": "number", "exclusiveMinimum": 0, "maximum": 1}) == "number, above 0 and at most 1"
    assert type_of({"anyOf": [{"type": "string"}, {"type": "array"}]}) == "text; or list"
