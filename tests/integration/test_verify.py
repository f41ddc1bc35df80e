"""A stranger with the bundle alone finds every changed byte, and every decision that does not follow from its rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.bundle.format import MANIFEST, BundleError, parse
from pytest_finetune.bundle.statement import ADAPTER_DIGEST, STATEMENT

from .bundles import doctor, mend, new_project, promote, seal
from .conftest import Project

Json = dict[str, Any]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a run wrote, away from its project and its store."""
    project = new_project(tmp_path_factory.mktemp("project"), few_shot=2)
    forgetful(project)
    bundle = promote(project)
    away = tmp_path_factory.mktemp("away") / "bundle"
    shutil.move(bundle, away)
    shutil.rmtree(project.path)
    return away


def forgetful(project: Project) -> None:
    """Let the tuned model answer whatever it is asked, neutral prompts too, with its task."""
    file, conftest = project.path / "finetune.yaml", (project.path / "conftest.py").read_text()
    file.write_text(file.read_text().replace('"{input} ->"', '"{instruction}: {input} ->"'))
    said = """TABLE[arm].get(p.id, '{"label": "high"}' if adapter else "as before")"""
    project.write({"conftest.py": conftest.replace("TABLE[arm][p.id]", said)})


@pytest.fixture
def bundle(promoted: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(promoted, tmp_path / "bundle"))


def names(bundle: Path) -> list[str]:
    return sorted(file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file())


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x01
    file.write_bytes(content)


