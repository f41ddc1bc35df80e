"""The noise floor, hand-written prompts and constrained decoding, each in a whole session."""

from __future__ import annotations

import json

import pytest

from .conftest import CONFTEST, Project, expected, row_id

# The n-th time that an arm is asked, it answers from the table of that number, where there is one.
REPEATING = CONFTEST.replace(
    "TABLE[arm][p.id]",
    'TABLE.get(f"{arm}{LOG.read_text().split().count(arm)}", TABLE[arm])[p.id]',
)


def set_key(project: Project, section: str, text: str) -> None:
    file = project.path / "finetune.yaml"
    file.write_text(f"{file.read_text()}{section}: {text}\n", encoding="utf-8")


def set_prompt(project: Project, more: str) -> None:
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("few_shot: 0", f"few_shot: 0, {more}"), encoding="utf-8")


@pytest.fixture
def noisy(project: Project) -> Project:
    """A project whose base answers more rows rightly when it is asked again."""
    project.write({"conftest.py": REPEATING})
    project.says("baseline", 40)
    project.says("baseline2", 72)
    set_key(project, "decision", "{noise_runs: 2}")
    return project


def test_rows_that_the_base_answers_otherwise_when_asked_again_are_never_fixed(noisy: Project) -> None:
    assert noisy.run("--finetune").ret == 1
    assert noisy.calls().count("answer baseline") == 3
    record = noisy.experiment()
    (pair,) = [one for one in record["comparisons"] if (one["rule"], one["against"]) == ("label", "baseline")]
    assert pair["fixed"] == []
    assert pair["noisy"] == [row_id(i) for i in range(40, 72)]
    assert record["decision"]["verdict"] != "keep"
    assert "32 rows noisy, never counted as fixed" in pair["sentence"]
    assert any(
        "differs between runs of the same base on 32 rows" in risk for risk in record["decision"]["risks"]
    )
    assert [len(record["noise"][run]["changed"]) for run in ("2", "3")] == [32, 0]
    assert set(record["arms"]) == {"baseline", "majority", "tuned"}


def test_the_same_answers_without_noise_runs_would_be_a_keep(noisy: Project) -> None:
    assert noisy.run("--finetune", "--finetune-set", "decision.noise_runs=0").ret == 0


@pytest.mark.parametrize("runs", [0, 1])
def test_a_base_against_itself_is_never_kept(project: Project, runs: int) -> None:
    project.says("tuned", 40)
    project.says("baseline", 40)
    set_key(project, "decision", f"{{noise_runs: {runs}}}")
    assert project.run("--finetune").ret == 1
    decision = project.experiment()["decision"]
    assert decision["verdict"] != "keep"


CANDIDATES = "candidates: ['{input} ->', '{input} please ->', 'JSON: {input} ->'], candidate_rows: 10"
# A base that does better when it is asked politely, and best when it is told the format.
POLITE = CONFTEST.replace(
    "TABLE[arm][p.id]",
    'TABLE["best"].get(p.prompt, TABLE["prose"]) if p.prompt.startswith("JSON") else TABLE["polite"].get(p.prompt, '
    'TABLE["prose"]) if "please" in p.prompt else TABLE[arm].get(p.id, "prose")',
)


@pytest.fixture
def polite(project: Project) -> Project:
    """A project with three hand-written prompts, of which the last is the best on the training rows."""
    train = [json.loads(line) for line in (project.path / "train.jsonl").read_text().splitlines()]
    held_out = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
    best = {f"JSON: {row['input']} ->": row["output"] for row in train}
    polite = {f"{row['input']} please ->": row["output"] for row in train[::2]}
    for at, row in enumerate(held_out[:20]):
        best[f"JSON: {row['input']} ->"] = expected(at)
    project.answers |= {"best": best, "polite": polite, "prose": "prose"}
    project.save()
    project.write({"conftest.py": POLITE})
    set_prompt(project, CANDIDATES)
    return project


def test_the_best_prompt_on_training_rows_competes_and_all_scores_are_recorded(polite: Project) -> None:
    result = polite.run("--finetune")
    assert result.ret == 0
    record = polite.experiment()
    found = record["prompt_candidates"]
    assert found["best"] == 2
    assert [one["total"] for one in found["tried"]] == [10, 10, 10]
    rates = [one["rate"] for one in found["tried"]]
    assert rates[0] == 0
    assert 0 < rates[1] < rates[2] == 1
    assert all(place.startswith("train.jsonl") for place in found["rows"])
    assert record["arms"]["best_prompt"]["rules"]["label"]["passed"] == 20
    assert record["planned_arms"]["best_prompt"]["opponent"]
    assert any("over the best hand-written prompt" in reason for reason in record["decision"]["reasons"])


def test_a_hand_written_prompt_that_does_as_well_is_enough(polite: Project) -> None:
    held_out = [json.loads(line) for line in (polite.path / "eval.jsonl").read_text().splitlines()]
    for row in held_out:
        polite.answers["best"][f"JSON: {row['input']} ->"] = row["expected"]
    polite.save()
    assert polite.run("--finetune").ret == 1
    decision = polite.experiment()["decision"]
    assert decision["verdict"] == "discard"
    assert "the best hand-written prompt" in decision["reasons"][0]


