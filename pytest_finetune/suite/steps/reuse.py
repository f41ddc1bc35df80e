"""Adapters of other environments, taken only when asked; and what a retraining changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers
from pytest_finetune.answering.arm_plans import TRIVIAL
from pytest_finetune.fingerprint import adapter_digest, model_digest
from pytest_finetune.training.difference import largest_difference

if TYPE_CHECKING:
    from pytest_finetune.fingerprint import BaseDigest, Key
    from pytest_finetune.store import Entry, Store
    from pytest_finetune.suite.options import Settings


def find(settings: Settings, store: Store, key: Key) -> Entry | None:
    """Return the stored adapter: of this very key, or with ``--finetune-reuse=semantic`` of the same experiment
    in another environment, the newest first.
    """
    if settings.retrain:
        return None
    exact = store.read("adapters", key)
    if exact is not None or settings.reuse != "semantic":
        return exact
    found = (store.read("adapters", entry.key) for entry in store.alike("adapters", key))
    return next((entry for entry in found if entry is not None), None)


def facts(key: Key, entry: Entry, *, reused: bool) -> dict[str, Any]:
    """Return for the record how an adapter was reused, and what differs from the environment that made it."""
    if not reused:
        return {"reuse": None, "reused_from": {}, "adapter_key": entry.key}
    differs = (
        {name: list(pair) for name, pair in key.differs_from(entry.fields).items()} if entry.fields else {}
    )
    kind = "exact" if entry.key == key.value else "semantic"
    return {"reuse": kind, "reused_from": differs if kind == "semantic" else {}, "adapter_key": entry.key}


def compared(base: BaseDigest, quantization: str, before: Entry, folder: Path) -> dict[str, Any]:
    """Compare what was trained anew with the stored adapter that it replaces."""
    was = adapter_digest(before.path)
    return {
        "before_sha256": was,
        "before_model": model_digest(base, before.path, quantization=quantization),
        "same_weights": was == adapter_digest(folder),
        "largest_difference": largest_difference(before.path, folder),
    }


def with_changed_answers(store: Store, tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add to a retraining how many of the tuned arm's answers changed; None where the old ones are not stored."""
    retrained = (tree.get("training") or {}).get("retrained")
    key = tree.get("arms", {}).get("tuned", {}).get("outputs_key")
    if retrained is None or key is None:
        return tree
    new = store.read("outputs", key)
    old = new if retrained["same_weights"] else _twin(store, new, retrained["before_model"])
    changed = None
    if new is not None and old is not None:
        was, now = _responses(old), _responses(new)
        changed = sum(was.get(id_) != text for id_, text in now.items())
    answered = {**retrained, "answers_changed": changed, "answers": tree["arms"]["tuned"].get("answers")}
    return {**tree, "training": {**tree["training"], "retrained": answered}}


def _twin(store: Store, entry: Entry | None, model: str) -> Entry | None:
    """Return the stored answers of another model to the same questions, asked in the same way."""
    if entry is None:
        return None
    wanted = {**entry.fields, "model": model}
    found = next((other for other in store.entries("outputs") if other.fields == wanted), None)
    return None if found is None else store.read("outputs", found.key)


def _responses(entry: Entry) -> dict[str, str]:
    return {answer.id: answer.response for answer in read_answers(entry.path / ANSWERS_FILE)}


def answered_elsewhere(store: Store, experiment: Mapping[str, Any], here: Mapping[str, str]) -> Iterator[str]:
    """Yield why an adapter from another environment cannot be promoted: answers that were not produced in `here`."""
    if (experiment["training"] or {}).get("reuse") != "semantic":
        return
    asked = {arm: said for arm, said in experiment["arms"].items() if said["model"] not in TRIVIAL}
    for arm, said in asked.items():
        entry = store.read("outputs", said["outputs_key"])
        if entry is None or entry.fields.get("environment") != here:
            yield (
                f"{experiment['name']}: the adapter comes from another environment, and the answers of {arm} were not "
                "produced in this one: run pytest --finetune --finetune-reuse=semantic here"
            )
