"""``pytest-finetune profile``: the rows of an experiment in numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.project import Project, left_out
from pytest_finetune.data.profile import overlap, profile
from pytest_finetune.yamlfile import Json

HELP: Final = "rows, lengths, labels, tags, duplicates and tokens of each split"
DESCRIPTION: Final = (
    "Describe the rows of an experiment in numbers. Nothing is judged here: `pytest` does that."
)
_LENGTHS: Final = ("min", "p50", "p95", "max")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)


def run(args: argparse.Namespace) -> Answer:
    """Describe every split, and how far the held-out file overlaps with the training file."""
    project = Project.of(args)
    paths = project.experiment.paths
    files = {"train": paths.train_file, "eval": paths.eval_file, **paths.suites}
    splits = {name: project.rows(file, name) for name, file in files.items()}
    described = {}
    for name, rows in splits.items():
        facts = profile(rows, project.contract, project.tokens(rows))
        repeated = facts["rows"] - facts["distinct_questions"]
        described[name] = {**facts, "repeated_questions": repeated, "defects": len(rows.defects)}
    tree = {
        **project.heading(),
        "splits": described,
        "overlap": overlap(splits["train"], splits["eval"]),
        "max_seq_length": project.experiment.training.max_seq_length,
        "tokens_counted": project.tokenization is not None,
    }
    return Answer(list(_lines(tree)), tree, warnings=list(project.store.warnings))


def _lines(tree: Json) -> Iterator[str]:
    splits = tree["splits"]
    yield f"{tree['task']} ({tree['experiment']})"
    yield ""
    yield from _rows(splits)
    for key, title in (("labels", "label"), ("tags", "tag")):
        if any(facts[key] for facts in splits.values()):
            yield ""
            yield from _counts(splits, key, title)
    yield ""
    yield from _characters(splits)
    yield ""
    yield from _histogram(splits)
    yield ""
    yield from _tokens(tree)
    yield from _closing(tree)


def _rows(splits: Json) -> list[str]:
    head = ("split", "file", "rows", "defects", "repeated questions", "distinct answers", "groups")
    keys = ("path", "rows", "defects", "repeated_questions", "distinct_answers", "groups")
    rows = [(name, *(facts[key] for key in keys)) for name, facts in splits.items()]
    return columns(head, rows, right=range(2, 7))


def _counts(splits: Json, key: str, title: str) -> list[str]:
    names = dict.fromkeys(name for facts in splits.values() for name in facts[key])
    rows = [
        (name, *(_share(facts[key].get(name, 0), facts["rows"]) for facts in splits.values()))
        for name in names
    ]
    return columns((title, *splits), rows, right=range(1, len(splits) + 1))


def _share(count: int, rows: int) -> str:
    return f"{count} ({count / rows:.0%})" if rows else str(count)


def _characters(splits: Json) -> list[str]:
    rows = [
        (name, what, *(facts["lengths"][what][key] for key in _LENGTHS))
        for name, facts in splits.items()
        for what in ("input", "output")
    ]
    return columns(("split", "characters of", *_LENGTHS), rows, right=range(2, 6))


def _histogram(splits: Json) -> list[str]:
    """Show how many inputs have which length; empty bins at the end are left out."""
    shapes = {name: facts["lengths"]["input"] for name, facts in splits.items()}
    bins = next(iter(shapes.values()))["bins"]
    used = max(
        (place + 1 for shape in shapes.values() for place, n in enumerate(shape["counts"]) if n), default=1
    )
    rows = [
        (f"{bins[place]}+", *(shape["counts"][place] for shape in shapes.values())) for place in range(used)
    ]
    return columns(("input characters", *shapes), rows, right=range(len(shapes) + 1))


def _tokens(tree: Json) -> Iterator[str]:
    counted = {name: facts["tokens"] for name, facts in tree["splits"].items() if facts["tokens"]}
    if not counted:
        yield "tokens are not counted: the base model's tokenizer.json and stop token are not here"
        return
    keys = ("p50", "p95", "max", "truncated", "supervised")
    rows = [(name, *(table[key] for key in keys)) for name, table in counted.items()]
    yield from columns(("tokens", *keys), rows, right=range(1, 6))
    yield (
        f"  truncated: rows longer than max_seq_length {tree['max_seq_length']}; "
        "supervised: tokens with loss in one epoch"
    )


def _closing(tree: Json) -> Iterator[str]:
    shared = tree["overlap"]
    yield ""
    yield (
        f"{shared['touched']} of {shared['held_out_rows']} held-out inputs share {shared['ngram_words']} words "
        f"in a row with a training input (mean share {shared['mean_share']:.1%})"
    )
    defects = sum(facts["defects"] for facts in tree["splits"].values())
    if defects:
        yield left_out(defects)
