"""Another trainer: a few lines in a conftest.py go through the whole session, and what they bring is verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

TRAINER = '''
import torch
from safetensors.torch import save_file
from pytest_finetune.training.request import Progress

def pytest_finetune_train(request):
    """Draw an adapter from the seed: a stand-in for a training loop of one's own."""
    torch.manual_seed(request.seed)
    rank, steps = request.experiment.lora.r, len(request.pairs) // 8
    log = []
    for step in range(1, steps + 1):
        log.append({"step": step, "epoch": step / steps, "loss": 2.0 / step})
        request.progress(Progress(step, steps, 2.0 / step, 0.1 * step, 0.1 * (steps - step), 100.0, step / steps))
    weights = {f"base_model.model.q.lora_{side}.weight": torch.randn(rank, rank) for side in "AB"}
    save_file(weights, request.folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": request.base}
    (request.folder / "adapter_config.json").write_text(json.dumps(config))
    return TrainingResult(folder=request.folder, steps=steps, seconds=1.0, final_loss=2.0 / steps, log=tuple(log))
'''


def with_trainer(project: Project, trainer: str) -> None:
    """Put a trainer in place of the project's own."""
    text = (project.path / "conftest.py").read_text()
    start, end = text.index("def pytest_finetune_train"), text.index("class TableRuntime")
    project.write({"conftest.py": text[:start] + trainer + "\n" + text[end:]})


def test_a_trainer_of_under_thirty_lines_goes_through_the_whole_session(project: Project) -> None:
    assert len(TRAINER.strip().splitlines()) < 30
    with_trainer(project, TRAINER)
    result = project.run("--finetune")
    assert result.ret == 0
    experiment = project.experiment()
    assert experiment["decision"]["verdict"] == "keep"
    assert experiment["training"]["steps"] == 5
    assert experiment["training"]["delta_nonzero"] is True
    assert experiment["key_fields"]["trainer"].startswith("conftest:")


RETURN = "    return TrainingResult(folder=request.folder, steps=1, seconds=1.0, final_loss={loss}, log=())"
PICKLE = '    (request.folder / "adapter_model.bin").write_bytes(b"pickle")\n'
WEIGHTS = """\
    import numpy, safetensors.numpy
    weights = {f"x.lora_{side}.weight": numpy.full((1, 1), VALUE, "float32") for side in "AB"}
    safetensors.numpy.save_file(weights, FOLDER / "adapter_model.safetensors")
    (FOLDER / "adapter_config.json").write_text(CONFIG)
"""


def weights(value: str = "1.0", config: str = "'{}'", folder: str = "request.folder") -> str:
    """Return lines that write an adapter."""
    return WEIGHTS.replace("VALUE", value).replace("CONFIG", config).replace("FOLDER", folder)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            PICKLE + RETURN.format(loss=0.5),
            "adapter_model.bin is a pickle, which can run code when it is loaded",
        ),
        (
            RETURN.format(loss=0.5),
            "the trainer left no adapter_model.safetensors for peft_method: lora (found: nothing)",
        ),
        ("    return 'done'", "pytest_finetune_train returned 'done' (str), not a TrainingResult"),
        (weights() + RETURN.format(loss="float('nan')"), "the trainer reports a loss of nan"),
        (
            weights(value="numpy.nan") + RETURN.format(loss=0.5),
            "holds numbers that are not finite, in x.lora_A.weight",
        ),
        (weights() + PICKLE + RETURN.format(loss=0.5), "adapter_model.bin does not belong in an adapter"),
        (
            weights(config="""'{"auto_mapping": {"parent_library": "os"}}'""") + RETURN.format(loss=0.5),
            "adapter_config.json makes a library import code (auto_mapping)",
        ),
    ],
)
def test_what_a_trainer_brings_is_verified_like_ours(project: Project, body: str, said: str) -> None:
    with_trainer(project, f"def pytest_finetune_train(request):\n{body}\n")
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])
    assert not list((project.path / ".finetune" / "adapters").glob("*"))
    assert "answer tuned" not in project.calls()


def test_an_adapter_in_a_folder_of_the_trainers_own_is_fetched_from_there(project: Project) -> None:
    own = 'Path(__file__).parent / "mine"'
    body = f"    folder = {own}\n    folder.mkdir(exist_ok=True)\n" + weights(folder="folder")
    body += RETURN.format(loss=0.5).replace("folder=request.folder", "folder=folder")
    with_trainer(project, f"def pytest_finetune_train(request):\n{body}\n")
    assert project.run("--finetune").ret == 0
    assert (project.path / "mine" / "adapter_model.safetensors").is_file()
