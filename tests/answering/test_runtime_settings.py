"""Runtimes in the experiment file: what may be written, and what each mistake says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment
from pytest_finetune.experiment.runtimes import GgufSettings, MergedSettings, ServerSettings
from pytest_finetune.experiment.serve_command import filled, untaken

EXPERIMENT = """\
base_model: base
peft_method: lora
lora: {r: 4}
training: {num_train_epochs: 1}
prompt: {template: TEMPLATE}
paths: {train_file: train.jsonl, eval_file: eval.jsonlSUITES}
runtimes: RUNTIMES
"""
SERVE = "{openai: {serve: 'serve {model} --port {port}'}}"


def load(
    root: Path, runtimes: str, template: str = "'{input} ->'", suites: str = "", text: str = EXPERIMENT
) -> Experiment:
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).touch()
    (root / "base").mkdir(exist_ok=True)
    text = text.replace("RUNTIMES", runtimes).replace("TEMPLATE", template).replace("SUITES", suites)
    (root / "finetune.yaml").write_text(text)
    return load_experiment(root, "finetune.yaml", {})


def test_a_name_a_merged_model_and_servers_can_stand_side_by_side(tmp_path: Path) -> None:
    url = "{name: prod, openai: {url: 'http://127.0.0.1:8000/v1', model: m, retries: 0}}"
    experiment = load(
        tmp_path, f"[transformers, merged, mine, {{merged: {{dtype: float16}}, name: half}}, {SERVE}, {url}]"
    )
    assert experiment.runtimes == ("transformers", "merged", "mine", "half", "openai", "prod")
    settings: dict[str, Any] = dict(experiment.runtime_settings)
    assert settings == {
        "merged": MergedSettings(),
        "half": MergedSettings("float16"),
        "openai": ServerSettings(serve=("serve", "{model}", "--port", "{port}")),
        "prod": ServerSettings(url="http://127.0.0.1:8000/v1", model="m", retries=0),
    }


def test_a_gguf_is_named_by_its_quantisation_and_recorded_as_it_can_be_written_again(tmp_path: Path) -> None:
    experiment = load(tmp_path, "[transformers, {name: shipped, gguf: Q4_K_M}, {gguf: f16, adapter: lora}]")
    assert experiment.runtimes == ("transformers", "shipped", "gguf")
    assert experiment.runtime_settings["shipped"] == GgufSettings("q4_k_m")
    assert experiment.runtime_settings["gguf"] == GgufSettings("f16", "llama.cpp", "lora")
    written = experiment.resolved["runtimes"][1]
    assert written["gguf"] == "q4_k_m"
    assert load(tmp_path, f"[transformers, {json.dumps(written)}]").resolved["runtimes"][1] == written


def test_an_adapter_of_its_own_needs_an_adapter(tmp_path: Path) -> None:
    full = EXPERIMENT.replace("lora: {r: 4}\n", "").replace("method: lora", "method: full")
    with pytest.raises(ExperimentError, match=r"a full fine-tune has no adapter.*leave `adapter` out"):
        load(tmp_path, "[transformers, {gguf: f16, adapter: lora}]", text=full)
    dora = EXPERIMENT.replace("method: lora", "method: dora")
    with pytest.raises(ExperimentError, match="holds no DoRA magnitudes"):
        load(tmp_path, "[transformers, {gguf: f16, adapter: lora}]", text=dora)


def test_the_record_holds_every_setting(tmp_path: Path) -> None:
    resolved = load(tmp_path, f"[transformers, merged, {SERVE}]").resolved["runtimes"]
    assert resolved[:2] == ["transformers", {"name": "merged", "merged": {"dtype": "auto"}}]
    assert resolved[2]["name"] == "openai"
    assert resolved[2]["openai"]["serve"] == ["serve", "{model}", "--port", "{port}"]
    assert resolved[2]["openai"]["timeout_s"] == 120


def test_a_command_is_split_once_and_filled_after_that() -> None:
    command = ("serve", "{model}", "--at={host}:{port}")
    assert filled(command, {"model": "a b {port}", "host": "127.0.0.1", "port": "8001"}) == [
        "serve",
        "a b {port}",
        "--at=127.0.0.1:8001",
    ]


@pytest.mark.parametrize(
    ("runtimes", "told"),
    [
        ("[openai]", "'openai' needs a server: write {openai: {url: ...}} or {openai: {serve: ...}}"),
        ("[{name: x}]", "found none of 'merged', 'openai' and 'gguf': a runtime is exactly one of them"),
        ("[{gguf: f16, merged: }]", "found 'merged' and 'gguf' of 'merged', 'openai' and 'gguf'"),
        ("[gguf]", "'gguf' needs a quantisation: write {gguf: q4_k_m}"),
        (
            "[a, {gguf: q4_km}]",
            "runtimes[1].gguf: found 'q4_km'; did you mean 'q4_k_m'? known: f32, bf16, f16, ",
        ),
        ("[{gguf: Q4}]", "found 'Q4'; did you mean 'q4_k_m'? known: "),
        ("[{gguf: int4}]", "found 'int4', known: f32, bf16, f16, q8_0, q6_k, q5_k_m"),
        ("[{gguf: /models/a.gguf}]", "write a quantisation and no file, which is made of the tuned model"),
        (
            "[{gguf: q8_0, file: a}]",
            "unknown key; known here: adapter, gguf, name, server, start_timeout_s, time",
        ),
        (
            "[{ggfu: q8_0}]",
            "runtimes[0].ggfu: unknown key; did you mean 'gguf'? known here: gguf, merged, name, o",
        ),
        (
            "[a, {merged: , dtype: float16}]",
            "runtimes[1].dtype: belongs below 'merged': write {merged: {dtype: ",
        ),
        (
            "[{name: a, url: 'http://h'}]",
            "runtimes[0].url: belongs below 'openai': write {openai: {url: ...}}",
        ),
        ("[a, a]", "runtimes: found 'a' (text) more than once: write it once"),
        (
            "[{gguf: q8_0, server: vllm}]",
            "found 'vllm' (text), allowed: llama.cpp, ollama; any other server (vLLM, SGLang, TGI) is a runtime of its "
            "own in place of 'gguf': write {openai: {serve: ...}} with the command",
        ),
        ("[{gguf: q8_0, server: tgi}]", "ollama; any other server (vLLM, SGLang, TGI) is a runtime"),
        ("[{gguf: q8_0, server: olama}]", "allowed: llama.cpp, ollama; did you mean 'ollama'?"),
        ("[{gguf: q8_0, server: llama-cpp}]", "allowed: llama.cpp, ollama; did you mean 'llama.cpp'?"),
        ("[{merged: , adapter: lora}]", "runtimes[0].adapter: belongs to a runtime with 'gguf'"),
        ("[a, {openai: {url: 'http://h'}, timeout_s: 9}]", "openai has a `timeout_s` of its own, below it"),
        ("[{openai: {}}]", "found neither of 'url' and 'serve': name a server that runs, or a command that"),
        ("[a, {openai: {url: 'http://h', serve: 's {port}'}}]", "found both of 'url' and 'serve'"),
        ("[{openai: {serve: 'vllm serve {model}'}}]", "has no {port}: the server is asked on a free port"),
        (
            "[{openai: {serve: 'vllm {models} {port}'}}]",
            "unknown placeholder {models}; known: {model}, {base}, {adapter}, {host}",
        ),
        ('[{openai: {serve: "vllm \'x {port}"}}]', "which cannot be split into words: No closing quotation"),
        ("[a, {openai: {url: 'ftp://host'}}]", "found 'ftp://host', allowed: http://... or https://..."),
        ("[a, {openai: {url: 'http://u:p@host'}}]", "holds a user name or password: name an environment"),
        ("[a, {openai: {url: 'http://host/v1?a=1'}}]", "write the base address alone"),
        ("[{openai: {url: 'http://host'}}]", "write base_model, the name under which this server knows it"),
        ("[a, {openai: {url: 'http://h', extra: {temperature: 1}}}]", "extra.temperature: is set by us"),
        ("[a, {openai: {url: 'http://h', api_key_env: sk-123}}]", "write the variable that holds the key"),
        ("[a, {openai: {url: 'http://h', retries: -1}}]", "runtimes[1].openai.retries"),
        ("[a, {openai: {url: 'http://h', modle: m}}]", "modle"),
        (
            "[{openai: {serve: 'serve {base} {port}'}}]",
            "names {base} and no {adapter}: the tuned model would not",
        ),
        (
            "[{openai: {serve: 'serve {model} --lora t={adapter} {port}', model: t}}]",
            "names both {model} and {adapter}: {model} is the merged model, with the adapter in it already",
        ),
        (
            "[{openai: {serve: 's --lora t={adapter} {port}', model: t}}]",
            "and no {base}: the adapter is served",
        ),
        ("[{openai: {serve: 's {base} t={adapter} {port}'}}]", "knows an adapter by its name: write model"),
        (
            "[{openai: {serve: 's {base} t={adapter} {port}', model: tuned}}]",
            "gives the adapter the name 't', and model is 'tuned': write the same in both",
        ),
        ("[a, {openai: {url: 'http://h', model: m, base_model: m}}]", "need two names"),
        ("[a, {merged: {dtype: int8}}]", "runtimes[1].merged.dtype: found 'int8'"),
        ("[merged, {merged: }]", "'merged' is the name of an earlier runtime: give each its own `name`"),
        ("[a, {name: transformers, merged: }]", "'transformers' is the name of the built-in runtime"),
        ("[a, {name: 'a/b', merged: }]", "found 'a/b': letters, digits, dots, dashes and underscores"),
    ],
)
def test_a_mistake_names_its_line_and_what_to_write(tmp_path: Path, runtimes: str, told: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, runtimes)
    assert told in str(caught.value)
    assert "finetune.yaml:7" in str(caught.value)
    assert "sk-123" not in str(caught.value)


def test_a_server_with_two_models_cannot_answer_for_a_third(tmp_path: Path) -> None:
    server = "[{openai: {url: 'http://h', base_model: b}}]"
    with pytest.raises(
        ExperimentError, match="it cannot answer for the arm 'champion'; start it by a command"
    ):
        load(tmp_path, server + "\narms: {champion: {adapter: abcdef}}")
    assert load(tmp_path, f"[{SERVE}]\narms: {{champion: {{adapter: abcdef}}}}").runtimes == ("openai",)


def test_a_server_that_knows_the_adapter_by_name_answers_for_every_adapter_that_it_can_take(
    tmp_path: Path,
) -> None:
    vllm = "vllm serve {base} --enable-lora --lora-modules tuned={adapter} --port {port}"
    arms = "arms: {champion: {adapter: abcdef}}"
    experiment = load(tmp_path, f"[{{openai: {{serve: '{vllm}', model: tuned}}}}]\n{arms}")
    settings = experiment.runtime_settings["openai"]
    assert isinstance(settings, ServerSettings)
    assert (settings.takes_adapter, settings.knows_two_models) == (True, False)
    assert list(untaken(settings.serve, "lora", 64)) == [
        "vLLM takes adapters of rank 16 at most here, and lora.r is 64: add --max-lora-rank 64"
    ]
    assert not list(untaken((*settings.serve, "--max-lora-rank", "64"), "lora", 64))
    assert next(iter(untaken(settings.serve, "dora", 8))).startswith("vLLM takes no DoRA adapter: serve the")
    with pytest.raises(ExperimentError, match=r"openai.serve: vLLM takes adapters of rank 2 at most here"):
        load(tmp_path, f"[{{openai: {{serve: '{vllm} --max-lora-rank 2', model: tuned}}}}]")


def test_a_runtime_and_a_suite_need_two_names(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(ExperimentError, match="'merged' is the name of a suite too"):
        load(tmp_path, "[transformers, merged]", suites=", suites: {merged: other.jsonl}")


def test_the_page_names_every_setting_and_its_example_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text(encoding="utf-8")
    table = page[page.index("| key |") : page.index("A server that is started")]
    named = set(
        re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line[:1] == "|"))
    )
    assert named == {field.name for field in dataclasses.fields(ServerSettings)}
    example = page[page.index("```yaml") + 7 : page.index("```\n\n| runtime")].replace("runtimes:", "", 1)
    assert load(tmp_path, example).runtimes == ("transformers", "merged", "prod", "shipped")
