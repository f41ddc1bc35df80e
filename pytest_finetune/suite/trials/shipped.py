"""The trained adapter as several GGUF files, each of which answers the development rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers
from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment.runtimes import TRANSFORMERS
from pytest_finetune.suite.steps.answering import told_beside
from pytest_finetune.suite.steps.runtime_findings import unknown_architecture, working_tools
from pytest_finetune.wording import counted, percent

if TYPE_CHECKING:
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.trials.bench import Bench, Tried


def over_files(bench: Bench, quantizations: Sequence[str], server: str) -> None:
    """Let the adapter on its base answer, then each of its files; what was made or asked before is reused."""
    _refuse_unmade(bench, server)
    own = _keep(bench, TRANSFORMERS, TRANSFORMERS, {})
    for name in quantizations:
        _keep(bench, name, {"name": name, "gguf": name, "server": server}, own)


def _refuse_unmade(bench: Bench, server: str) -> None:
    """Raise for files that cannot be made here, before anything is trained for them."""
    if said := unknown_architecture(bench.base.experiment, working_tools(server)):
        raise FinetuneError(f"{said}: take a newer release of llama.cpp, or another base")


def _keep(bench: Bench, name: str, runtime: object, own: dict[str, str]) -> dict[str, str]:
    """Keep what a runtime got and how many of its texts are the adapter's `own`; return its texts by row."""
    tried = bench.judge({"runtimes": [runtime]})
    entry = _answers_of(bench, tried)
    answers = read_answers(entry.path / ANSWERS_FILE)
    texts = {answer.id: answer.response for answer in answers}
    found = {
        "name": name,
        "bytes": told_beside(entry).get("gguf", {}).get("bytes"),
        "seconds": sum(answer.seconds for answer in answers) / max(1, len(answers)),
        "alike": sum((own or texts).get(row) == text for row, text in texts.items()),
        "trained": tried.as_json(),
    }
    bench.found["trials"].append(found)
    passed, total = tried.score.tally
    rows = counted(total, "development row")
    bench.context.line.say(f"{name}: {percent(tried.score.rate)} of {rows} ({passed:g})")
    return texts


def _answers_of(bench: Bench, tried: Tried) -> Entry:
    key = tried.score.answers
    entry = bench.context.store.read("outputs", key)
    if entry is None:
        raise FinetuneError(f"the answers {key[:12]} are no longer in the store: run the command again")
    return entry
