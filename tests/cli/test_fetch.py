"""What is fetched, and what each refusal of the hub comes to; the hub itself is a stand-in."""

from __future__ import annotations

import errno
import json
import os
import re
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


def test_a_full_disk_of_the_cache_is_named_with_what_is_free(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(name: str, **settings: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "hub" / "blob"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    ran = world.run("fetch", "--set", "base_model=org/base")
    assert ran.code == 2
    assert re.search(
        r"the disk of the hub's cache is full \([\d.]+ .iB are free on that of .*hub\): make", ran.err
    )


def test_the_data_sets_of_the_hub_are_fetched_and_a_refusal_is_one_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "acme___mails" / "default" / "0.0.0" / ("c" * 40)

    def load(name: str, config: str | None, revision: str | None) -> None:
        folder.mkdir(parents=True)
        (folder / "mails-train.arrow").write_bytes(b"")
        info = {"config_name": "default", "splits": {"train": {}}}
        (folder / "dataset_info.json").write_text(json.dumps(info))

    monkeypatch.setattr(datasets, "load_dataset", load)
    named = "hf://datasets/acme/mails/train"
    doctor = world.run("doctor", "--set", f"paths.train_file={named}")
    assert f"{named} is not here: pytest-finetune fetch" in doctor.out
    ran = world.run("fetch", "--set", f"paths.train_file={named}", "--json")
    assert (ran.code, ran.tree["data_sets"]) == (0, {named: str(folder)})
    ran = world.run("fetch", "--set", f"paths.train_file={named}")
    assert ran.code == 2
    assert f"{named} could not be fetched: " in ran.err
