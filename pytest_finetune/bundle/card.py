"""The model card of a bundle: README.md as the Hugging Face Hub reads it, from the record alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.markdown import code, plain, table
from pytest_finetune.wording import arm_word, figure, gain_words, one_line, percent, rate_span

_LICENSE_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")


def model_card(record: Json, experiment: Json, revision: str | None) -> str:
    """Render the card; `revision` is the commit of a hub base, None for a base that is a folder."""
    import yaml

    header = yaml.safe_dump(
        _metadata(experiment, revision), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return f"---\n{header}---\n\n" + "\n".join(_body(record, experiment, revision)).rstrip() + "\n"


def _metadata(experiment: Json, revision: str | None) -> dict[str, Any]:
    config, charter = reading.part(experiment, "config"), reading.part(experiment, "charter")
    method = one_line(reading.text(config, "peft_method", "lora"))
    library, relation = ("transformers", "finetune") if method == "full" else ("peft", "adapter")
    metadata: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if revision is not None:  # the Hub takes ids of the Hub only
        metadata |= {"base_model": one_line(config["base_model"]), "base_model_relation": relation}
    metadata |= _license(reading.text(charter, "base_license"))
    metadata["tags"] = ["pytest-finetune", method]
    results = _results(experiment)
    if results:
        metadata["model-index"] = [{"name": one_line(_task(experiment)), "results": results}]
    return metadata


def _license(named: str) -> dict[str, str]:
    word = named.strip().lower()
    if _LICENSE_ID.fullmatch(word):
        return {"license": word}
    return {"license": "other", "license_name": one_line(named, 80) or "not stated"}


def _results(experiment: Json) -> list[dict[str, Any]]:
    """Return the tuned arm's rates as model-index results, one for each rule."""
    checksums = reading.part(experiment, "checksums")
    found = []
    for rule in reading.rules(experiment):
        suite = reading.text(reading.part(experiment, "rules", rule), "suite")
        arm = f"tuned@{suite}" if suite else "tuned"
        rate = reading.number(reading.part(experiment, "arms", arm, "rules", rule), "rate")
        if rate is None:
            continue
        file = reading.part(checksums, "suites", suite) if suite else reading.part(checksums, "eval")
        dataset = {
            "name": one_line(reading.text(file, "path", "held-out rows")),
            "type": "private",
            "revision": one_line(reading.text(file, "sha256", "unknown")),
        }
        metric = {"type": "pass_rate", "name": one_line(rule), "value": round(rate, 6)}
        found.append(
            {
                "task": {"type": "text-generation", "name": one_line(_task(experiment))},
                "dataset": dataset,
                "metrics": [metric],
            }
        )
    return found


def _task(experiment: Json) -> str:
    return reading.text(experiment, "task", reading.text(experiment, "name", "experiment"))


def _body(record: Json, experiment: Json, revision: str | None) -> list[str]:
    config, charter = reading.part(experiment, "config"), reading.part(experiment, "charter")
    decision, lora = reading.part(experiment, "decision"), reading.part(config, "lora")
    reasons = reading.listed(decision, "reasons") or ["no reason was recorded"]
    base = code(reading.text(config, "base_model", "unknown"))
    method = reading.text(config, "peft_method", "unknown")
    pinned = f" at {code(revision)}" if revision else ""
    return [
        f"# {plain(_task(experiment))}",
        "",
        plain(reading.text(charter, "behaviour", "No behaviour is stated in the charter.")),
        "",
        f"Decision: **{plain(reading.text(decision, 'verdict', 'none'))}**. {plain(reasons[0])}",
        "",
        *_evidence(experiment),
        *_risks(decision),
        "## Made from",
        "",
        f"- base {base}{pinned}, stored as {plain(reading.text(config, 'quantization', 'none'))}",
        f"- method {plain(method)}" + (f", rank {plain(lora.get('r'))}" if method != "full" else ""),
        f"- experiment key {code(reading.text(experiment, 'key', 'none'))}",
        *_files(reading.part(experiment, "checksums")),
        f"- licence of the base: {plain(reading.text(charter, 'base_license', 'not stated'))}, "
        f"of the data: {plain(reading.text(charter, 'data_license', 'not stated'))}; "
        f"personal data: {plain(reading.text(charter, 'personal_data', 'not stated'))}",
        f"- owner: {plain(reading.text(charter, 'owner', 'not stated'))}; "
        f"retire when: {plain(reading.text(charter, 'retire_when', 'not stated'))}",
        f"- pytest-finetune {code(reading.text(record, 'plugin_version', 'unknown'))}, "
        f"{plain(reading.text(record, 'created', 'no date'))}",
        "",
        "## Use",
        "",
        "```python",
        *_loading(method, config["base_model"], revision),
        "```",
        "",
        "`pytest-finetune verify .` checks every file here and computes the decision again from its per-row outcomes. "
        "Evidence: `decision.md`, `report.html`, `record.json`, `outputs/`.",
    ]


