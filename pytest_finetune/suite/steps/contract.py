"""The contract as a session uses it: findings are computed once for the same rows, and put down in the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_finetune.data.contract import Contract

if TYPE_CHECKING:
    from pytest_finetune.data.findings import Findings
    from pytest_finetune.data.rows import Rows


class SessionContract(Contract):
    """A contract that remembers its findings; the built-in check and the user's test share one computation."""

    _found: tuple[Rows, Rows, Findings] | None
    _note: Callable[[Findings], None]

    @classmethod
    def of(cls, contract: Contract, note: Callable[[Findings], None]) -> SessionContract:
        """Return the same contract; `note` hears of every result."""
        values: dict[str, Any] = {
            field.name: getattr(contract, field.name) for field in dataclasses.fields(contract)
        }
        made = cls(**values)
        object.__setattr__(made, "_found", None)
        object.__setattr__(made, "_note", note)
        return made

    def findings(self, train: Rows, held_out: Rows) -> Findings:
        """Check both files against the contract; an empty list when all holds."""
        if self._found is None or self._found[0] is not train or self._found[1] is not held_out:
            # super() without arguments does not work here: slotted dataclasses are made twice.
            object.__setattr__(self, "_found", (train, held_out, Contract.findings(self, train, held_out)))
            assert self._found is not None
            self._note(self._found[2])
        return self._found[2]
