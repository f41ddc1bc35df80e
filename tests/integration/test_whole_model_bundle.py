"""The bundle of a model that was trained in full: a real tiny model, promoted, loaded by plain transformers, verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.training.conftest import build_base

from .bundles import FIT, mend, new_project, promote
from .test_training_facts import with_full_fine_tuning

if TYPE_CHECKING:
    from .conftest import Project

# Nudge the base, so that what is kept is a real model which is not the base.
TRAINER = """\
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(request.base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    model.save_pretrained(request.folder)
    AutoTokenizer.from_pretrained(request.base).save_pretrained(request.folder)
"""

Verify = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; tests that change it copy it first."""
    project = new_project(tmp_path_factory.mktemp("whole"))
    with_full_fine_tuning(project)
    text = (project.path / "conftest.py").read_text()
    start, end = text.index("    header = {"), text.index("    log = (")
    project.write({"conftest.py": text[:start] + TRAINER + text[end:]})
    for file in (project.path / "base").iterdir():
        file.unlink()
    build_base(project.path / "base")
    return promote(project)


@pytest.fixture
def bundle(promoted: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(promoted, tmp_path / "bundle"))


def test_plain_transformers_loads_it_with_its_own_tokenizer(promoted: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (
        kind.from_pretrained(promoted, local_files_only=True)
        for kind in (AutoTokenizer, AutoModelForCausalLM)
    )
    base = AutoModelForCausalLM.from_pretrained(promoted.parents[1] / "base")
    for (name, weight), before in zip(model.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(weight, before + 0.01), name
    asked = tokenizer("Instruction: add", return_tensors="pt")
    assert model.generate(**asked, max_new_tokens=2, do_sample=False).shape[1] > asked["input_ids"].shape[1]


def test_it_says_what_it_is(promoted: Path) -> None:
    names = {path.name for path in promoted.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "record.json"} <= names
    assert "adapter_config.json" not in names
    card = (promoted / "README.md").read_text()
    assert "library_name: transformers" in card
    assert 'model = AutoModelForCausalLM.from_pretrained(".")  # this folder' in card
    assert "- method full\n" in card
    subjects = json.loads((promoted / "promotion.intoto.json").read_bytes())["subject"]
    assert [subject["name"] for subject in subjects] == ["adapter", "config.json", "model.safetensors"]


def test_it_verifies_as_a_model(promoted: Path, verify: Verify) -> None:
    code, said = verify(promoted)
    assert code == 0, said
    assert "trained in full from base" in said
    assert "that the model gives these answers" in said


def flip_a_bit(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)


def import_code(bundle: Path) -> None:
    file = bundle / "config.json"
    config = json.loads(file.read_bytes())
    file.write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))


def remove_configuration(bundle: Path) -> None:
    (bundle / "config.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_bit, "is not that of the adapter in the bundle"),
        (import_code, "config.json makes a library import code (auto_map)"),
        (remove_configuration, "config.json: is missing: full keeps one"),
    ],
)
def test_what_is_changed_is_found_although_every_digest_was_mended(
    bundle: Path, verify: Verify, change: Callable[[Path], None], said: str
) -> None:
    change(bundle)
    mend(bundle)
    code, found = verify(bundle)
    assert code == 1
    assert said in found


def test_the_champion_of_an_adapter_may_be_a_model_that_was_trained_in_full(
    project: Project, promoted: Path
) -> None:
    import shutil

    shutil.copytree(promoted, project.path / "champion")
    for file in (project.path / "base").iterdir():
        file.unlink()
    shutil.copytree(promoted.parents[1] / "base", project.path / "base", dirs_exist_ok=True)
    experiment = (project.path / "finetune.yaml").read_text()
    project.write(
        {"finetune.yaml": experiment + "arms: {champion: {bundle: champion}}\n", "test_fit.py": FIT}
    )
    result = project.run("--finetune")
    arms: dict[str, Any] = project.experiment()["arms"]
    digest = json.loads((promoted / "MANIFEST.json").read_bytes())["adapter_sha256"]
    assert digest in json.dumps(arms["champion"]), result.stdout.str()
