"""An experiment whose answers lie in a bundle: what rules may ask for is there, and no model is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.arm_plans import CONSTRAINED, TRIVIAL, planned, under_grammar, without_model
from pytest_finetune.data.charter import Charter
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import Row, Rows, read_rows
from pytest_finetune.data.splitting import set_aside
from pytest_finetune.data.turn_by_turn import turn_by_turn
from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.suite.arm_view import Arm, view_of
from pytest_finetune.suite.steps.answering import label
from pytest_finetune.suite.steps.data_step import file_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_finetune.bundle.reading import Bundle


class NotInBundle(FinetuneError):
    """A rule needs what the bundle does not hold, so it is not checked; the message says what to do."""


class BundledRun:
    """The run that a bundle records, as rules that are run again over its answers see it.

    Rows are taken from the bundle, else from the project in which the rules lie, else from the record.
    """

    def __init__(self, bundle: Bundle, rules: Path) -> None:
        self._bundle = bundle
        self._rules = rules
        self._recorded = bundle.experiment
        self._rows: dict[str, Rows] = {}
        self._answers: dict[str, Mapping[str, Answer]] = {}
        self.experiment = bundle.resolved()
        self.arms = planned(self.experiment)
        recorded = set(self._recorded.get("planned_arms") or ())
        for name in TRIVIAL & recorded:
            self.arms[name] = without_model(self.experiment, name)
        if CONSTRAINED in recorded:
            self.arms[CONSTRAINED] = under_grammar(self.experiment)

    def __getattr__(self, name: str) -> NoReturn:
        raise NotInBundle("it asks for a model, and stored answers are judged here")

    @cached_property
    def charter(self) -> Charter:
        """The charter."""
        return Charter(self.experiment.charter)

    @cached_property
    def contract(self) -> Contract:
        """The data contract of the bundle."""
        file, root = self.experiment.paths.contract_file, self.experiment.root
        return Contract.load(root, file) if file else Contract.default()

    @property
    def train_rows(self) -> Rows:
        """The training rows, without those that were set aside."""
        rows, split = self._read(self.experiment.paths.train_file, "train"), self.experiment.split
        return set_aside(rows, split.dev, self.contract.label_of)[0] if split else rows

    @property
    def eval_rows(self) -> Rows:
        """The held-out rows."""
        return self.rows_of(None)

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite; None is `eval_file`."""
        rows = self._read(file_of(self.experiment, suite), suite or "eval")
        return turn_by_turn(rows) if self.experiment.prompt.turns == "each" else rows

    def arm(self, name: str) -> Arm:
        """Return the view of an arm that tests take."""
        return view_of(name, self.arms, self.answers, dict)

    def answers(self, arm: str, suite: str | None = None, rows: Rows | None = None) -> Mapping[str, Answer]:
        """Return the recorded answers of an arm by row id."""
        name = label(arm, suite)
        if name not in self._recorded["arms"]:
            raise NotInBundle(f"the bundle holds no answers of {name}")
        if name not in self._answers:
            found = (Answer(**answer) for answer in self._bundle.answers(self._recorded, name))
            self._answers[name] = {answer.id: answer for answer in found}
        return self._answers[name]

    def _read(self, relative: str, split: str) -> Rows:
        if relative not in self._rows:
            self._rows[relative] = self._found(relative, split)
        return self._rows[relative]

    def _found(self, relative: str, split: str) -> Rows:
        for root in (self.experiment.root, self._rules):
            if self._is_the_file(root / relative, relative):
                return read_rows(
                    root,
                    relative,
                    split,
                    max_line_bytes=self.contract.max_line_bytes,
                    columns=self.experiment.paths.columns,
                )
        return self._from_record(relative, split)

    def _is_the_file(self, file: Path, relative: str) -> bool:
        checksums = self._recorded["checksums"]
        named = [*(facts for name, facts in checksums.items() if name != "suites")]
        named += (checksums.get("suites") or {}).values()
        known = {facts["sha256"] for facts in named if facts and facts["path"] == relative}
        return file.is_file() and not file.is_symlink() and sha256_of(file) in known

    def _from_record(self, relative: str, split: str) -> Rows:
        """Rebuild held-out rows from the record, each proved by its digest."""
        told = [row for row in self._recorded["held_out"] if row["file"] == relative]
        rows = [row for facts in told if (row := self._row(facts)) is not None]
        if not told or len(rows) < len(told):
            raise NotInBundle(
                f"it needs the rows of {relative}, which are neither in the bundle nor, unchanged, in "
                f"{self._rules}: promote with --finetune-promote-data, or name the rules in "
                "their project"
            )
        return Rows(rows, path=relative, split=split)

    def _row(self, facts: Mapping[str, Any]) -> Row | None:
        for instruction in ("", *self.contract.instructions):
            row = Row(
                file=facts["file"],
                line=facts["line"],
                offset=0,
                shape="instruction",
                instruction=instruction,
                input=facts["input"],
                output=facts["expected"],
                messages=None,
                tags=tuple(facts["tags"]),
                group=facts["group"],
                raw=_Known({"instruction": instruction, **facts}),
                given_id=facts["id"],
            )
            if row.digest == facts["digest"]:
                return row
        return None


class _Known(dict[str, Any]):
    """The keys of a row that the record holds; any other key of it was there or not, nobody knows."""

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise NotInBundle(
                f"it reads {key!r} of the rows, which only their file holds: promote with --finetune-promote-data, or "
                "name the rules in their project"
            )
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> Any:
        """Return a key that the record holds."""
        return self[key]
