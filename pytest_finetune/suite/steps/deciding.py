"""The decision of a session: computed from facts alone, the same in a worker and where the record is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune import wording
from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers
from pytest_finetune.answering.arm_plans import BASELINE, BEST_PROMPT, CONSTRAINED, PROMPTED, TRIVIAL
from pytest_finetune.answering.runtimes.server.decoding import base_decoding
from pytest_finetune.data.task_format import task_format
from pytest_finetune.fingerprint import base_folder, digest
from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.diagnosis import DiagnosisEvidence, collapsed_label, diagnose
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.growth import Growth
from pytest_finetune.judging.recipe import UNSTABLE
from pytest_finetune.judging.risks import HIGH, LOW
from pytest_finetune.judging.rule import rules_sha256
from pytest_finetune.judging.runtime_match import warnings_of
from pytest_finetune.record.case import case_of, judged_arms, looked_arms, recipe_of, rules_in, score_of
from pytest_finetune.record.runtime_match import runtime_matches
from pytest_finetune.record.thinking import CUT
from pytest_finetune.store import JudgedRow, Look, StoreError
from pytest_finetune.suite.steps.grammars import grammar_of
from pytest_finetune.suite.steps.making import trainers
from pytest_finetune.wording import arm as arm_in_words

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.judging.case import Case
    from pytest_finetune.judging.decision import Decision
    from pytest_finetune.judging.runtime_match import RuntimeMatch
    from pytest_finetune.store import Store
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.data_step import Data

_READABLE: Final = 0.5  # the share of answers in the format below which one is weak
# What all arms are asked by, and what is asked of them: another one of these is another look.
_SETTING: Final = (
    "base_model", "revision", "quantization", "attn_implementation", "prompt", "generation", "runtimes", "arms",
    "decision",
)  # fmt: skip
_FREE: Final = (BASELINE, PROMPTED, BEST_PROMPT)


def decided(context: Context, tree: Mapping[str, Any], data: Callable[[], Data]) -> Decision:
    """Judge, and name the one next change that the evidence points to."""
    case = case_of(tree)
    decision = decide(case)
    if decision.undecided:
        return decision
    found = matches(context.store, tree)
    evidence = _evidence(context, tree, data(), case, decision, found)
    collapse = collapsed_label(evidence)
    if collapse is not None:
        decision = decision.warned([collapse.sentence], HIGH)
    contract = data().contract
    if decision.keep:
        weak = _unreadable_opponents(tree, contract, case.primaries[0].name)
        decision = decision.warned(weak).warned(_served_otherwise(context.experiment), LOW)
    apart, untried = warnings_of(found, case.primaries[0].name)
    decision = decision.warned(apart, HIGH).warned(untried, LOW)
    decision = decision.warned(_cut_opponents(context.experiment, tree, contract), HIGH)
    if decision.keep and evidence.unstable:
        decision = decision.warned([f"another training may not do as well: {evidence.unstable}"], LOW)
    broken: list[str] = []
    change = diagnose(evidence, [_plugin_diagnosis(context.hooks, broken)])
    return decision.warned(broken).advised(change)


def _served_otherwise(experiment: Experiment) -> Iterator[str]:
    """Yield which settings of the base's folder nobody judged, though a server applies them."""
    sets = base_decoding(base_folder(experiment), experiment.generation).sets
    if sets:
        told = wording.listed([f"{name} {value}" for name, value in sets.items()])
        yield (
            f"generation_config.json of the base sets {told}: the decision was made without, and a server applies it "
            "unless it is asked or started without"
        )


def _cut_opponents(experiment: Experiment, tree: Mapping[str, Any], contract: Contract) -> Iterator[str]:
    """Yield that constrained answers were cut: under a schema only the limit breaks a JSON, so nothing was beaten."""
    what, remedy = "JSON", "bound its texts by maxLength in output.schema of the contract"
    if contract.schema is None:
        what, remedy = "label", "raise generation.max_new_tokens"
    for facts in tree.get("arms", {}).values():
        if facts.get("constrain") and _were_cut(facts):
            cut, limit = facts["answers"] - facts["stopped"], experiment.generation.max_new_tokens
            yield (
                f"constrained decoding of the base model is no fair opponent: {cut:,} of {facts['answers']:,} answers "
                f"ended at the limit of {limit} tokens, before their {what} was whole: {remedy}"
            )


def _were_cut(arm: Mapping[str, Any]) -> bool:
    return bool(arm["answers"] - arm["stopped"] >= CUT * arm["answers"])


def _unreadable_opponents(tree: Mapping[str, Any], contract: Contract, primary: str) -> Iterator[str]:
    """Yield that what was beaten hardly speaks the format, unless the base under a grammar, which does, was beaten."""
    arms = tree["arms"]
    told = {name: arms[name]["format"] for name in _FREE if "format" in arms.get(name, {})}
    weak = [
        f"{arm_in_words(name)} speaks the format on {found['readable']:,} of {found['total']:,} rows"
        for name, found in told.items()
        if found["readable"] < _READABLE * found["total"]
    ]
    constrained = arms.get(CONSTRAINED)
    if not weak or (constrained and not _were_cut(constrained)):
        return
    chance = next((arms[name]["rules"][primary]["rate"] for name in sorted(TRIVIAL) if name in arms), None)
    stands = "" if chance is None else f"; chance stands at {chance:.0%}"
    advice = "" if constrained else f": ask it under constrained decoding ({_constraining(contract)})"
    whom = "it" if len(weak) == 1 else "them"
    yield f"{' and '.join(weak)}, so beating {whom} shows a format and not a judgement{stands}{advice}"


