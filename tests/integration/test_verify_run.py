"""`verify --run`: a real adapter on a real base gives its recorded answers again, and one that was made up is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_finetune.answering.answers import read_answers
from pytest_finetune.fingerprint import digest

from .bundles import doctor, new_project, promote

pytest.importorskip("torch")

Verify = Callable[..., tuple[int, str]]
ROWS = 24
BASE = Path(__file__).parents[2] / "example_project" / "models" / "ticket-lm"

# The answers that the tuned model gives are the expected ones: it wins, and nothing about its quality is claimed.
RULES = """\
import hashlib
import pytest

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_label(response, example):
    digest = hashlib.sha256(response.text.encode("utf-8", "replace")).hexdigest()
    assert example.expected in (digest, response.text)
"""

CONFTEST = """\
import shutil
from pathlib import Path
from pytest_finetune.training.request import TrainingResult

def pytest_finetune_train(request):
    for file in (Path(__file__).parent / "ready").iterdir():
        shutil.copy(file, request.folder)
    return TrainingResult(folder=request.folder, steps=2, seconds=0.1, final_loss=0.5, log=(), peak_bytes=None,
                          trainable=2, parameters=100, tokens={"p50": 5, "p95": 9, "max": 10, "truncated": 0})
"""


class Made(NamedTuple):
    bundle: Path
    base: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle away from its project, and the base that its adapter belongs to."""
    project = new_project(tmp_path_factory.mktemp("project"))
    root = project.path
    shutil.rmtree(root / "base")
    shutil.copytree(BASE, root / "base")
    build_adapter(root / "base", root / "ready")
    rows = [
        {"id": f"e{n}", "instruction": "say", "input": f"{n} {'ink ' * (n % 5)}paper {n * n}"}
        for n in range(ROWS)
    ]
    for row, answer in zip(rows, tuned_answers(root, rows), strict=True):
        row["expected"] = hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()
    experiment = (
        (root / "finetune.yaml").read_text().replace("max_new_tokens: 8", "max_new_tokens: 8, batch_size: 4")
    )
    project.write(
        {
            "conftest.py": CONFTEST,
            "test_rules.py": RULES,
            "eval.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "finetune.yaml": experiment + "drift: false\n",
        }
    )
    bundle = tmp_path_factory.mktemp("away") / "bundle"
    shutil.move(promote(project), bundle)
    base = tmp_path_factory.mktemp("elsewhere") / "the-base"
    shutil.move(root / "base", base)
    shutil.rmtree(root)
    return Made(bundle, base)


def build_adapter(base: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    (folder / "README.md").unlink()


def tuned_answers(root: Path, rows: list[dict[str, Any]]) -> list[str]:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
    from pytest_finetune.experiment import Generation

    prompts = [Prompted(row["id"], 1, f"{row['input']} ->") for row in rows]
    runtime = TransformersRuntime(str(root / "base"))
    answers = runtime.answer(prompts, Generation(max_new_tokens=8, batch_size=4), root / "ready")
    return [answer.response for answer in answers]


def test_answers_are_given_again_and_the_last_line_says_how_many(made: Made, verify: Verify) -> None:
    code, said = verify(made.bundle, "--run", "--base", made.base)
    assert code == 0, said
    lines = said.splitlines()
    assert f"  run        5 of 5 answers as recorded, given again by the adapter on {made.base}" in lines
    assert lines[-1] == (
        "this proves that these are the promoted files, and KEEP follows from the outcomes in their record, the adapter "
        f"gives 5 of its {ROWS} answers again; it does not prove that the outcomes follow from the answers, that it gives "
        f"the other {ROWS - 5}, who made it"
    )
    code, said = verify(made.bundle, "--run=1000", "--base", made.base)
    assert (
        f"the adapter gives {ROWS} of its {ROWS} answers again; it does not prove that the outcomes" in said
    )
    assert "the other" not in said


def test_an_answer_that_was_made_up_is_named_with_what_the_adapter_says(
    made: Made, tmp_path: Path, verify: Verify
) -> None:
    bundle = Path(shutil.copytree(made.bundle, tmp_path / "bundle"))
    outputs = bundle / "outputs" / "tuned.jsonl"
    answers = [json.loads(line) for line in outputs.read_text().splitlines()]
    at = 3 * ROWS // 10  # the second of five that are spread over the file
    truth, answers[at]["response"] = answers[at]["response"], "made up"

    def change(record: dict[str, Any]) -> None:
        outputs.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        told = [[answer.id, answer.response] for answer in read_answers(outputs)]
        record["experiments"][0]["arms"]["tuned"]["answers_sha256"] = digest(told)
        record["experiments"][0]["environment"]["packages"]["torch"] = "1.0"

    doctor(bundle, change)
    assert verify(bundle)[0] == 0
    code, said = verify(bundle, "--run", "--base", made.base)
    assert code == 1
    assert f"row e{at}: is not answered as recorded: recorded 'made up', now {truth!r}" in said
    assert "note: 4 of 5 answers came out as recorded" in said
    assert "note: asked in another environment than the run: torch 1.0 -> " in said


def test_another_base_is_refused_with_both_digests(made: Made, tmp_path: Path, verify: Verify) -> None:
    other = Path(shutil.copytree(made.base, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    code, said = verify(made.bundle, "--run", "--base", other)
    assert code == 2
    assert f"--run: {other} is not the base model that was trained on:\n  config: recorded " in said
    assert "name the right folder with --base" in said


def test_what_cannot_be_asked_again_is_a_mistake_that_says_what_to_name(
    made: Made, tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["--run"], "--run: the base model 'base' is not here; name its folder with --base"),
        (["--run", "--base", "no"], "--base 'no': there is no such folder"),
        (["--base", made.base], "--base belongs to --run: without it no model is loaded"),
        (["--run=0"], "'0' is no number of rows: write BUNDLE before --run, or --run=5"),
    ):
        code, told = verify(made.bundle, *words)
        assert code == 2
        assert said in told
    shutil.copytree(made.base, tmp_path / "base")  # where the record says, seen from here
    assert verify(made.bundle, "--run=2")[0] == 0
