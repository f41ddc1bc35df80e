"""Mistakes on the command line and in files: exit code 4, one paragraph, no traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--finetune-set", "training.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--finetune-set", "training.learning_rate"], "write KEY=VALUE"),
        (["--finetune-set", "training.learning_rate=fast"], "found 'fast' (text), allowed: a number"),
        (["--finetune-device=tpu"], "is no device"),
        (["--finetune-promote=out"], "needs --finetune"),
        (["--finetune", "--finetune-promote", "test_data.py"], "is named with an equals sign"),
        (["--finetune-store=s3://me:secret@host/bucket"], "give credentials through the environment"),
        (["--finetune-store=simplecache::s3://bucket"], "a chain of file systems cannot be a store"),
        (["--finetune-store=nosuch://bucket"], "Protocol not known: nosuch"),
        (["--finetune-store=nowhere", "--finetune-store-readonly"], "there is no such folder to read"),
        (["--finetune-budget=12parsecs"], "12parsecs"),
        (["--finetune-budget=rtx-9999"], "rtx-9999"),
        (["--finetune-headroom=8"], "--finetune-headroom: '8' is not a share: write 8% or 0.08"),
        (["--finetune", "--finetune-require-gpu"], "there is no accelerator here"),
        (["--finetune", "-n", "2", "--dist", "each"], "--dist=each"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_a_usage_error(
    project: Project, args: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    from pytest_finetune.memory.hardware import detect

    monkeypatch.setattr(detect, "accelerator", lambda: "cpu")
    result = project.run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str() + result.stdout.str()
    assert said in text
    assert "Traceback" not in text
    assert project.calls() == []


@pytest.mark.parametrize(
    ("line", "replacement", "said"),
    [
        ("lora: {r: 4}", "lora: {rank: 4}", "finetune.yaml:4: lora.rank: unknown key"),
        (
            "lora: {r: 4}",
            "lora: {r: four}",
            "finetune.yaml:4: lora.r: found 'four' (text), allowed: a whole number",
        ),
        (
            "peft_method: lora",
            "peft_method: loro",
            "found 'loro' (text), allowed: lora, qlora, dora, full; did you mean 'lora'?",
        ),
        ("base_model: base\n", "", "base_model: missing"),
        ("train_file: train.jsonl", "train_file: trian.jsonl", "; did you mean 'train.jsonl'?"),
        (
            "train_file: train.jsonl",
            "train_file: hf://acme/mails",
            "a data set of the hub is named hf://datasets/ORG/NAME",
        ),
        ("train_file: train.jsonl", "train_file: ../train.jsonl", "leads outside the project"),
        ("train_file: train.jsonl", "train_file: eval.jsonl", "must never be trained on"),
        ("peft_method: lora", "peft_method: lora\nquantization: nf4", "contradicts peft_method: lora"),
        (
            "lora: {r: 4}\n",
            "",
            "finetune.yaml:3: peft_method: 'lora' needs lora: write lora: {r: 8, alpha: 16}",
        ),
        (
            "peft_method: lora",
            "peft_method: full",
            "finetune.yaml:4: lora: contradicts peft_method: full, which trains every weight: leave lora out",
        ),
        (
            "peft_method: lora\nlora: {r: 4}",
            "peft_method: full\nquantization: int8",
            "finetune.yaml:4: quantization: 'int8' contradicts peft_method: full",
        ),
        (
            "peft_method: lora\nlora: {r: 4}",
            "peft_method: full\ntrust_remote_code: true",
            "trust_remote_code: contradicts peft_method: full: the model that is kept would bring code along",
        ),
        (
            "peft_method: lora\nlora: {r: 4}",
            "peft_method: lora\nquantization: int8\nlora: {init_lora_weights: pissa}",
            "lora.init_lora_weights: 'pissa' takes the adapter's first weights out of the base",
        ),
        ("task: priority", "task: [priority", "unreadable YAML"),
        ("task: priority", "task: priority\ntask: again", "the key stands here again, first on line 1"),
        ('prompt: {template: "{input} ->"', 'prompt: {template: "hello"', "shows no {input}"),
    ],
)
def test_a_mistake_in_the_experiment_file_is_a_usage_error(
    project: Project, line: str, replacement: str, said: str
) -> None:
    text = (project.path / "finetune.yaml").read_text()
    assert line in text
    project.write({"finetune.yaml": text.replace(line, replacement)})
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_a_named_file_that_is_missing_is_a_usage_error(project: Project) -> None:
    project.write({"pytest.ini": "[pytest]\nfinetune_experiments = nowhere.yaml\n"})
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.yaml: no such experiment file" in result.stderr.str()


def test_two_files_of_one_name_are_refused_and_one_file_in_two_spellings_is_one(project: Project) -> None:
    (project.path / "finetune.yml").write_bytes((project.path / "finetune.yaml").read_bytes())
    project.write({"pytest.ini": "[pytest]\nfinetune_experiments = finetune.yaml\n    finetune.yml\n"})
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = "finetune.yaml and finetune.yml would both be called 'finetune': rename one of the files"
    assert told in result.stderr.str()
    project.write({"pytest.ini": "[pytest]\nfinetune_experiments = finetune.yaml\n    ./finetune.yaml\n"})
    project.run("test_data.py").assert_outcomes(passed=1)


def test_a_rootdir_above_the_project_is_named_with_the_way_out_of_it(project: Project) -> None:
    project.write(
        {
            "above/pytest.ini": "[pytest]\n",
            "above/mine/test_data.py": (project.path / "test_data.py").read_text(),
        }
    )
    (project.path / "finetune.yaml").rename(project.path / "above/mine/finetune.yaml")
    result = project.run("-c", "above/pytest.ini", "--rootdir=above", "above/mine")
    told = result.stdout.str()
    assert "no such experiment file" in told
    assert (
        f"run pytest with --rootdir='{project.path / 'above/mine'}', or give that folder a pytest.ini" in told
    )


def test_a_string_where_the_ini_wants_a_list_is_one_element(project: Project) -> None:
    (project.path / "finetune.yaml").rename(project.path / "mine.yaml")
    project.write({"pyproject.toml": '[tool.pytest]\nfinetune_experiments = "mine.yaml"\n'})
    project.run("test_data.py").assert_outcomes(passed=1)


def test_the_same_mistake_is_the_same_error_under_xdist(project: Project) -> None:
    result = project.run("--finetune", "-n", "2", "--finetune-set", "lora.rank=3", subprocess=True)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "lora.rank" in result.stderr.str()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": "{}"}, "has no weights"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "has pickle weights only"),
        (
            {"config.json": '{"auto_map": {"AutoModel": "mine.Model"}}', "model.safetensors": None},
            "import code",
        ),
    ],
)
def test_a_base_that_cannot_be_used_is_refused_by_name(
    project: Project, files: dict[str, str | None], said: str
) -> None:
    good = (project.path / "base" / "model.safetensors").read_bytes()
    for path in (project.path / "base").iterdir():
        path.unlink()
    for name, text in files.items():
        (project.path / "base" / name).write_bytes(good if text is None else text.encode())
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*{said}*"])
    assert project.calls() == []


def test_many_malformed_rows_are_all_counted_and_the_first_twenty_shown(project: Project) -> None:
    (project.path / "test_data.py").unlink()
    project.write({"train.jsonl": "not json\n" * 30})
    result = project.run("--finetune")
    text = result.stdout.str()
    assert "train.jsonl:1:" in text
    assert "train.jsonl:20:" in text
    assert "and 10 more" in text
    assert project.calls() == []
