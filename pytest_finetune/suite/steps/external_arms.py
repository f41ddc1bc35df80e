"""Arms from outside: what a stored adapter, an earlier bundle, another base or a file of answers brings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.answering.imported import imported_answers
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.bundle.format import MANIFEST, BundleError
from pytest_finetune.bundle.reading import adapter_problems, file_problems, open_bundle
from pytest_finetune.fingerprint import (
    BaseModelError,
    Key,
    adapter_digest,
    base_folder,
    configurations,
    own_quantization,
    sha256_of,
    weight_tensors,
)
from pytest_finetune.fingerprint.canonical import digest, plain
from pytest_finetune.training.artifact import ADAPTER, WHOLE_MODEL
from pytest_finetune.training.given import copy_adapter, given_folder
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import BaseDigest
    from pytest_finetune.store import Store

_SHOWN: Final = 12
_KEY: Final = re.compile("[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True)
class Outside:
    """What an arm brings: an adapter's folder, another base, or answers; and what the record says of it."""

    facts: Mapping[str, Any]
    adapter: Path | None = None
    experiment: Experiment | None = None
    answers: Mapping[str, Answer] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Project:
    """Where arms from outside are looked for, and what they must fit: the base model and the held-out rows."""

    experiment: Experiment
    store: Store
    base: Callable[[], BaseDigest]
    eval_rows: Rows


def outside_of(project: Project, plan: ArmPlan) -> Outside:
    """Return what an arm brings from outside, verified.

    What cannot be used is an AnsweringError or AnswersError that names the arm's key in the experiment.
    """
    return _FINDERS[plan.model](project, plan)


def _adapter(project: Project, plan: ArmPlan) -> Outside:
    """Find a stored adapter by its key or an unambiguous beginning of it, else in a folder."""
    return _stored(project, plan) if _KEY.fullmatch(str(plan.source)) else _given(project, plan)


def _given(project: Project, plan: ArmPlan) -> Outside:
    """Take an adapter that another tool trained into the store, without what lies beside it."""
    place = f"arms.{plan.name}.adapter"
    try:
        folder = given_folder(project.experiment, str(plan.source), place)
        sha256 = adapter_digest(folder)
        key = Key.of({"given": sha256, "base": project.base().training_parts()})
        entry = project.store.read("adapters", key)
        if entry is None:
            about: dict[str, Any] = {}

            def fill(into: Path) -> None:
                about["notes"] = list(copy_adapter(folder, into, project.experiment, place))

            entry = project.store.commit("adapters", key, fill, about)
    except TrainingError as error:
        raise AnsweringError(str(error)) from None
    return Outside({"path": str(plan.source), "adapter_sha256": sha256}, adapter=entry.path)


def _stored(project: Project, plan: ArmPlan) -> Outside:
    prefix = str(plan.source)
    store = project.store
    found = sorted(entry.key for entry in store.entries("adapters") if entry.key.startswith(prefix))
    place = f"arms.{plan.name}.adapter: {prefix!r}"
    if len(found) != 1:
        if found:
            why = f"is the beginning of {len(found)} keys ({', '.join(key[:_SHOWN] for key in found[:5])})"
        else:
            known = ", ".join(entry.key[:_SHOWN] for entry in store.entries("adapters")[:5]) or "none"
            why = f"is no adapter in the store {str(store.root)!r}; the newest there: {known}"
        raise AnsweringError(f"{place} {why}\n  pytest-finetune history lists the adapters with their keys")
    entry = store.read("adapters", found[0])
    if entry is None:
        raise AnsweringError(f"{place} is damaged and was set aside; train it again")
    _same_base(project, place, entry.fields.get("base"))
    return Outside({"key": entry.key, "adapter_sha256": adapter_digest(entry.path)}, adapter=entry.path)


def _bundle(project: Project, plan: ArmPlan) -> Outside:
    """Take the adapter of a promoted bundle whose every file is as its manifest says."""
    folder = (project.experiment.root / str(plan.source)).resolve()
    place = f"arms.{plan.name}.bundle: {plan.source!r}"
    if not (folder / MANIFEST).is_file():
        raise AnsweringError(f"{place} is no bundle: there is no {MANIFEST} in {str(folder)!r}")
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        raise AnsweringError(f"{place}: {error}: a changed bundle is not loaded") from None
    files = bundle.manifest.files
    if not {ADAPTER, WHOLE_MODEL} & files.keys():
        raise AnsweringError(f"{place}: its manifest lists neither {ADAPTER} nor {WHOLE_MODEL}")
    problems = file_problems(bundle) or adapter_problems(bundle)
    if problems:
        names = ", ".join(problem.place for problem in problems[:3])
        raise AnsweringError(
            f"{place}: {len(problems)} of {len(files)} files are not as promoted ({names}): a changed bundle is not "
            f"loaded\n  {problems[0]}"
        )
    _same_base(project, place, _bundled_base(bundle))
    return Outside(
        {"path": str(plan.source), "adapter_sha256": bundle.manifest.adapter_sha256}, adapter=folder
    )


def _bundled_base(bundle: Bundle) -> Any:
    """Return the base's digests from the record in a bundle, None when it does not say."""
    try:
        return bundle.experiment["key_fields"]["base"]
    except (BundleError, LookupError, TypeError):
        return None


def _same_base(project: Project, place: str, base: Any) -> None:
    """Refuse an adapter of another base: PEFT puts it on without a word where the shapes agree."""
    if base is not None and digest(base) != digest(plain(project.base().training_parts())):
        raise AnsweringError(
            f"{place} was trained on another base model than {project.experiment.base_model!r}, so its answers on this "
            "one say nothing\n  import its own answers: arms.<name>: {answers: FILE}"
        )


def _other_base(project: Project, plan: ArmPlan) -> Outside:
    """Return the experiment with another base, once its files can be loaded as the arm says."""
    given, prompt = project.experiment.arms[plan.name], project.experiment.prompt
    arguments = given.chat_template_kwargs
    other = dataclasses.replace(
        project.experiment,
        base_model=str(plan.source),
        revision=given.revision,
        quantization=given.quantization or project.experiment.quantization,
        prompt=prompt if arguments is None else dataclasses.replace(prompt, chat_template_kwargs=arguments),
    )
    try:
        folder = base_folder(other)
        weight_tensors(folder)
        own = own_quantization(configurations(folder).get("config.json", {}))
    except BaseModelError as error:
        raise AnsweringError(f"arms.{plan.name}.base_model: {error}") from None
    trouble = own and own.contradicts(other.quantization)
    if trouble:
        raise AnsweringError(
            f"arms.{plan.name}.base_model: {other.base_model!r} {trouble}\n  write quantization: none in the arm: it "
            "answers as it is stored"
        )
    return Outside({"base_model": other.base_model, "revision": other.revision}, experiment=other)


def _answers(project: Project, plan: ArmPlan) -> Outside:
    given = project.experiment.arms[plan.name]
    path = project.experiment.path(str(plan.source))
    answers, by = imported_answers(path, str(plan.source), given.format, project.eval_rows)
    sha256 = sha256_of(path)
    facts = {"path": str(plan.source), "format": given.format, "sha256": sha256, "joined_by": by}
    return Outside(facts, answers=answers)


_FINDERS: Final = {"adapter": _adapter, "bundle": _bundle, "base_model": _other_base, "answers": _answers}
