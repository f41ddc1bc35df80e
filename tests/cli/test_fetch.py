"""What is fetched, and what each refusal of the hub comes to; the hub itself is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

if TYPE_CHECKING:
    from .conftest import World


def test_a_base_in_the_project_needs_no_fetching(world: World) -> None:
    ran = world.run("fetch")
    assert (ran.code, ran.out.strip()) == (0, "model is a folder of the project: nothing to fetch")


def test_weights_settings_and_tokenizer_are_asked_for_but_no_pickle_and_no_code(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        (tmp_path / "snapshot" / "model.safetensors").write_bytes(bytes(2048))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    ran = world.run("fetch", "--set", "base_model=org/base", "--set", "revision=abc")
    assert (ran.code, asked["name"], asked["revision"]) == (0, "org/base", "abc")
    assert ran.out.startswith("org/base: 2")
    assert "*.safetensors" in asked["allow_patterns"]
    assert "*.bin" in asked["ignore_patterns"]
    assert "*.py" not in asked["allow_patterns"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GatedRepoError, "asks for its licence to be accepted"),
        (RepositoryNotFoundError, "there is no model 'org/base' that this token can see"),
        (LocalEntryNotFoundError, "could not be fetched"),
        (OSError, "could not be fetched"),
    ],
)
def test_a_refusal_is_one_sentence(
    error: type[Exception], told: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:

    def download(name: str, **settings: Any) -> str:
        raise error.__new__(error)  # how each is built is the library's own

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    ran = world.run("fetch", "--set", "base_model=org/base")
    assert ran.code == 2
    assert told in ran.err
    assert "Traceback" not in ran.err
