"""The example, decided on a GGUF file by the real llama.cpp: promoted, carried away, verified, asked again, pushed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_finetune.answering.answers import Answer, read_answers
from pytest_finetune.answering.runtimes.gguf.tools import FOLDER, SERVER, find_tools
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import Wire
from pytest_finetune.answering.runtimes.server.openai import ready
from pytest_finetune.answering.runtimes.server.process import Server
from pytest_finetune.cli import main

from .hub_server import TOKEN, running

ROOT = Path(__file__).parents[2]
RUNTIMES = "runtimes: [{name: shipped, gguf: q4_k_m, adapter: lora}]"

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the example, decided on its files, away from its project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, os.environ.get(FOLDER, str(ROOT / "build" / "llama.cpp")))
        try:
            find_tools()
        except AnsweringError as error:
            pytest.skip(f"{str(error).splitlines()[0]}: make llama")
        project = tmp_path_factory.mktemp("example") / "project"
        skipped = shutil.ignore_patterns(".finetune", "finetune-record", "artifacts", "__pycache__")
        shutil.copytree(ROOT / "example_project", project, ignore=skipped)
        file = project / "finetune.yaml"
        file.write_text(file.read_text().replace("runtimes: [transformers]", RUNTIMES))
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--finetune", "--finetune-promote"]
        ran = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:]
    bundle = tmp_path_factory.mktemp("away") / "bundle"
    shutil.move(project / "artifacts" / "adapter", bundle)
    shutil.rmtree(project)
    return bundle


@pytest.fixture(autouse=True)
def llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, os.environ.get(FOLDER, str(ROOT / "build" / "llama.cpp")))


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_bundle_verifies_and_answers_again_where_it_was_carried_to_and_pushed(
    promoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import HfApi, constants

    code, told = said(capsys, "verify", promoted, "--run", 3)
    assert code == 0, told
    again = "3 of 3 answers as recorded, given again by gguf/model.gguf, served by llama.cpp"
    assert again in told
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    away = tmp_path / "downloaded"
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        repository = hub.make("acme/tickets")
        code, told = said(capsys, "push", promoted, "--to", "hf://acme/tickets")
        assert code == 0, told
        assert "3 by SHA-256" in told  # the adapter, and both GGUF files
        (branch,) = repository.branches.keys() - {"main"}
        HfApi(endpoint=hub.url, token=TOKEN).snapshot_download(
            "acme/tickets", revision=branch, local_dir=away
        )
    code, told = said(capsys, "verify", away, "--run", 3)
    assert code == 0, told
    assert again in told


@pytest.mark.parametrize("name", ["model.gguf", "adapter.gguf"])
def test_one_flipped_bit_is_found_before_a_server_is_started(
    promoted: Path,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Path(shutil.copytree(promoted, tmp_path / "bundle"))
    content = bytearray((bundle / "gguf" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "gguf" / name).write_bytes(content)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / SERVER).write_text(f"#!/bin/sh\ntouch '{tmp_path / 'started'}'\n")
    (tmp_path / "bin" / SERVER).chmod(0o755)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for words in ((), ("--run",)):
        code, told = said(capsys, "verify", bundle, *words)
        assert code == 1
        assert f"gguf/{name}: was changed: it does not match its digest in the manifest" in told
    assert not (tmp_path / "started").exists()


def test_the_command_on_its_card_gives_the_judged_answers(promoted: Path, tmp_path: Path) -> None:
    card = (promoted / "README.md").read_text()
    program, *flags = shlex.split(card.partition("```sh\n")[2].partition("\n")[0])
    assert (program, flags[:4]) == (
        SERVER,
        ["--model", "gguf/model.gguf", "--lora", "gguf/adapter.gguf"],
    )
    flags = [str(promoted / flag) if flag.startswith("gguf/") else flag for flag in flags]
    command = (str(find_tools().server), *flags, "--host", "{host}", "--port", "{port}")
    template = json.loads(card.partition("```json\n")[2].partition("\n```")[0])
    recorded: list[Answer] = read_answers(promoted / "outputs" / "tuned.jsonl")[:3]
    assert all(answer.prompt.endswith(template.rpartition("{input}")[2]) for answer in recorded)
    server = Server("the card's", command, "", tmp_path / "server.log")
    try:
        wire = Wire(server.url, 600.0)
        server.await_ready(lambda: ready(wire), 600.0)
        for answer in recorded:
            found = wire.post("/v1/completions", {"prompt": answer.prompt})
            assert found["choices"][0]["text"] == answer.written
    finally:
        server.stop()