def _constraining(contract: Contract) -> str:
    """Say what the base needs before it can answer under a grammar."""
    if grammar_of(contract) is None:
        return "write output.schema or labels into the contract"
    if find_spec("llguidance") is None:
        return "pip install 'pytest-finetune[constrain]'"
    return "generation: {constrain: contract}"


def _plugin_diagnosis(
    hooks: HookRelay, broken: list[str]
) -> Callable[[DiagnosisEvidence], NextChange | None]:
    """Return the diagnoses of plugins as one; what is wrong with them must not cost the decision, and is told."""

    def ask(evidence: DiagnosisEvidence) -> NextChange | None:
        try:
            found = hooks.pytest_finetune_diagnose(evidence=evidence)
        except Exception as error:
            broken.append(
                f"pytest_finetune_diagnose failed: {type(error).__name__}: {error}; correct the plugin"
            )
            return None
        said = [change for change in found if change is not None]
        strange = [type(change).__name__ for change in said if not isinstance(change, NextChange)]
        if strange:
            broken.append(f"pytest_finetune_diagnose returned a {strange[0]}: return a NextChange or None")
        return next((change for change in said if isinstance(change, NextChange)), None)

    return ask


def matches(store: Store, tree: Mapping[str, Any]) -> tuple[RuntimeMatch, ...]:
    """Return how far the tuned arm agrees between runtimes, from the facts and the stored answers."""
    return runtime_matches(tree, lambda arm: stored_answers(store, tree, arm))


def _evidence(
    context: Context,
    tree: Mapping[str, Any],
    data: Data,
    case: Case,
    decision: Decision,
    found: Sequence[RuntimeMatch],
) -> DiagnosisEvidence:
    primary = case.primaries[0]
    experiment, rows = context.experiment, tuple(data.held_out)
    answers = {arm: stored_answers(context.store, tree, arm) for arm in judged_arms(tree)}
    texts = {arm: tuple(found[row.id].response for row in rows) for arm, found in answers.items() if found}
    label = data.contract.label_of
    training = tree.get("training") or {}
    tuned = answers.get("tuned", {})
    met = {
        one.against: one.verdict
        for one in decision.comparisons
        if one.rule == primary.name and one.against not in case.shown
    }
    forgets = case.drift.forgets if case.drift and case.drift.measured else None
    return DiagnosisEvidence(
        verdict=decision.verdict,
        primary=primary.name,
        min_gain=case.defaults.min_gain if primary.min_gain is None else primary.min_gain,
        rows=tuple(row.id for row in rows),
        scores=case.scores,
        labels={arm: tuple(label(text) for text in said) for arm, said in texts.items()},
        expected_labels=tuple(label(row.output) for row in rows),
        expected=tuple(row.expected for row in rows),
        formats=_formats(tree),
        met=met,
        texts=texts,
        stopped=tuple(tuned[row.id].stopped for row in rows) if tuned else (),
        stops_taught=_stops_taught(context, data),
        forgets=forgets.sentence if forgets else None,
        unstable=_unstable(tree),
        cut=tuple(change for arm, change in case.cut.items() if arm not in case.shown),
        temperature=experiment.generation.temperature if experiment.generation.do_sample else 0.0,
        max_new_tokens=experiment.generation.max_new_tokens,
        longest_expected_tokens=_longest_expected(data, tuned.values()),
        log=tuple(training.get("log", ())),
        steps=training.get("steps"),
        training=experiment.training,
        training_rows=len(data.train),
        training_outputs=tuple(row.output for row in data.train),
        truncated=_truncated(data),
        longest_tokens=training.get("tokens", {}).get("max"),
        runtime_match=tuple(match.rules[primary.name] for match in found if primary.name in match.rules),
        runtime_causes={match.second: match.cause for match in found if match.cause},
    )


def _unstable(tree: Mapping[str, Any]) -> str | None:
    """Return why the recipe is unstable; what the seeds show is not summed up again where the facts hold it."""
    told = tree.get("recipe") or {}
    if "word" in told:
        return str(told["sentence"]) if told["word"] == UNSTABLE else None
    found = recipe_of(tree)
    return found.sentence if found and found.unstable else None