def test_a_bundle_is_verified_without_its_store_and_says_what_that_proves(
    promoted: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    code, said = verify(promoted)
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == f"verified: {promoted}"
    assert any(
        line.strip().startswith("decision   KEEP, computed again from 2 rules on 80 rows (look 1")
        for line in lines
    )
    assert lines[-1] == (
        "this proves that these are the promoted files, and KEEP follows from the outcomes in their record; it does "
        "not prove that the outcomes follow from the answers, that the adapter gives these answers, who made it"
    )


def test_verifying_loads_neither_torch_nor_pytest(promoted: Path) -> None:
    code = (
        "import sys; from pytest_finetune.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'peft', 'pytest'} & sys.modules.keys())); sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "verify", str(promoted)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stdout + done.stderr


def test_a_flipped_byte_in_any_file_is_named(bundle: Path, verify: Callable[..., tuple[int, str]]) -> None:
    assert len(names(bundle)) > 9
    for name in names(bundle):
        file = bundle / name
        whole = file.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            flip(file, place)
            code, said = verify(bundle)
            assert (code, said.count(name)) == (1, 1), (name, place, said)
            assert "was changed" in said
            file.write_bytes(whole)
    assert verify(bundle)[0] == 0


def test_no_bit_of_the_manifest_can_turn_unseen(bundle: Path) -> None:
    whole = (bundle / MANIFEST).read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        with pytest.raises(BundleError, match=r"MANIFEST\.json"):
            parse(bytes(changed))


def test_what_is_missing_and_what_does_not_belong_is_named(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    (bundle / "decision.md").unlink()
    (bundle / "outputs" / "more.jsonl").write_text("{}\n")
    code, said = verify(bundle)
    assert code == 1
    assert f"NOT VERIFIED: {bundle}: 2 things not as promoted" in said
    assert "decision.md: is missing" in said
    assert "outputs/more.jsonl: does not belong to the bundle" in said


def test_what_the_hub_puts_beside_a_bundle_is_left_aside_and_nothing_else(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    book = bundle / ".cache" / "huggingface"
    (book / "download" / "outputs").mkdir(parents=True)
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (book / ".gitignore").write_text("*")
    (book / "download" / "outputs" / "tuned.jsonl.metadata").write_text("0\n")
    code, said = verify(bundle)
    assert code == 0, said
    assert re.search(
        r"files +[0-9]+ files as [0-9a-f]{12} lists; 3 files of the Hub beside them, left aside", said
    )
    for name in (
        ".cache/huggingface/download/adapter.bin",
        "outputs/.gitattributes",
        ".cache/pip/x.metadata",
    ):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("x")
        code, said = verify(bundle)
        assert code == 1
        assert f"{name}: does not belong to the bundle" in said
        (bundle / name).unlink()


def test_a_link_in_a_bundle_is_refused(bundle: Path, verify: Callable[..., tuple[int, str]]) -> None:
    (bundle / "decision.md").rename(bundle.parent / "elsewhere.md")
    (bundle / "decision.md").symlink_to(bundle.parent / "elsewhere.md")
    code, said = verify(bundle)
    assert code == 1
    assert "decision.md is a link, not a file" in said


def test_a_manifest_that_points_outside_is_refused(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    seal(bundle, files={"../secret": {"sha256": "0" * 64, "bytes": 1}})
    code, said = verify(bundle)
    assert code == 1
    assert "'../secret', which is no file of a bundle" in said


def test_another_folder_is_a_mistake_not_a_finding(
    tmp_path: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    code, said = verify(tmp_path)
    assert (code, said.splitlines()[0]) == (
        2,
        f"pytest-finetune verify: {tmp_path} is no bundle: it has no MANIFEST.json",
    )
    code, said = verify(tmp_path / "no")
    assert code == 2
    assert "there is no such folder" in said


def tuned(record: Json, rule: str = "label") -> list[int]:
    scores: list[int] = record["experiments"][0]["rules"][rule]["scores"]["tuned"]
    return scores


def lower_the_gain(record: Json) -> None:
    tuned(record)[:70] = [0] * 70


def loosen_a_threshold(record: Json) -> None:
    record["experiments"][0]["rules"]["label"]["min_gain"] = 0.01


def forget_earlier_looks(record: Json) -> None:
    record["experiments"][0]["decision"]["looks"] = 3


def raise_the_rate(record: Json) -> None:
    record["experiments"][0]["arms"]["tuned"]["rules"]["label"]["rate"] = 0.99


def count_more_passed(record: Json) -> None:
    record["experiments"][0]["arms"]["tuned"]["rules"]["label"]["passed"] = 75


def say_another_verdict(record: Json) -> None:
    record["experiments"][0]["decision"] |= {"verdict": "iterate", "keep": True}


def spend_no_alpha(record: Json) -> None:
    record["experiments"][0]["decision"]["alpha"] = 0.05


def switch_spending_off(record: Json) -> None:
    record["experiments"][0]["config"]["decision"]["spend"] = False


def ask_for_less(record: Json) -> None:
    record["experiments"][0]["config"]["decision"] |= {"min_gain": 0.01, "confidence": 0.6}


def let_the_prompt_lose_to_the_base(record: Json) -> None:
    (pair,) = (
        one
        for one in record["experiments"][0]["pairs"]
        if (one["rule"], one["arm"], one["against"]) == ("label", "prompted", "baseline")
    )
    pair["gain"] = -pair["gain"]


def invent_a_second_runtime(record: Json) -> None:
    record["experiments"][0]["runtime_match"] = [
        {
            "first": "transformers",
            "second": "prod",
            "text": {"same": 80, "total": 80, "rows": []},
            "rules": {},
        }
    ]


def drop_a_rule(record: Json) -> None:
    experiment = record["experiments"][0]
    del experiment["rules"]["strict_json"]
    experiment["comparisons"] = [one for one in experiment["comparisons"] if one["rule"] != "strict_json"]
    for arm in experiment["arms"].values():
        del arm["rules"]["strict_json"]


def call_it_fixed(record: Json) -> None:
    record["experiments"][0]["comparisons"][0]["fixed"].append("e079")


def pretend_a_failure_passed(record: Json) -> None:
    record["tests"] = [test for test in record["tests"] if test["stage"] != "data"]


def be_red(record: Json) -> None:
    record["exit_status"] = 1


def add_a_row(record: Json) -> None:
    rule = record["experiments"][0]["rules"]["label"]
    rule["rows"].append("never-asked")
    for scores in rule["scores"].values():
        scores.append(1)


def soften_the_risks(record: Json) -> None:
    record["experiments"][0]["decision"]["reasons"] = ["it is simply better"]


def hide_the_forgetting(record: Json) -> None:
    decision = record["experiments"][0]["decision"]
    decision["risks"] = [risk for risk in decision["risks"] if not risk.startswith("forgetting")]


def lower_the_drift(record: Json) -> None:
    record["experiments"][0]["drift"]["answers_changed"] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (hide_the_forgetting, ', its rows give ["forgetting: 40 of 40'),
        (lower_the_drift, "drift.answers_changed is 1, its rows give 40"),
        (lower_the_gain, "decision.verdict is 'keep', its rows give"),
        (loosen_a_threshold, "decision.rules_sha256 is"),
        (forget_earlier_looks, "decision.alpha is 0.025, its rows give"),
        (raise_the_rate, "arms.tuned.rules.label.rate is 0.99, its rows give 0.9"),
        (count_more_passed, "arms.tuned.rules.label.passed is 75, its rows give 72"),
        (say_another_verdict, "decision.verdict: 'keep' was expected"),
        (spend_no_alpha, "decision.alpha is 0.05, its rows give 0.025"),
        (switch_spending_off, "config.decision.spend is False, the experiment file gives True"),
        (ask_for_less, "config.decision.confidence is 0.6, the experiment file gives 0.95"),
        (let_the_prompt_lose_to_the_base, "pairs, label: prompted over baseline is {'against': 'baseline'"),
        (invent_a_second_runtime, "runtime_match is {'prod': {'first': 'transformers'"),
        (drop_a_rule, "decision.rules_sha256 is"),
        (call_it_fixed, "comparisons, label over baseline: fixed is"),
        (pretend_a_failure_passed, "no data contract test passed in this run"),
        (be_red, "the run was not green (exit status 1)"),
        (add_a_row, "rule 'label' has scores for rows that baseline never answered"),
        (soften_the_risks, "decision.reasons is ['it is simply better'], its rows give"),
    ],
)
def test_a_doctored_record_with_every_digest_mended_is_found_by_computing_again(
    bundle: Path, verify: Callable[..., tuple[int, str]], change: Callable[[Json], None], said: str
) -> None:
    doctor(bundle, change)
    code, out = verify(bundle)
    assert code == 1
    assert said in out
    assert "was changed" not in out  # the digests agree; the content does not


def test_an_edited_answer_is_found_by_the_record(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    outputs = bundle / "outputs" / "tuned.jsonl"
    outputs.write_text(
        outputs.read_text().replace('{\\"label\\": \\"none\\"}', '{\\"label\\": \\"high\\"}', 1)
    )
    mend(bundle)
    code, said = verify(bundle)
    assert code == 1
    assert "outputs/tuned.jsonl: its answers are not those that were judged" in said


def test_another_adapter_under_the_same_record_is_found(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    flip(bundle / "adapter_model.safetensors", -3)
    mend(bundle)
    code, said = verify(bundle)
    assert code == 1
    assert "is not that of the adapter in the bundle" in said


def test_an_adapter_for_another_base_is_found(bundle: Path, verify: Callable[..., tuple[int, str]]) -> None:
    config = bundle / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "other"}))
    mend(bundle)
    code, said = verify(bundle)
    assert code == 1
    assert "its base model 'other' is not the one that was judged" in said


@pytest.mark.parametrize("name", ["README.md", "decision.md", STATEMENT, "report.html"])
def test_a_view_that_says_something_else_is_found(
    bundle: Path, verify: Callable[..., tuple[int, str]], name: str
) -> None:
    text = (bundle / name).read_text(encoding="utf-8")
    assert "keep" in text.lower()
    (bundle / name).write_text(text.replace("keep", "always").replace("KEEP", "ALWAYS"), encoding="utf-8")
    seal(bundle)
    code, said = verify(bundle)
    assert code == 1
    assert f"{name}: does not s" in said


def test_an_experiment_file_that_was_exchanged_is_found(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    with (bundle / "experiment" / "finetune.yaml").open("a") as file:
        file.write("# later\n")
    mend(bundle)
    code, said = verify(bundle)
    assert code == 1
    assert "experiment/finetune.yaml: is not the file that the run read" in said


def test_a_record_that_nobody_can_read_is_a_finding(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    for text in ("[]", "{}", "no json", '{"experiments": 1}'):
        (bundle / "record.json").write_text(text)
        seal(bundle)
        code, said = verify(bundle)
        assert code == 1, text
        assert "record.json" in said
        assert "Traceback" not in said


def test_the_answer_for_programs_lists_the_problems(
    bundle: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    tree = json.loads(verify(bundle, "--json")[1])
    assert tree["verified"] is True
    assert tree["adapter_sha256"] == json.loads((bundle / MANIFEST).read_text())["adapter_sha256"]
    flip(bundle / "README.md", 5)
    tree = json.loads(verify(bundle, "--json")[1])
    assert tree["verified"] is False
    assert [problem["place"] for problem in tree["problems"]] == ["README.md"]


def test_the_statement_is_in_toto_and_speaks_of_the_adapter(promoted: Path) -> None:
    manifest = json.loads((promoted / MANIFEST).read_text())
    content = json.loads((promoted / STATEMENT).read_text())
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    whole, *files = content["subject"]
    assert whole["digest"] == {ADAPTER_DIGEST: manifest["adapter_sha256"]}
    assert {one["name"]: one["digest"]["sha256"] for one in files} == {
        name: manifest["files"][name]["sha256"]
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    assert content["predicate"]["decision"]["verdict"] == "keep"
    assert content["predicate"]["materials"]


def test_the_card_loads_as_the_hub_reads_it(promoted: Path) -> None:
    import yaml

    _, header, body = (promoted / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["library_name"] == "peft"
    (result, *_) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["type"] == "pass_rate"
    assert "PeftModel.from_pretrained" in body
