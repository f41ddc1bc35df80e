"""Three seeds through a whole session: one adapter is judged, all of them show what the recipe does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.cli import main

from .bundles import FIT
from .conftest import CONFTEST, expected, row_id

if TYPE_CHECKING:
    from .conftest import Project

# The seed stands in the weights, and the adapter is known by it when it answers.
SEEDED = CONFTEST.replace('TABLE.get("delta", 1.0)', "1.0 + request.seed").replace(
    'arm = "tuned" if adapter',
    'seed = int(struct.unpack("<f", (adapter / "adapter_model.safetensors").read_bytes()[-4:])[0]) - 1 if adapter '
    'else 0\n            arm = f"seed {seed}" if adapter',
)
DEV = 20


def with_seeds(project: Project, right: Mapping[int, int], dev: Mapping[int, int] | None = None) -> None:
    """Let each seed be right on so many held-out rows, and on so many development rows where there are any."""
    text = (project.path / "finetune.yaml").read_text()
    text = text.replace("{num_train_epochs: 1}", f"{{num_train_epochs: 1, seeds: {list(right)}}}")
    if dev is not None:
        text = text.replace("eval_file: eval.jsonl", "eval_file: eval.jsonl, dev_file: dev.jsonl")
    rows = [
        {
            "id": f"d{i}",
            "instruction": "label it",
            "input": f"a case of its own number {i * 7919}",
            "output": expected(i),
        }
        for i in range(DEV)
    ]
    project.write(
        {
            "finetune.yaml": text,
            "conftest.py": SEEDED,
            "dev.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        }
    )
    for seed, count in right.items():
        said = {row_id(i): expected(i) if i < count else '{"label": "none"}' for i in range(project.rows)}
        good = (dev or {}).get(seed, 0)
        said |= {f"d{i}": expected(i) if i < good else '{"label": "none"}' for i in range(DEV)}
        project.answers[f"seed {seed}"] = said
    project.save()


def test_the_best_on_development_rows_is_judged_and_the_recipe_told_apart(
    project: Project, verify: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with_seeds(project, {0: 74, 1: 70, 2: 72}, dev={0: 15, 1: 19, 2: 17})
    project.write({"test_fit.py": FIT})
    result = project.run("--finetune", "--finetune-promote")
    assert result.ret == 0
    assert [call for call in project.calls() if call in ("train", "release")].count("train") == 3
    first = project.experiment()
    recipe = first["recipe"]
    assert (recipe["seed"], recipe["chosen_by"], recipe["word"]) == (1, "rule", "holds")
    assert [one["dev"]["passed"] for one in recipe["seeds"]] == [15, 19, 17]
    # The held-out rows would have chosen seed 0: the verdict is about the other one.
    assert first["arms"]["tuned"]["rules"]["label"]["passed"] == 70
    assert first["training"]["adapter_sha256"] == recipe["seeds"][1]["adapter_sha256"]
    assert recipe["rules"]["label"]["rates"] == [74 / 80, 70 / 80, 72 / 80]
    assert recipe["rules"]["strict_json"]["spread"] == 0
    assert {one["against"] for one in first["comparisons"]} == {"baseline", "majority"}
    result.stdout.fnmatch_lines(
        [
            "  recipe    holds: 3 seeds +87.5 to +92.5 points, the next one +*",
            "  seeds     seed 1 is judged, chosen by label on 20 development rows*",
        ]
    )
    page = (project.path / "finetune-record" / "report.html").read_text()
    assert "the next seed" in page
    assert "The recipe" in page
    note = (project.path / "finetune-record" / "decision.md").read_text()
    assert "- recipe: the recipe holds: label: 3 seeds gain" in note
    card = (project.path / "artifacts" / "adapter" / "README.md").read_text()
    assert "\n- trained with 3 seeds, this adapter with seed 1: the recipe holds: label: 3 seeds gain" in card

    code, said = verify("artifacts/adapter", "--rules", project.path)
    assert code == 0, said
    again = project.run("--finetune")
    assert again.ret == 0
    assert project.calls() == []
    assert project.experiment()["decision"]["looks"] == 1
    assert main(["history", "--store", str(project.path / ".finetune")]) == 0
    assert "3, holds" in capsys.readouterr().out


def test_one_seed_alone_then_among_several_is_the_same_look(project: Project) -> None:
    with_seeds(project, {0: 72})
    project.run("--finetune")
    before = project.experiment()
    assert before["recipe"] is None
    note = (project.path / "finetune-record" / "decision.md").read_text()
    assert "one seed cannot tell a recipe's effect from a seed's" in note
    text = (project.path / "finetune.yaml").read_text()
    project.write({"finetune.yaml": text.replace("seeds: [0]", "seeds: [0, 1, 2]")})
    for seed, count in ((1, 4), (2, 6)):
        project.answers[f"seed {seed}"] = {
            row_id(i): expected(i) if i < count else "prose" for i in range(project.rows)
        }
    project.save()
    project.calls()
    project.run("--finetune")
    now = project.experiment()
    assert project.calls().count("train") == 2
    assert now["key"] == before["key"] == now["recipe"]["seeds"][0]["key"]
    assert now["recipe"]["chosen_by"] == "order"
    assert (now["decision"]["looks"], now["decision"]["verdict"]) == (1, "keep")
    assert now["comparisons"] == before["comparisons"]
    assert now["recipe"]["word"] == "unstable"
    assert any("another training may not do as well" in risk for risk in now["decision"]["risks"])
    # The adapter's verdict stands; how far a guard moves between seeds is told beside it.
    assert now["recipe"]["rules"]["strict_json"]["spread"] == pytest.approx(1 - 4 / 80)
