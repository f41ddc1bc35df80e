"""An adapter is scored on the development rows alone: by the primary rule, with no held-out row read and no look."""

from __future__ import annotations

import builtins
import io
from collections.abc import Sequence

import pytest

from pytest_finetune.experiment import ExperimentError
from pytest_finetune.judging.development import NothingToChooseOn
from pytest_finetune.suite.choosing import score_on_dev
from pytest_finetune.suite.trials.trial import HeldOutRefused, trial_of

from .conftest import World, rows

DEV = "paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: dev.jsonl}\n"
RULE = """\
import pytest

@pytest.mark.eval_rule(primary=True)
def test_label(response, example):
    assert response.json() == example.expected_json()
"""


@pytest.fixture
def rules(pytester: pytest.Pytester) -> Sequence[pytest.Item]:
    return [pytester.getitem(RULE, "test_label")]


@pytest.fixture
def chosen(world: World) -> World:
    """The project with twenty development rows, a quarter of which is "high", as the tuned model says of all."""
    world.write({"dev.jsonl": rows(20, "development ticket", "output")})
    return world


@pytest.fixture
def no_held_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whoever opens the held-out file."""
    real = io.open

    def opened(file: object, *rest: object, **named: object) -> object:
        assert not str(file).endswith("eval.jsonl"), "a held-out row was read"
        return real(file, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)


@pytest.mark.usefixtures("no_held_out")
def test_a_trial_reads_no_held_out_row_and_spends_no_look(
    chosen: World, rules: Sequence[pytest.Item]
) -> None:
    trial = trial_of(chosen.context(DEV), rules, {"training.learning_rate": 1e-4})
    score = trial.score
    assert (score.rule, score.tally, score.loss) == ("label", (5, 20), 2.0)
    assert [row.partition("ticket")[2] for row in score.rows] == [f"{number:03d}" for number in range(20)]
    assert chosen.asked() == ["train", "answer tuned"]
    assert list(trial.context.store.looks.judged()) == []
    with pytest.raises(HeldOutRefused, match="the primary rule asks for eval_rows"):
        _ = trial.eval_rows


def test_the_second_time_the_store_has_adapter_and_answers(
    chosen: World, rules: Sequence[pytest.Item]
) -> None:
    first = trial_of(chosen.context(DEV), rules, {"training.seed": 7}).score
    chosen.asked()
    again = trial_of(chosen.context(DEV), rules, {"training.seed": 7})
    assert (again.score, again.adapter.reused, chosen.asked()) == (first, True, [])
    assert trial_of(chosen.context(DEV), rules, {}).adapter.key != first.adapter


def test_the_trial_that_changes_nothing_is_the_training_of_the_run(
    chosen: World, rules: Sequence[pytest.Item]
) -> None:
    run = chosen.run(DEV)
    trial = trial_of(chosen.context(DEV), rules, {})
    assert run.adapter.key == trial.adapter.key
    assert chosen.asked() == ["train"]
    run.rules = rules
    assert score_on_dev(run, run.adapter).scores == trial.score.scores


def test_without_development_rows_nothing_is_chosen(world: World, rules: Sequence[pytest.Item]) -> None:
    with pytest.raises(NothingToChooseOn, match="has no development rows to choose on: name them in"):
        trial_of(world.context(), rules, {})
    run = world.run()
    adapter = run.adapter
    with pytest.raises(NothingToChooseOn, match="Held-out rows judge"):
        score_on_dev(run, adapter)


@pytest.mark.parametrize("named", ["eval.jsonl", "./eval.jsonl"])
def test_held_out_rows_are_refused_as_development_rows(
    chosen: World, rules: Sequence[pytest.Item], named: str
) -> None:
    with pytest.raises(ExperimentError, match="which judges: what is chosen on held-out rows is not proven"):
        trial_of(chosen.context(DEV), rules, {"paths.dev_file": named})


def test_development_rows_that_are_trained_on_stop_a_trial(
    chosen: World, rules: Sequence[pytest.Item]
) -> None:
    chosen.write({"dev.jsonl": rows(12, "training ticket", "output")})
    with pytest.raises(pytest.fail.Exception, match=r"(?s)nothing is trained: .*leak/dev"):
        _ = trial_of(chosen.context(DEV), rules, {}).adapter
    assert chosen.asked() == []


@pytest.mark.parametrize(
    ("written", "as_if"),
    [("seeds: [3, 4]", "seed: 3"), ("replay: {prompts: replay.jsonl, share: 0.3}",) * 2],
)
def test_a_trial_has_one_seed_and_replays_what_the_run_does(
    chosen: World, rules: Sequence[pytest.Item], written: str, as_if: str
) -> None:
    chosen.write({"replay.jsonl": rows(12, "another question", "output")})
    training = "training: {{num_train_epochs: 1, {}}}\n"
    run = chosen.run(DEV + training.format(as_if))
    trial = trial_of(chosen.context(DEV + training.format(written)), rules, {})
    assert trial.training.key().value == run.adapter.key


def test_what_the_contract_asks_of_held_out_rows_stops_no_trial(
    chosen: World, rules: Sequence[pytest.Item]
) -> None:
    chosen.write(
        {
            "contract.yaml": "output: {format: json}\nlabels: {field: label, min_per_label: 3}\n"
            "rows: {min_train: 12, min_eval: 60}\ntags: {eval: {hard: 5}}\n"
        }
    )
    paths = DEV.replace("}", ", contract_file: contract.yaml}")
    assert trial_of(chosen.context(paths), rules, {}).score.tally.total == 20
    with pytest.raises(pytest.fail.Exception, match="asks for 13"):
        chosen.write({"contract.yaml": "rows: {min_train: 13}\n"})
        _ = trial_of(chosen.context(paths), rules, {}).adapter
