from __future__ import annotations

import json
import webbrowser
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import World

EXPERIMENT = {
    "name": "finetune",
    "task": "priority",
    "base_model": "model",
    "peft_method": "lora",
    "decision": {"verdict": "discard", "reasons": ["the adapter lost 4 rows of 40"]},
}


@pytest.fixture
def recorded(world: World) -> World:
    world.write(
        "finetune-record/record.json",
        json.dumps({"command": "pytest --finetune", "experiments": [EXPERIMENT]}),
    )
    return world


def test_the_last_record_is_summed_up_as_the_session_did(recorded: World) -> None:
    ran = recorded.run("show")
    assert ran.code == 0
    assert "DISCARD" in ran.out
    assert ran.out.rstrip().endswith("finetune-record/report.html")
    assert recorded.run("show", "--json").tree["experiments"] == [EXPERIMENT]
    narrowed = {"created": "2030-01-01", "notes": ["narrowed run: -k x"], "experiments": [EXPERIMENT]}
    recorded.write("finetune-record/partial/record.json", json.dumps(narrowed))
    assert recorded.run("show").out.endswith(
        "a later run was not whole (it was narrowed): pytest-finetune show finetune-record/partial\n"
    )


def test_the_page_is_opened_when_it_is_there(recorded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    assert "has no page" in recorded.run("show", "--open").err
    (recorded.root / "finetune-record" / "report.html").write_text("<p>page</p>")
    assert recorded.run("show", "--open").code == 0
    assert opened == [(recorded.root / "finetune-record" / "report.html").resolve().as_uri()]


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_without_a_readable_record_one_sentence_says_so(world: World, text: str | None) -> None:
    if text is not None:
        world.write("finetune-record/record.json", text)
    ran = world.run("show")
    assert ran.code == 2
    assert "record" in ran.err
