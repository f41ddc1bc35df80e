"""The in-toto statement of a bundle: which adapter was promoted, on what decision, from which data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.bundle.format import input_files
from pytest_finetune.bundle.shipped import told
from pytest_finetune.fingerprint.sealed import json_text
from pytest_finetune.training.artifact import ADAPTER_CONFIG, MODEL_CONFIG
from pytest_finetune.yamlfile import Json

STATEMENT: Final = "promotion.intoto.json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://github.com/pytest-finetune/pytest-finetune/promotion/v1"
# in-toto leaves the names of further digests open: this one covers weights and canonical configuration.
ADAPTER_DIGEST: Final = "pytest_finetune_adapter"


def statement(
    record: Json,
    experiment: Json,
    revision: str | None,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return the statement (in-toto v1) over a bundle whose `files` have these digests.

    The subjects are the adapter's files (or those of a model that was trained in full) and the GGUF file that was
    judged, for generic tools, and the adapter as a whole, by our digest.
    """
    decision, training, config = (experiment[part] for part in ("decision", "training", "config"))
    configuration = MODEL_CONFIG if config["peft_method"] == "full" else ADAPTER_CONFIG
    adapter_files = [
        name for name in sorted(files) if name.endswith((".safetensors", ".gguf")) or name == configuration
    ]
    subjects = [{"name": name, "digest": {"sha256": files[name]}} for name in adapter_files]
    whole = {"name": "adapter", "digest": {ADAPTER_DIGEST: training["adapter_sha256"]}}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [whole, *subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "experiment": experiment["name"],
            "task": experiment["task"],
            "experimentKey": experiment["key"],
            "decision": {
                "verdict": decision["verdict"],
                "reasons": list(decision["reasons"]),
                "look": decision["looks"],
                "alpha": decision["alpha"],
                "rulesSha256": decision["rules_sha256"],
            },
            "baseModel": {"name": config["base_model"], "revision": revision},
            **told(experiment),
            "materials": _materials(experiment["checksums"]),
            "evidence": [
                {"name": name, "digest": {"sha256": files[name]}}
                for name in sorted(files)
                if name == "record.json" or name.startswith("outputs/")
            ],
            "producer": {"name": "pytest-finetune", "version": record.get("plugin_version")},
            "createdOn": record["created"],
        },
    }


def statement_json(content: Json) -> bytes:
    """Render a statement; the same one always has the same bytes."""
    return json_text(content, indent=2)


def _materials(checksums: Json) -> list[dict[str, Any]]:
    """Return the files that the run read, as in-toto resource descriptors."""
    return [
        {"name": name, "uri": facts["path"], "digest": {"sha256": facts["sha256"]}}
        for name, facts in sorted(input_files(checksums, "suite ").items())
        if facts.get("sha256")
    ]
