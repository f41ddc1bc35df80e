"""Check what a promoted bundle says by itself: no store, no network, no torch. Every digest is right by then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from pytest_finetune.answering.answers import Answer
from pytest_finetune.bundle.card import model_card
from pytest_finetune.bundle.format import EXPERIMENT, MANIFEST, RECORD, BundleError, input_files
from pytest_finetune.bundle.reading import Bundle, Problem, adapter_problems
from pytest_finetune.bundle.requirements import unmet
from pytest_finetune.bundle.shipped import shipped_problems
from pytest_finetune.bundle.statement import STATEMENT, statement, statement_json
from pytest_finetune.bundle.verify.recompute import Contradiction, contradictions, same
from pytest_finetune.experiment import ExperimentError
from pytest_finetune.fingerprint import adapter_digest, digest, flat
from pytest_finetune.record.case import judged_answers
from pytest_finetune.record.runtime_match import runtime_matches
from pytest_finetune.record.validate import problems
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.safetensors_check import delta_nonzero
from pytest_finetune.training.artifact import ADAPTER_CONFIG, missing_file
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import Json


def content_problems(bundle: Bundle) -> list[Problem]:
    """Name what does not follow from the rest although every digest is right: somebody mended the digests."""
    broken = [Problem(RECORD, text) for text in problems(bundle.record)[:10]]
    if broken:
        return broken
    found: list[Problem] = []
    for check in (
        _adapter,
        _shipped,
        _inputs,
        _configuration,
        _outputs,
        _evidence,
        _decision,
        _runtimes,
        _statement,
        _views,
    ):
        found += _guarded(check, bundle)
    return found


def _guarded(check: Callable[[Bundle], Iterator[Problem]], bundle: Bundle) -> list[Problem]:
    """Run one check; a record that keeps its schema and still cannot be read is a problem, not a traceback."""
    try:
        return list(check(bundle))
    except BundleError as error:
        return [Problem("bundle", str(error))]
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, OSError) as error:
        part = check.__name__.strip("_")
        return [
            Problem(RECORD, f"its {part} cannot be checked: {type(error).__name__}: {one_line(error, 200)}")
        ]


def _adapter(bundle: Bundle) -> Iterator[Problem]:
    experiment = bundle.experiment
    recorded = experiment["training"]["adapter_sha256"]
    if recorded != adapter_digest(bundle.folder):
        yield Problem(RECORD, f"its adapter digest {recorded[:12]} is not that of the adapter in the bundle")
    method = experiment["config"]["peft_method"]
    if lacking_file := missing_file(bundle.folder, method):
        yield Problem(lacking_file, f"is missing: {method} keeps one")
        return
    if found := adapter_problems(bundle):
        yield from found
        return
    yield from _base(bundle)
    if bundle.whole_model:
        return  # whether it differs from its base, only the base can tell
    if experiment["training"].get("delta_nonzero") != (nonzero := delta_nonzero(bundle.folder)):
        said = experiment["training"].get("delta_nonzero")
        yield Problem(RECORD, f"delta_nonzero is {said}, the adapter's weights give {nonzero}")


def _shipped(bundle: Bundle) -> Iterator[Problem]:
    """Hold the GGUF file, where one was judged, against the record."""
    for place, what in shipped_problems(bundle):
        yield Problem(place, what)


def _base(bundle: Bundle) -> Iterator[Problem]:
    manifest, judged = bundle.manifest, bundle.experiment["config"]["base_model"]
    if manifest.base_model != judged:
        yield Problem(MANIFEST, f"its base model {manifest.base_model!r} is not the one that was judged")
    if bundle.whole_model:
        return
    config = json.loads((bundle.folder / ADAPTER_CONFIG).read_bytes())
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if base != judged:
        yield Problem(ADAPTER_CONFIG, f"its base model {base!r} is not the one that was judged")
    if revision != manifest.revision:
        yield Problem(
            ADAPTER_CONFIG, f"its revision {revision!r} is not the manifest's {manifest.revision!r}"
        )


def _inputs(bundle: Bundle) -> Iterator[Problem]:
    named = input_files(bundle.experiment["checksums"])
    if bundle.manifest.tree["dataset_sha256"] != {name: facts["sha256"] for name, facts in named.items()}:
        yield Problem(MANIFEST, "its dataset_sha256 are not the record's checksums")
    for name, facts in named.items():
        copy = f"{EXPERIMENT}/{facts['path']}"
        required = name in {"experiment", "contract"}
        if copy not in bundle.manifest.files:
            if required:
                yield Problem(copy, "is missing: a bundle carries its experiment and contract")
        elif bundle.manifest.files[copy] != facts["sha256"]:
            yield Problem(copy, "is not the file that the run read (by the record's checksum)")


def _configuration(bundle: Bundle) -> Iterator[Problem]:
    """Resolve the experiment file again: thresholds and confidence of the decision stand in it."""
    experiment = bundle.experiment
    try:
        resolved = bundle.resolved().resolved
    except ExperimentError as error:
        yield Problem(f"{EXPERIMENT}/{experiment['config_file']}", one_line(error, 300))
        return
    recorded, computed = flat(experiment["config"]), flat(resolved)
    names = recorded.keys() | computed.keys() if bundle.same_version else recorded.keys() & computed.keys()
    for name in sorted(names):
        if not same(recorded.get(name), computed.get(name)):
            said, found = (one_line(repr(tree.get(name)), 80) for tree in (recorded, computed))
            yield Problem(RECORD, f"config.{name} is {said}, the experiment file gives {found}")


def _outputs(bundle: Bundle) -> Iterator[Problem]:
    for experiment in bundle.record["experiments"]:
        asked: dict[str, set[str]] = {}
        for arm, facts in experiment["arms"].items():
            answers = bundle.answers(experiment, arm)
            if digest([[answer["id"], answer["response"]] for answer in answers]) != facts["answers_sha256"]:
                yield Problem(
                    facts["outputs"], "its answers are not those that were judged (by the record's digest)"
                )
            asked[arm] = {answer["id"] for answer in answers}
        for rule, facts in (experiment["rules"] or {}).items():
            for arm in facts.get("scores") or {}:
                full, rows = judged_answers(facts, arm)
                if full in asked and not rows <= asked[full]:
                    yield Problem(RECORD, f"rule {rule!r} has scores for rows that {full} never answered")


def _evidence(bundle: Bundle) -> Iterator[Problem]:
    status = bundle.record["exit_status"]
    if status != 0:
        yield Problem(RECORD, f"the run was not green (exit status {status})")
    for text in unmet(bundle.experiment, bundle.record["tests"]):
        yield Problem(RECORD, text)


def _decision(bundle: Bundle) -> Iterator[Problem]:
    for found in contradictions(bundle.experiment, texts=bundle.same_version):
        yield Problem(RECORD, str(found))


def _runtimes(bundle: Bundle) -> Iterator[Problem]:
    """Compare the runtimes again, from the answers and outcomes of each."""

    def answers(arm: str) -> dict[str, Answer]:
        found = (Answer(**answer) for answer in bundle.answers(bundle.experiment, arm))
        return {answer.id: answer for answer in found}

    matches = [match.as_json() for match in runtime_matches(bundle.experiment, answers)]
    recorded, computed = (
        {match["second"]: match for match in found} for found in (bundle.experiment["runtime_match"], matches)
    )
    for second in computed.keys() & recorded.keys():
        if "moved" not in recorded[second]:  # kept before runtimes were paired
            computed[second].pop("moved", None)
    if not same(recorded, computed):
        yield Problem(RECORD, str(Contradiction("runtime_match", recorded, computed)))


def _statement(bundle: Bundle) -> Iterator[Problem]:
    named = {name: sha for name, sha in bundle.manifest.files.items() if name not in {STATEMENT, MANIFEST}}
    expected = statement(bundle.record, bundle.experiment, bundle.manifest.revision, named)
    if (bundle.folder / STATEMENT).read_bytes() != statement_json(expected):
        yield Problem(STATEMENT, "does not say what the record says")


def _views(bundle: Bundle) -> Iterator[Problem]:
    """Render note, card and page again; another version may word them otherwise."""
    if not bundle.same_version:
        return
    record, experiment = bundle.record, bundle.experiment
    views = {
        "decision.md": decision_note(record),
        "README.md": model_card(record, experiment, bundle.manifest.revision),
    }
    for name, text in views.items():
        if (bundle.folder / name).read_bytes() != text.encode("utf-8"):
            yield Problem(name, "does not say what the record says")
    if _page(bundle) not in (bundle.folder / "report.html").read_text(encoding="utf-8"):
        yield Problem("report.html", "does not show what the record says")


def _page(bundle: Bundle) -> str:
    answers: dict[str, dict[str, Sequence[Json]]] = {}
    for experiment in bundle.record["experiments"]:
        answers[experiment["name"]] = {
            arm: bundle.answers(experiment, arm) for arm in experiment["arms"] or {}
        }
    return summary_html(bundle.record, answers)
