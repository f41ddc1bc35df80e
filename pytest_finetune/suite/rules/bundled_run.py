"""An experiment whose answers lie in a bundle: what rules may ask for is there, and no model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pytest_finetune.answering.answers import Answer
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import Row, Rows, read_rows
from pytest_finetune.errors import FinetuneError
from pytest_finetune.store.manifest import sha256_of
from pytest_finetune.suite.run import ExperimentRun
from pytest_finetune.suite.steps.answering import label

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.markers import ExperimentRef
    from pytest_finetune.suite.session import FinetuneSession


T = TypeVar("T")


class NotInBundle(FinetuneError):
    """A rule needs what the bundle does not hold, so it is not checked; the message says what to do."""


class BundledRun(ExperimentRun):
    """The run that a bundle records, for rules that are run again over its answers."""

    def __init__(self, session: FinetuneSession, ref: ExperimentRef, bundle: Bundle) -> None:
        super().__init__(session, ref, bundle.resolved())
        self.bundle = bundle
        self.recorded = bundle.experiment
        self._absent: dict[str, str] = {}

    def begin(self) -> None:
        """Put nothing down: this run keeps no record."""

    def note(self, part: object, value: object) -> None:
        """Put nothing down."""

    def not_judged(self, rule: str, because: str) -> None:
        """Put nothing down."""

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Make a part once; what is not here is told in full to every rule that needs it."""
        if name in self._absent:
            raise NotInBundle(self._absent[name])
        try:
            return super().once(name, make)
        except NotInBundle as missing:
            self._absent[name] = str(missing)
            raise

    @property
    def contract(self) -> Contract:
        """The data contract of the bundle."""
        file, root = self.experiment.paths.contract_file, self.experiment.root
        return self.once("contract", lambda: Contract.load(root, file) if file else Contract.default())

    @property
    def adapter(self) -> NoReturn:
        """Refuse: a rule sees answers."""
        raise NotInBundle("it asks for a model, and stored answers are judged here")

    @property
    def base_model(self) -> NoReturn:
        """Refuse: a rule sees answers."""
        raise NotInBundle("it asks for a model, and stored answers are judged here")

    def runtime_named(self, name: str) -> NoReturn:
        """Refuse: nothing is asked here."""
        raise NotInBundle("it asks for a model, and stored answers are judged here")

    def answers_to(self, plan: ArmPlan, suite: str | None = None) -> Mapping[str, Answer]:
        """Return the recorded answers of an arm by row id."""
        name = label(plan.name, suite)
        return self.once(f"answers of {name}", lambda: self._answers(name))

    def _answers(self, name: str) -> Mapping[str, Answer]:
        if name not in self.recorded["arms"]:
            raise NotInBundle(f"the bundle holds no answers of {name}")
        found = (Answer(**answer) for answer in self.bundle.answers(self.recorded, name))
        return {answer.id: answer for answer in found}

    def read(self, relative: str, split: str) -> Rows:
        """Read rows from the bundle, else from the project that the rules lie in, else from the record."""
        for root in (self.experiment.root, self.session.config.rootpath):
            if self._is_the_file(root / relative, relative):
                return read_rows(root, relative, split, max_line_bytes=self.contract.max_line_bytes)
        return self._from_record(relative, split)

    def _is_the_file(self, file: Path, relative: str) -> bool:
        checksums = self.recorded["checksums"]
        named = [*(facts for name, facts in checksums.items() if name != "suites")]
        named += (checksums.get("suites") or {}).values()
        known = {facts["sha256"] for facts in named if facts and facts["path"] == relative}
        return file.is_file() and not file.is_symlink() and sha256_of(file) in known

    def _from_record(self, relative: str, split: str) -> Rows:
        """Rebuild held-out rows from the record, each proved by its digest."""
        told = [row for row in self.recorded["held_out"] if row["file"] == relative]
        rows = [row for facts in told if (row := self._row(facts)) is not None]
        if not told or len(rows) < len(told):
            raise NotInBundle(
                f"it needs the rows of {relative}, which are neither in the bundle nor, unchanged, in "
                f"{self.session.config.rootpath}: promote with --finetune-promote-data, or name the rules in "
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