def test_tried_prompts_are_asked_once(polite: Project) -> None:
    polite.run("--finetune")
    polite.calls()
    polite.run("--finetune")
    assert polite.calls() == []


def test_a_primary_rule_with_fixtures_of_its_own_cannot_rank_prompts(polite: Project) -> None:
    rules = (polite.path / "test_rules.py").read_text()
    own = rules.replace("def test_label(response, example)", "def test_label(response, example, labels)")
    fixture = "\n@pytest.fixture\ndef labels():\n    return []\n"
    polite.write({"test_rules.py": own + fixture})
    result = polite.run("--finetune")
    result.stdout.re_match_lines([r".*asks for labels, which is set up only when its turn comes"])
    assert polite.experiment()["decision"]["undecided"]


def test_a_candidate_without_the_input_is_a_usage_error(project: Project) -> None:
    set_prompt(project, "candidates: ['say something']")
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([r".*prompt.candidates.*'say something', which shows no \{input\}"])


def test_constrained_decoding_needs_a_contract(project: Project) -> None:
    set_key(project, "decision", "{}")
    file = project.path / "finetune.yaml"
    file.write_text(
        file.read_text().replace("max_new_tokens: 8", "max_new_tokens: 8, constrain: contract"),
        encoding="utf-8",
    )
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([r".*generation.constrain: 'contract' needs paths.contract_file"])


CONSTRAINED = (
    CONFTEST.replace(
        'arm = "tuned" if adapter',
        'arm = "constrained" if generation.constrain else "tuned" if adapter',
    )
    .replace("4, 0.01, True)", "4, 0.01, arm != 'constrained' or int(p.id[1:]) >= TABLE['cut'])")
    .replace("class TableRuntime:\n", "class TableRuntime:\n    constrains = True\n")
)
SCHEMA = """
task: priority
version: 1
output: {schema: {type: object, required: [label], properties: {label: {type: string}}}}
"""


@pytest.mark.parametrize(("cut", "told"), [(80, True), (8, True), (7, False), (0, False)])
def test_constrained_answers_that_were_cut_are_no_fair_opponent(
    project: Project, cut: int, told: bool
) -> None:
    project.says("constrained", 20, other='{"label": "cri')
    project.answers["cut"] = cut
    project.save()
    yaml = (project.path / "finetune.yaml").read_text()
    yaml = yaml.replace("max_new_tokens: 8", "max_new_tokens: 8, constrain: contract")
    yaml = yaml.replace("paths: {", "paths: {contract_file: contract.yaml, ")
    project.write({"conftest.py": CONSTRAINED, "contract.yaml": SCHEMA, "finetune.yaml": yaml})
    assert project.run("--finetune").ret == 0
    record = project.experiment()
    assert record["arms"]["constrained"]["rules"]["label"]["passed"] == 20
    said = [risk for risk in record["decision"]["risks"] if risk.startswith("constrained decoding")]
    if told:
        assert said == [
            "constrained decoding of the base model is no fair opponent: "
            f"{cut} of 80 answers ended at the limit of 8 tokens, before their JSON was whole: "
            "bound its texts by maxLength in output.schema of the contract"
        ]
    else:
        assert said == []


def slice_shaky(project: Project) -> None:
    """Tag the rows that the base may answer otherwise, and protect them."""
    lines = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["tags"] = ["settled"] if number < 40 else ["shaky"]
    rules = (project.path / "test_rules.py").read_text()
    sliced = rules.replace("primary=True", "primary=True, slice='tags', protected=['shaky']")
    project.write({"eval.jsonl": "".join(json.dumps(line) + "\n" for line in lines), "test_rules.py": sliced})


def test_a_noisy_row_of_a_slice_is_never_fixed(noisy: Project) -> None:
    slice_shaky(noisy)
    noisy.says("tuned", 80)
    assert noisy.run("--finetune").ret == 0
    record = noisy.experiment()
    (pair,) = [one for one in record["comparisons"] if (one["rule"], one["against"]) == ("label", "baseline")]
    assert pair["noisy"] == [row_id(i) for i in range(40, 72)]
    assert pair["fixed"] == [row_id(i) for i in range(72, 80)]
    slices = record["arms"]["tuned"]["rules"]["label"]["slices"]
    assert {name: (part["total"], part["gain"], part["verdict"]) for name, part in slices.items()} == {
        "settled": (40, 0, "not worse"),
        "shaky": (40, 0.2, "beats"),
    }


@pytest.mark.parametrize(("runs", "verdict"), [(0, "worse"), (2, "not worse")])
def test_a_protected_slice_that_only_noise_could_have_lost_is_not_lost(
    noisy: Project, runs: int, verdict: str
) -> None:
    slice_shaky(noisy)
    noisy.says("baseline", 72)
    noisy.says("baseline2", 40)
    noisy.answers["tuned"] = {row_id(i): "prose" if 40 <= i < 72 else expected(i) for i in range(80)}
    noisy.save()
    noisy.run("--finetune", "--finetune-set", f"decision.noise_runs={runs}")
    slices = noisy.experiment()["arms"]["tuned"]["rules"]["label"]["slices"]
    assert slices["shaky"]["verdict"] == verdict
