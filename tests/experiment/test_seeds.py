"""Seeds in the experiment file: one in a list is that seed, and what cannot be meant is said with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.arm_plans import asking_order, planned
from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment
from pytest_finetune.experiment.reading import experiment_json, experiment_of


def written(tmp_path: Path, training: str, more: str = "") -> Experiment:
    for name in ("train.jsonl", "check.jsonl"):
        (tmp_path / name).write_text("")
    text = f"base_model: m\npeft_method: lora\nlora: {{r: 4}}\ntraining: {training}\n"
    text += "paths: {train_file: train.jsonl, eval_file: check.jsonl}\n"
    (tmp_path / "finetune.yaml").write_text(text + more)
    return load_experiment(tmp_path, "finetune.yaml")


def test_one_seed_in_a_list_is_that_seed(tmp_path: Path) -> None:
    listed, alone = (written(tmp_path, f"{{{text}}}") for text in ("seeds: [3]", "seed: 3"))
    assert listed == alone
    assert listed.resolved == alone.resolved


def test_each_of_several_seeds_is_the_experiment_that_named_it_alone(tmp_path: Path) -> None:
    several, alone = (written(tmp_path, f"{{{text}}}") for text in ("seeds: [4, 0, 7]", "seed: 7"))
    assert several.training.seeds == (4, 0, 7)
    assert (
        several.training.seed == 4
    )  # what is drawn once, such as the rows of a prompt, is drawn with the first
    assert several.of_seed(7) == alone
    assert several.of_seed(7).resolved == alone.resolved
    sent = experiment_of(json.loads(json.dumps(experiment_json(several.of_seed(7)))))
    assert sent.training == alone.training


def test_every_seed_is_an_arm_asked_while_the_base_is_loaded(tmp_path: Path) -> None:
    arms = planned(written(tmp_path, "{seeds: [4, 0]}", "arms: {other: {base_model: n}}\n"))
    assert list(arms) == ["baseline", "tuned", "seed 4", "seed 0", "other"]
    assert [arms["seed 0"].seed, arms["seed 0"].opponent, arms["tuned"].seed] == [0, False, None]
    assert asking_order(arms) == ["tuned", "baseline", "seed 4", "seed 0", "other"]
    assert "seed 0" not in planned(written(tmp_path, "{seeds: [0]}"))


@pytest.mark.parametrize(
    ("training", "override", "seeds", "seed"),
    [
        ("{seed: 5}", {"training.seeds": [0, 1]}, (0, 1), 0),
        ("{seeds: [0, 1]}", {"training.seed": 5}, (), 5),
    ],
)
def test_what_is_set_on_the_command_line_stands_in_place_of_the_files(
    tmp_path: Path, training: str, override: dict[str, Any], seeds: tuple[int, ...], seed: int
) -> None:
    written(tmp_path, training)
    found = load_experiment(tmp_path, "finetune.yaml", override).training
    assert (found.seeds, found.seed) == (seeds, seed)
    with pytest.raises(ExperimentError, match="leave one of the two out"):
        load_experiment(tmp_path, "finetune.yaml", {"training.seed": 1, "training.seeds": [0, 1]})


SERVER = "runtimes: [{name: ours, base_url: 'http://localhost:1/v1', model: tuned, base: base}]\n"


@pytest.mark.parametrize(
    ("training", "more", "said"),
    [
        (
            "{seed: 1, seeds: [0, 1]}",
            "",
            "finetune.yaml:4: training.seed: found 1 beside seeds [0, 1]: leave one of the two out",
        ),
        (
            "{seeds: [0, 1, 0]}",
            "",
            "finetune.yaml:4: training.seeds: found [0, 1, 0]: a seed gives one adapter, and 0 stands there twice; "
            "name each once",
        ),
        ("{seeds: [0, one]}", "", "training.seeds[1]: found 'one' (text), allowed: a whole number"),
        ("{seeds: [0.5]}", "", "training.seeds[0]: found 0.5 (number), allowed: a whole number"),
        ("{seeds: 3}", "", "training.seeds: found 3 (number), allowed: a list"),
        (
            "{seeds: [0, 1]}",
            "trained: {adapter: ours}\n",
            "training.seeds: contradicts trained.adapter 'ours', which is one adapter and not trained here",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, training: str, more: str, said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        written(tmp_path, training, more)
    assert said in str(caught.value)
