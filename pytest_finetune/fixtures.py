"""The fixtures that tests ask for; each is a view of the session's cache, so nothing loads before it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.charter import Charter
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.judging.decision import Decision
    from pytest_finetune.judging.drift import Drift
    from pytest_finetune.judging.runtime_match import RuntimeMatch
    from pytest_finetune.memory.hardware.detect import Budget
    from pytest_finetune.memory.hardware.disk import DiskBudget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.suite.arm_view import Arm, Arms
    from pytest_finetune.suite.rules.calling import PerRow
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.steps.engine import BaseModel
    from pytest_finetune.suite.steps.training_step import Adapter
    from pytest_finetune.suite.steps.unplanned import Unplanned


@pytest.fixture(scope="session")
def _finetune_experiment(request: pytest.FixtureRequest) -> ExperimentRun:
    from pytest_finetune.suite.session import SESSION

    return request.config.stash[SESSION].run(request.param)


@pytest.fixture(scope="session")
def experiment(_finetune_experiment: ExperimentRun) -> Experiment:
    """The resolved experiment, frozen: every key of the file with its value, defaults included."""
    return _finetune_experiment.experiment


@pytest.fixture(scope="session")
def charter(_finetune_experiment: ExperimentRun) -> Charter:
    """Why this run should exist; ``charter.findings()`` is empty when the charter answers its questions."""
    return _finetune_experiment.charter


@pytest.fixture(scope="session")
def contract(_finetune_experiment: ExperimentRun) -> Contract:
    """The data contract; ``contract.findings(train_rows, eval_rows)`` is empty when the rows keep it."""
    return _finetune_experiment.contract


@pytest.fixture(scope="session")
def train_rows(_finetune_experiment: ExperimentRun) -> Rows:
    """The training rows; each knows its file and line."""
    return _finetune_experiment.train_rows


@pytest.fixture(scope="session")
def eval_rows(_finetune_experiment: ExperimentRun) -> Rows:
    """The held-out rows, which are never trained on; each knows its file and line."""
    return _finetune_experiment.eval_rows


@pytest.fixture(scope="session")
def gpu_budget(_finetune_experiment: ExperimentRun) -> Budget:
    """The card that is here, or the one that ``--finetune-budget`` names: name, total, free and usable bytes.

    Skips, with the reason, when there is no accelerator and no budget is named.
    """
    return _finetune_experiment.budget_or_skip()


@pytest.fixture(scope="session")
def memory_plan(_finetune_experiment: ExperimentRun) -> MemoryPlan | Unplanned:
    """The predicted peak memory of the training, before anything is loaded: ``assert memory_plan <= gpu_budget``."""
    return _finetune_experiment.memory_plan


@pytest.fixture(scope="session")
def disk_budget(_finetune_experiment: ExperimentRun) -> DiskBudget:
    """What is free on the disk where the store lies: ``assert memory_plan.disk <= disk_budget``."""
    return _finetune_experiment.disk_budget


@pytest.fixture(scope="session")
def base_model(_finetune_experiment: ExperimentRun) -> BaseModel:
    """The untouched base model: ``.model``, ``.tokenizer``, ``.generate(prompts)``.

    Answers the same, bit for bit, before and after a training in the same session.
    """
    return _finetune_experiment.base_model


@pytest.fixture(scope="session")
def trained_adapter(_finetune_experiment: ExperimentRun) -> Adapter:
    """The adapter, trained now or reused from the store.

    ``.path``, ``.key``, ``.reused``, ``.log``, ``.seconds``, ``.peak_bytes``, ``.load(model)``.
    """
    return _finetune_experiment.adapter


@pytest.fixture(scope="session")
def baseline(_finetune_experiment: ExperimentRun) -> Arm:
    """The base model's answers to the held-out prompts: ``.responses``, and ``baseline["rule"]`` is its score."""
    return _finetune_experiment.arm("baseline")


@pytest.fixture(scope="session")
def prompted(_finetune_experiment: ExperimentRun) -> Arm:
    """The base model's answers with ``prompt.few_shot`` training rows before each question."""
    return _finetune_experiment.arm("prompted")


@pytest.fixture(scope="session")
def tuned(_finetune_experiment: ExperimentRun) -> Arm:
    """The tuned model's answers to the held-out prompts: ``.responses``, and ``tuned["rule"]`` is its score."""
    return _finetune_experiment.arm("tuned")


@pytest.fixture(scope="session")
def arms(_finetune_experiment: ExperimentRun) -> Arms:
    """Every arm by its name: ``arms["champion"]`` is an arm like ``baseline`` and ``tuned``, asked when it is taken."""
    from pytest_finetune.suite.arm_view import Arms

    return Arms(_finetune_experiment.arms, _finetune_experiment.arm)


@pytest.fixture(scope="session")
def decision(_finetune_experiment: ExperimentRun) -> Decision:
    """The verdict over all rules: ``.verdict``, ``.keep``, ``.reasons``, ``.next_change``, ``.examples_needed``."""
    return _finetune_experiment.decision()


@pytest.fixture(scope="session")
def runtime_match(_finetune_experiment: ExperimentRun) -> tuple[RuntimeMatch, ...]:
    """How far the tuned arm agrees with itself in each further runtime: ``match.text.rate``, ``match["rule"].rate``."""
    return _finetune_experiment.runtime_match()


@pytest.fixture(scope="session")
def drift(_finetune_experiment: ExperimentRun) -> Drift:
    """How far the tuned model has moved from the base on neutral prompts that are not of the task.

    ``.changed`` (share of answers), ``.interval``, ``.mean_kl``, ``.max_kl`` (nats), ``.forgets``, ``.rows``.
    """
    return _finetune_experiment.drift_or_fail()


def _stand_in(request: pytest.FixtureRequest, name: str) -> PerRow:
    from pytest_finetune.suite.rules.calling import stand_in

    return stand_in(request, name)


@pytest.fixture
def response(_finetune_experiment: ExperimentRun, request: pytest.FixtureRequest) -> Response:
    """This arm's answer to this row, in an ``eval_rule`` only: ``.text``, ``.json()``, ``.tokens``, ``.seconds``."""
    return _stand_in(request, "response")  # type: ignore[return-value]


@pytest.fixture
def example(_finetune_experiment: ExperimentRun, request: pytest.FixtureRequest) -> Row:
    """This held-out row, inside an ``eval_rule`` only: ``.input``, ``.expected``, ``.expected_json()``, ``.tags``."""
    return _stand_in(request, "example")  # type: ignore[return-value]


@pytest.fixture
def responses(_finetune_experiment: ExperimentRun, request: pytest.FixtureRequest) -> list[Response]:
    """All answers of this arm in file order, in an ``eval_rule(corpus=True)`` only."""
    return _stand_in(request, "responses")  # type: ignore[return-value]


@pytest.fixture
def examples(_finetune_experiment: ExperimentRun, request: pytest.FixtureRequest) -> list[Row]:
    """All held-out rows in file order, beside ``responses``, in an ``eval_rule(corpus=True)`` only."""
    return _stand_in(request, "examples")  # type: ignore[return-value]


@pytest.fixture
def confusion(
    _finetune_experiment: ExperimentRun, request: pytest.FixtureRequest
) -> Callable[[str | None, str | None], None]:
    """Count an answer in the record's confusion table, in an ``eval_rule`` only: ``confusion(expected, given)``."""
    return _stand_in(request, "confusion")


@pytest.fixture
def score(_finetune_experiment: ExperimentRun, request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Grade this answer, inside an ``eval_rule`` only: ``score(0.5)``, between 0 and 1, instead of pass or fail."""
    return _stand_in(request, "score")