def _formats(tree: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each arm's answers in the task's format, where it was counted."""
    counted = {arm: facts.get("format") for arm, facts in tree.get("arms", {}).items()}
    # In an arm of another tool's answers, `format` is the name of the tool's file.
    return {
        arm: one["readable"] / one["total"]
        for arm, one in counted.items()
        if isinstance(one, Mapping) and one["total"]
    }


def _stops_taught(context: Context, data: Data) -> bool | None:
    """Tell whether training rows end in a stop token; None where they were not counted, or others trained on them."""
    tokenization = data.contract.tokenization
    if tokenization is None:
        return None
    shown = [count.stops for count in tokenization.counts(data.train)]
    if not any(shown):
        return False
    return all(shown) or None if trainers(context.hooks) == "trl" else None


def _longest_expected(data: Data, answers: Iterable[Answer]) -> int | None:
    """Return the tokens of the longest expected answer, its stop token left out; None while every answer stops."""
    tokenization = data.contract.tokenization
    if tokenization is None or all(answer.stopped for answer in answers):
        return None
    counts = tokenization.counts(data.held_out)
    return max(count.supervised(count.length) - count.stops for count in counts)


def _truncated(data: Data) -> tuple[str, ...]:
    tokenization = data.contract.tokenization
    if tokenization is None:
        return ()
    counts = tokenization.counts(data.train)
    limit = tokenization.max_length
    return tuple(row.place for row, count in zip(data.train, counts, strict=True) if count.length > limit)


def stored_answers(store: Store, tree: Mapping[str, Any], arm: str) -> dict[str, Answer]:
    """Return an arm's answers by row id, as the store holds them; empty when the arm did not answer."""
    facts = tree.get("arms", {}).get(arm, {})
    entry = store.read("outputs", facts["outputs_key"]) if "outputs_key" in facts else None
    return {} if entry is None else {answer.id: answer for answer in read_answers(entry.path / ANSWERS_FILE)}


def record_formats(
    context: Context, data: Data, rule: str, answers_of: Callable[[str], Mapping[str, Answer]]
) -> None:
    """Record how many answers of each arm have the task's format, and the rate of a rule among those.

    A format that the right answers themselves do not have is none, such as that of free text.
    """
    shape = task_format(data.contract, (row.output for row in data.train))
    fits = cache(shape.fits)  # where answers are labels, most of them were seen before
    if not all(fits(row.output) for row in data.held_out):
        return
    tree = context.facts.tree()
    for arm in judged_arms(tree):
        answers, score = answers_of(arm), score_of(tree, rule, arm)
        found = score.apart([fits(answers[row].response) for row in score.rows])
        context.record(("arms", arm, "format"), {**found, "told_by": shape.told_by})


def look_of(
    store: Store,
    tree: Mapping[str, Any],
    rows: Iterable[Row],
    more: Mapping[str, str | None] | None = None,
) -> Look:
    """Return this look at the held-out rows: which adapter, answers, rules, rows, and what judges said.

    `more` has the digests of what judges said before and will repeat, by rule; None where they are still to be asked,
    which is like no look that was written down.
    """
    judged = {
        name: facts["verdicts"]["sha256"] for name, facts in tree["rules"].items() if facts.get("verdicts")
    }
    judged |= more or {}
    answers = {arm: tree["arms"][arm]["answers_sha256"] for arm in looked_arms(tree)}
    rows = tuple(rows)
    config = tree["config"]
    in_order, setting = None, ""
    if config["decision"].get("grow"):
        in_order, setting = (
            judged_rows(tree, rows, store),
            digest({name: config.get(name) for name in _SETTING}),
        )
    return Look(
        adapter=tree["training"]["adapter_sha256"],
        answers=digest(answers),
        rules_sha256=rules_sha256(rules_in(tree)),
        rows=frozenset(row.digest for row in rows),
        verdicts=digest(judged) if judged else None,
        asked=frozenset(row.question_digest for row in rows),
        in_order=in_order,
        setting=setting,
    )


def judged_rows(tree: Mapping[str, Any], rows: Sequence[Row], store: Store) -> tuple[JudgedRow, ...]:
    """Return the held-out rows in their order, each with the digest of what every arm answered to it."""
    answers = {arm: stored_answers(store, tree, arm) for arm in looked_arms(tree)}
    return tuple(
        JudgedRow(row.digest, digest({arm: said[row.id].response for arm, said in answers.items() if said}))
        for row in rows
    )


def settled_look(context: Context, rows: Rows, verdicts: Mapping[str, str | None]) -> int:
    """Return which look this is at rows that every arm has answered; record it, and the rules changed after a look.

    It is written down before anything is judged, so that sessions beside each other do not all take the same number.
    What judges will say is not part of it yet: both together are one look.
    """
    tree = context.facts.tree()
    look, book = look_of(context.store, tree, rows, verdicts), context.store.looks
    texts = {rule: facts["sha256"] for rule, facts in tree["rules"].items()}
    changed = book.changed_after_look(texts, look.rows, look.asked)
    with suppress(StoreError):  # the end of the session tells that looks cannot be written down
        book.register(replace(look, verdicts=None), texts, context.experiment.name)
    k = book.earlier(look)
    facts: dict[str, Any] = {"k": k, "rules_sha256": look.rules_sha256}
    if look.in_order is not None:
        grown, ends = book.growth(look)
        facts["growth"] = Growth(grown.k, ends, grown.why).as_json()
    context.record(("looks",), facts)
    for name in changed:
        context.record(("rules", name, "changed_after_look"), True)
    return k