def _loading(method: str, base: object, revision: str | None) -> list[str]:
    if method == "full":
        return [
            "from transformers import AutoModelForCausalLM",
            "",
            'model = AutoModelForCausalLM.from_pretrained(".")  # this folder',
        ]
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({_literal(base)}{_revision(revision)})",
        'model = PeftModel.from_pretrained(base, ".")  # this folder',
    ]


def _revision(revision: str | None) -> str:
    return f", revision={_literal(revision)}" if revision else ""


def _literal(text: object) -> str:
    """Write foreign text as a Python string that stays inside its fence."""
    return ascii(one_line(text)).replace("`", "\\x60")


def _evidence(experiment: Json) -> list[str]:
    arms = [arm for arm in reading.arms(experiment) if "@" not in arm]
    rows = []
    for rule in reading.rules(experiment):
        facts = reading.part(experiment, "rules", rule)
        suite = reading.text(facts, "suite")
        cells = [_rate(experiment, f"{arm}@{suite}" if suite else arm, rule) for arm in arms]
        name = plain(rule) + (" (primary)" if facts.get("primary") else "")
        rows.append([name, *cells, plain(reading.text(facts, "outcome", "not recorded"))])
    head = ["rule", *(plain(arm_word(arm)) for arm in arms), "outcome"]
    main = reading.primary(experiment)
    gains = [
        f"- {plain(pair.get('rule'))} over {plain(arm_word(reading.text(pair, 'against')))}: "
        f"{gain_words(reading.number(pair, 'gain'), reading.span(pair, 'interval'))}, "
        f"one-sided p = {figure(reading.number(pair, 'p_value'), 2)}"
        for pair in reading.comparisons(experiment)
        if pair.get("rule") == main
    ]
    return ["## Evidence", "", *table(head, rows), "", *gains, *([""] if gains else [])]


def _rate(experiment: Json, arm: str, rule: str) -> str:
    score = reading.part(experiment, "arms", arm, "rules", rule)
    rate = reading.number(score, "rate")
    return (
        "not run"
        if rate is None
        else f"{percent(rate)} {rate_span(reading.span(score, 'interval'))}".rstrip()
    )


def _risks(decision: Json) -> list[str]:
    risks = [f"- {plain(risk)}" for risk in reading.listed(decision, "risks")]
    return ["## Known risks", "", *risks, ""] if risks else []


def _files(checksums: Json) -> list[str]:
    named: Mapping[str, Any] = {**{k: v for k, v in checksums.items() if k != "suites"}}
    named = {**named, **{f"suite {k}": v for k, v in reading.part(checksums, "suites").items()}}
    return [
        f"- {plain(name)} file {code(reading.text(facts, 'path'))}, "
        f"sha256 {code(reading.text(facts, 'sha256', 'none'))}"
        for name, facts in sorted(named.items())
        if isinstance(facts, Mapping)
    ]
