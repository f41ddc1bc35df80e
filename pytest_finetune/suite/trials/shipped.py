"""The trained adapter as several GGUF files, each of which answers the development rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers
from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment.runtimes import TRANSFORMERS
from pytest_finetune.suite.steps.answering import told_beside
from pytest_finetune.wording import counted, percent

if TYPE_CHECKING:
    from pytest_finetune.suite.trials.bench import Bench, Tried
    from pytest_finetune.yamlfile import Json


def over_files(bench: Bench, quantizations: Sequence[str], server: str) -> None:
    """Let the adapter on its base answer, then each of its files; what was made or asked before is reused."""
    _keep(bench, TRANSFORMERS, bench.judge({"runtimes": [TRANSFORMERS]}))
    for name in quantizations:
        runtime = {"name": name, "gguf": name, "server": server}
        _keep(bench, name, bench.judge({"runtimes": [runtime]}))


def _keep(bench: Bench, name: str, tried: Tried) -> None:
    told, seconds = _beside(bench, tried.score.answers)
    found = {"name": name, "bytes": told.get("bytes"), "seconds": seconds, "trained": tried.as_json()}
    bench.found["trials"].append(found)
    passed, total = tried.score.tally
    bench.context.line.say(
        f"{name}: {percent(tried.score.rate)} of {counted(total, 'development row')} ({passed:g})"
    )


def _beside(bench: Bench, key: str) -> tuple[Json, float]:
    """Return what lies beside answers of the file that gave them, and the seconds that one of them took."""
    entry = bench.context.store.read("outputs", key)
    if entry is None:
        raise FinetuneError(f"the answers {key[:12]} are no longer in the store: run the command again")
    answers = read_answers(entry.path / ANSWERS_FILE)
    return told_beside(entry).get("gguf", {}), sum(answer.seconds for answer in answers) / max(
        1, len(answers)
    )
