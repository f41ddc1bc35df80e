"""A bundle of a decision that a GGUF file has answered: it holds the file that was judged, and says so everywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from pytest_finetune.answering.answers import read_answers
from pytest_finetune.bundle.card import model_card
from pytest_finetune.cli import main

from .bundles import doctor, mend, new_project, promote, seal

CONTENT = b"GGUF" + bytes(range(64))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADAPTER = b"GGUF" + bytes(range(9))
ADAPTER_SHA256 = hashlib.sha256(ADAPTER).hexdigest()
MODELFILE = 'FROM ./model.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 4096\n'
BASE = Path(__file__).parents[2] / "example_project" / "models" / "ticket-lm"
STAND_IN = Path(__file__).parents[1] / "answering" / "ollama_stand_in.py"
TOLD = {
    "quantization": "q4_k_m",
    "adapter": "lora",
    "adapter_file": {"sha256": ADAPTER_SHA256, "bytes": len(ADAPTER)},
    "sha256": SHA256,
    "bytes": len(CONTENT),
    "tensors": {"Q4_K": 1},
    "converter": "b9999",
    "server": "ollama 0.12.0",
    "modelfile": MODELFILE,
    "says": "q4_k_m of 68 B, 1 tensor Q4_K",
}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose runtime says that a GGUF file gave its answers, away from its project."""
    project = new_project(tmp_path_factory.mktemp("project"))
    conftest = (project.path / "conftest.py").read_text()
    answering = (
        f"class TableRuntime:\n    gguf = {TOLD!r}\n    def files(self, adapter):\n"
        "        store = Path(__file__).parent\n"
        "        return {'model.gguf': store / 'store.gguf', 'adapter.gguf': store / 'added.gguf'}\n"
    )
    project.write(
        {"conftest.py": "from pathlib import Path\n" + conftest.replace("class TableRuntime:\n", answering)}
    )
    shutil.rmtree(project.path / "base")
    shutil.copytree(BASE, project.path / "base")
    (project.path / "store.gguf").write_bytes(CONTENT)
    (project.path / "added.gguf").write_bytes(ADAPTER)
    bundle = tmp_path_factory.mktemp("away") / "bundle"
    shutil.move(promote(project), bundle)
    return bundle


@pytest.fixture
def bundle(promoted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(promoted, tmp_path / "bundle"))


def verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["verify", str(bundle)])
    return code, capsys.readouterr().out


def test_it_holds_the_file_that_was_judged_and_names_it(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (bundle / "gguf" / "model.gguf").read_bytes() == CONTENT
    assert (bundle / "gguf" / "adapter.gguf").read_bytes() == ADAPTER
    assert (bundle / "gguf" / "Modelfile").read_text() == MODELFILE
    named = {name: TOLD[name] for name in ("quantization", "adapter", "sha256", "converter", "server")}
    assert json.loads((bundle / "MANIFEST.json").read_bytes())["gguf"] == {"file": "gguf/model.gguf", **named}
    statement = json.loads((bundle / "promotion.intoto.json").read_bytes())
    assert {"name": "gguf/model.gguf", "digest": {"sha256": SHA256}} in statement["subject"]
    assert statement["predicate"]["gguf"]["sha256"] == SHA256
    card = (bundle / "README.md").read_text()
    assert (
        f"judged and shipped as `gguf/model.gguf`: q4_k_m of 68 B, 1 tensor Q4_K, sha256 `{SHA256}`" in card
    )
    assert "ollama create finetune -f gguf/Modelfile" in card
    code, said = verify(bundle, capsys)
    assert code == 0, said
    assert f"gguf/model.gguf, {SHA256[:12]}: the decision was made on its answers" in said
    assert "that gguf/model.gguf gives these answers" in said


def test_the_card_of_a_file_without_ollama_decodes_as_was_judged(bundle: Path) -> None:
    record = json.loads((bundle / "record.json").read_bytes())
    experiment = record["experiments"][0]
    del experiment["arms"]["tuned"]["gguf"]["modelfile"]
    experiment["arms"]["tuned"]["gguf"]["converter"] = "0.5.0 (build 1)"
    experiment["config"]["generation"].update(do_sample=False, max_new_tokens=48)
    experiment["config"]["prompt"]["template"] = "Ticket: {input}\nPriority:"
    card = model_card(record, experiment, None)
    assert "converted by llama.cpp 0.5.0 (build 1), answered by " in card
    assert (
        "llama-server --model gguf/model.gguf --lora gguf/adapter.gguf --jinja --temp 0 --top-p 1 --top-k 0 --min-p 0 --repeat-penalty 1 "
        "--presence-penalty 0 --frequency-penalty 0 --predict 48\n" in card
    )
    assert "Ask `/v1/completions`, not the chat" in card
    assert r'"Ticket: {input}\nPriority:"' in card
    experiment["config"]["prompt"]["template"] = "chat"
    assert "/v1/completions" not in model_card(record, experiment, None)


def test_one_flipped_bit_and_another_file_with_mended_digests_are_found(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bundle / "gguf" / "model.gguf"
    file.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    code, said = verify(bundle, capsys)
    assert code == 1
    assert "gguf/model.gguf: was changed: it does not match its digest" in said
    monkeypatch.setenv("PATH", "/nowhere")  # a server that was looked for would be missed
    assert main(["verify", str(bundle), "--run"]) == 1
    assert "gguf/model.gguf: was changed: it does not match its digest" in capsys.readouterr().out
    (bundle / "gguf" / "Modelfile").write_text("FROM ./model.gguf\n")
    (bundle / "gguf" / "adapter.gguf").write_bytes(CONTENT)
    mend(bundle)
    code, said = verify(bundle, capsys)
    assert code == 1
    assert f"gguf/model.gguf: is not the file that was judged ({SHA256[:12]} by the record)" in said
    assert f"gguf/adapter.gguf: is not the file that was judged ({ADAPTER_SHA256[:12]} by the record)" in said
    assert "gguf/Modelfile: is not the one that was judged" in said
    shutil.rmtree(bundle / "gguf")
    mend(bundle)
    said = verify(bundle, capsys)[1]
    for name in ("model", "adapter"):
        assert f"gguf/{name}.gguf: is missing: the decision was made on its answers" in said


def test_a_record_that_no_longer_speaks_of_it_contradicts_the_manifest(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor(bundle, lambda record: record["experiments"][0]["arms"]["tuned"].pop("gguf"))
    seal(bundle)
    assert "what it says of the GGUF file is not what the record says" in verify(bundle, capsys)[1]


def test_the_file_answers_again_through_its_server(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{STAND_IN}' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("ANSWERS", str(tmp_path / "answers.json"))
    table = {answer.prompt: answer.written for answer in read_answers(bundle / "outputs" / "tuned.jsonl")}
    (tmp_path / "answers.json").write_text(json.dumps(table))
    assert main(["verify", str(bundle), "--run", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 answers as recorded, given again by gguf/model.gguf, served by ollama 0.12.0" in said
    assert "gguf/model.gguf gives 3 of its " in said.splitlines()[-1]
    (tmp_path / "answers.json").write_text(json.dumps(dict.fromkeys(table, "another")))
    assert main(["verify", str(bundle), "--run", "3"]) == 1
    assert "is not answered as recorded" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--run", "3", "--base", str(BASE)]) == 2
    assert "the decision was made on gguf/model.gguf" in capsys.readouterr().err
