"""The model card of a bundle: README.md as the Hugging Face Hub reads it, from the record alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_finetune.answering.runtimes.server.neutral import as_flags
from pytest_finetune.bundle.shipped import MODEL, MODELFILE
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.experiment import Generation
from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.recipes import seed_count, sentences
from pytest_finetune.record.tables import rates_by_suite
from pytest_finetune.record.views.markdown import code, plain, table
from pytest_finetune.wording import arm_word, counted, figure, gain_words, one_line

_LICENSE_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")


def model_card(record: Json, experiment: Json, revision: str | None) -> str:
    """Render the card; `revision` is the commit of a hub base, None for a base that is a folder."""
    import yaml

    run, one = RecordedRun.of(record), RecordedExperiment.of(experiment)
    header = yaml.safe_dump(
        _metadata(one, revision), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return f"---\n{header}---\n\n" + "\n".join(_body(run, one, revision)).rstrip() + "\n"


def _metadata(experiment: RecordedExperiment, revision: str | None) -> dict[str, object]:
    method = one_line(experiment.config.peft_method or "lora")
    library, relation = ("transformers", "finetune") if method == "full" else ("peft", "adapter")
    metadata: dict[str, object] = {"library_name": library, "pipeline_tag": "text-generation"}
    if revision is not None:  # the Hub takes ids of the Hub only
        metadata |= {"base_model": one_line(experiment.config.base_model), "base_model_relation": relation}
    metadata |= _license(experiment.charter.base_license)
    metadata["tags"] = ["pytest-finetune", method]
    results = _results(experiment)
    if results:
        metadata["model-index"] = [{"name": one_line(experiment.title), "results": results}]
    return metadata


def _license(named: str) -> dict[str, str]:
    word = named.strip().lower()
    if _LICENSE_ID.fullmatch(word):
        return {"license": word}
    return {"license": "other", "license_name": one_line(named, 80) or "not stated"}


def _results(experiment: RecordedExperiment) -> list[dict[str, object]]:
    """Return the tuned arm's rates as model-index results, one for each rule."""
    found: list[dict[str, object]] = []
    for rule, (tuned,) in rates_by_suite(experiment, ["tuned"]):
        if tuned.score.rate is None:
            continue
        file = experiment.files[f"suite {rule.suite}" if rule.suite else "eval"]
        found.append(
            {
                "task": {"type": "text-generation", "name": one_line(experiment.title)},
                "dataset": {
                    "name": one_line(file.path or "held-out rows"),
                    "type": "private",
                    "revision": one_line(file.sha256 or "unknown"),
                },
                "metrics": [
                    {"type": "pass_rate", "name": one_line(rule.name), "value": round(tuned.score.rate, 6)}
                ],
            }
        )
    return found


def _body(run: RecordedRun, experiment: RecordedExperiment, revision: str | None) -> list[str]:
    config, charter, decision = experiment.config, experiment.charter, experiment.decision
    reasons = decision.reasons or ("no reason was recorded",)
    base, method = code(config.base_model or "unknown"), config.peft_method or "unknown"
    pinned = f" at {code(revision)}" if revision else ""
    return [
        f"# {plain(experiment.title)}",
        "",
        plain(charter.behaviour or "No behaviour is stated in the charter."),
        "",
        f"Decision: **{plain(decision.verdict or 'none')}**. {plain(reasons[0])}",
        "",
        *_evidence(experiment),
        *_risks(decision.risks),
        "## Made from",
        "",
        f"- base {base}{pinned}, stored as {plain(config.quantization or 'none')}",
        f"- method {plain(method)}" + (f", rank {plain(config.lora.get('r'))}" if method != "full" else ""),
        *_shipped(experiment),
        f"- experiment key {code(experiment.key or 'none')}",
        *(
            f"- {plain(file.name)} file {code(file.path)}, sha256 {code(file.sha256 or 'none')}"
            for file in experiment.files.values()
        ),
        f"- licence of the base: {plain(charter.base_license or 'not stated')}, "
        f"of the data: {plain(charter.data_license or 'not stated')}; "
        f"personal data: {plain(charter.personal_data or 'not stated')}",
        f"- owner: {plain(charter.owner or 'not stated')}; "
        f"retire when: {plain(charter.retire_when or 'not stated')}",
        f"- pytest-finetune {code(run.plugin_version or 'unknown')}, {plain(run.created or 'no date')}",
        "",
        "## Use",
        "",
        "```python",
        *_loading(method, config.base_model, revision),
        "```",
        "",
        *_serving(experiment),
        "`pytest-finetune verify .` checks every file here and computes the decision again from its per-row outcomes. "
        "Evidence: `decision.md`, `report.html`, `record.json`, `outputs/`.",
    ]


