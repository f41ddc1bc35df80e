from __future__ import annotations

from pathlib import Path

import pytest

from pytest_finetune.experiment import Experiment, load_experiment
from pytest_finetune.fingerprint import BaseModelError, base_folder, cached_snapshot

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with two commits of org/model; `main` is the newer."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    repository = tmp_path / "hf" / "hub" / "models--org--model"
    for commit in (COMMIT, OLDER):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(OLDER)
    return repository


def experiment(root: Path, base: str, revision: str = "") -> Experiment:
    (root / "finetune.yaml").write_text(
        f"base_model: {base}\n{revision}peft_method: lora\nlora: {{}}\ntraining: {{}}\n"
        "paths: {train_file: t.jsonl, eval_file: e.jsonl}\n"
    )
    for name in ("t.jsonl", "e.jsonl"):
        (root / name).write_text("")
    return load_experiment(root, "finetune.yaml")


def test_a_hub_id_is_the_snapshot_that_main_points_to(hub: Path) -> None:
    assert cached_snapshot("org/model") == hub / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_a_revision_is_a_tag_or_a_commit(hub: Path, revision: str) -> None:
    assert cached_snapshot("org/model", revision) == hub / "snapshots" / OLDER


@pytest.mark.parametrize("revision", ["v2", "c" * 40, "../main", "refs/../../snapshots"])
def test_a_revision_that_is_not_cached_is_none(hub: Path, revision: str) -> None:
    assert cached_snapshot("org/model", revision) is None


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", "."), ("HUGGINGFACE_HUB_CACHE", "."), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_cache_is_where_huggingface_hub_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / below / "models--gpt2" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    found = cached_snapshot("gpt2", COMMIT)
    assert found is not None
    assert found.samefile(snapshot)


def test_an_experiment_finds_its_base_in_the_project_or_in_the_cache(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert base_folder(experiment(tmp_path, "models/tiny")) == tmp_path / "models" / "tiny"
    assert base_folder(experiment(tmp_path, "org/model")) == hub / "snapshots" / COMMIT


def test_a_base_that_is_not_here_says_how_to_fetch_it(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="Fetch it once: hf download org/other --revision v9"):
        base_folder(experiment(tmp_path, "org/other", "revision: v9\n"))