def _shipped(experiment: RecordedExperiment) -> list[str]:
    file = experiment.arms["tuned"].gguf
    if not file.sha256:
        return []
    return [
        f"- judged and shipped as {code(MODEL)}: {plain(file.says)}, sha256 {code(file.sha256)}, "
        + plain(f"converted by llama.cpp {file.converter}, answered by {file.server}")
    ]


def _serving(experiment: RecordedExperiment) -> list[str]:
    """Say how the file that was judged is served, as it was served then."""
    file = experiment.arms["tuned"].gguf
    if not file.sha256:
        return []
    name = re.sub(r"[^a-z0-9-]+", "-", one_line(experiment.name).lower()).strip("-") or "tuned"
    added = " --lora gguf/adapter.gguf" if file.adapter == "lora" else ""
    if file.modelfile:
        served, asked = f"ollama create {name} -f {MODELFILE}", []
    else:
        served = f"llama-server --model {MODEL}{added} --jinja {_decoding(experiment)}"
        asked = _asked(_part(experiment, "prompt").get("template"))
    return ["The answers of the decision came from the GGUF file:", "", "```sh", served, "```", "", *asked]


def _decoding(experiment: RecordedExperiment) -> str:
    """Return the decision's decoding as flags of llama-server, which fills in its own where none is given."""
    names = ("max_new_tokens", "do_sample", "temperature", "top_p")
    found = _part(experiment, "generation")
    told: dict[str, Any] = {name: found[name] for name in names if isinstance(found.get(name), int | float)}
    return as_flags(Generation(**told))


def _asked(template: object) -> list[str]:
    """Say how a text prompt is asked: the server's chat would put the base's template around it."""
    if not isinstance(template, str) or template == CHAT:
        return []
    told = "Ask `/v1/completions`, not the chat, with each prompt made by this template:"
    return [told, "", "```json", json.dumps(template).replace("`", "\\u0060"), "```", ""]


def _part(experiment: RecordedExperiment, name: str) -> Json:
    found = experiment.config.raw.get(name)
    return found if isinstance(found, Mapping) else {}


def _loading(method: str, base: str, revision: str | None) -> list[str]:
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


def _literal(text: str) -> str:
    """Write foreign text as a Python string that stays inside its fence."""
    return ascii(one_line(text)).replace("`", "\\x60")


def _evidence(experiment: RecordedExperiment) -> list[str]:
    arms = [arm for arm in experiment.arms if "@" not in arm]
    main = experiment.primary
    rows = [
        [
            plain(rule.name) + (" (primary)" if rule.primary else ""),
            *(rate.words for rate in found),
            plain(rule.outcome or "not recorded"),
        ]
        for rule, found in rates_by_suite(experiment, arms)
    ]
    head = ["rule", *(plain(arm_word(arm)) for arm in arms), "outcome"]
    gains = [
        f"- {plain(main.name)} over {plain(arm_word(pair.against))}: {gain_words(pair.gain, pair.interval)}, "
        f"one-sided p = {figure(pair.p_value, 2)}"
        for pair in experiment.over_other_models
        if main and pair.rule == main.name
    ]
    told = [*gains, *_recipe(experiment)]
    return ["## Evidence", "", *table(head, rows), "", *told, *([""] if told else [])]


def _recipe(experiment: RecordedExperiment) -> list[str]:
    """Say on how many seeds this adapter rests, and what they show together."""
    seeds, said = seed_count(experiment), [plain(text) for text in sentences(experiment)[:1]]
    if seeds == 1:
        return [f"- {text}" for text in said]
    trained = f"trained with {counted(seeds, 'seed')}, this adapter with seed {plain(experiment.recipe.seed)}"
    return [f"- {trained}: {text}" for text in said]


def _risks(found: Sequence[str]) -> list[str]:
    risks = [f"- {plain(risk)}" for risk in found]
    return ["## Known risks", "", *risks, ""] if risks else []
