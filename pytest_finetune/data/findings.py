"""What a check found: a value that says which rule, what was read, why it matters and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from pytest_finetune.yamlfile import JsonTree

Severity = Literal["error", "warning", "note"]

PLACES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule at one place; `digest` names the row without showing it."""

    rule: str
    severity: Severity
    read: str
    why: str
    fix: str
    file: str | None = None
    line: int | None = None
    digest: str | None = None

    @property
    def place(self) -> str:
        """Return ``file:line``, as much of it as is known."""
        if self.file is None:
            return ""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def as_json(self) -> JsonTree:
        """Return the finding as the record holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Waiver:
    """A finding that its owner accepts, why, and until when (ISO date)."""

    rule: str
    reason: str
    file: str | None = None
    line: int | None = None
    digest: str | None = None
    expires: str | None = None

    def covers(self, finding: Finding) -> bool:
        """Tell whether this waiver was written for that finding.

        A digest (12 or more hex of the row's) survives edits of the file; a line does not.
        """
        if finding.rule != self.rule:
            return False
        if self.file is not None and finding.file != self.file:
            return False
        if self.line is not None and finding.line != self.line:
            return False
        return self.digest is None or (finding.digest or "").startswith(self.digest)

    def as_json(self) -> JsonTree:
        """Return the waiver as the record holds it."""
        return asdict(self)


class Findings(list[Finding]):
    """The findings of one check run; an empty list when all holds.

    `notes` are findings that nobody has to act on, `waived` pairs each accepted finding with its waiver; neither is
    in the list.
    """

    def __init__(
        self, findings: Iterable[Finding] = (), waived: Sequence[tuple[Finding, Waiver]] = ()
    ) -> None:
        found = tuple(findings)
        super().__init__(one for one in found if one.severity != "note")
        self.notes: tuple[Finding, ...] = tuple(one for one in found if one.severity == "note")
        self.waived: tuple[tuple[Finding, Waiver], ...] = tuple(waived)

    @property
    def errors(self) -> list[Finding]:
        """Return the findings that close the gate."""
        return [finding for finding in self if finding.severity == "error"]

    def by_rule(self) -> dict[str, list[Finding]]:
        """Group by rule: errors first, then the most frequent."""
        groups: dict[str, list[Finding]] = {}
        for finding in self:
            groups.setdefault(finding.rule, []).append(finding)
        ranked = sorted(groups.items(), key=lambda group: (group[1][0].severity, -len(group[1]), group[0]))
        return dict(ranked)

    def headline(self) -> str:
        """Return the counts in one sentence."""
        if not self:
            return "no findings"
        errors = len(self.errors)
        parts = [_count(errors, "error")] if errors else []
        if len(self) > errors:
            parts.append(_count(len(self) - errors, "warning"))
        return f"{' and '.join(parts)} under {_count(len(self.by_rule()), 'rule')}"

    def explain(self, limit: int = PLACES_SHOWN) -> list[str]:
        """Return readable lines, grouped by rule: count, first `limit` places, why it matters, what to do."""
        lines = [self.headline()]
        for rule, found in self.by_rule().items():
            lines.append(f"{rule}: {_count(len(found), found[0].severity)}")
            lines.extend(f"  {_placed(finding)}" for finding in found[:limit])
            if len(found) > limit:
                lines.append(f"  ... and {len(found) - limit} more")
            lines.append(f"  why: {found[0].why}")
            lines.append(f"  fix: {found[0].fix}")
        lines.extend(f"note: {_placed(finding)}" for finding in self.notes)
        if self.waived:
            lines.append(f"{_count(len(self.waived), 'finding')} waived in the contract")
        return lines

    def brief(self, lines: int = 6, characters: int = 600) -> list[str]:
        """Return at most `lines` lines and `characters` characters: what fits in a failed assertion."""
        told = [self.headline()]
        groups = list(self.by_rule().items())
        room = lines - 1 if len(groups) <= lines - 1 else lines - 2
        for rule, found in groups[:room]:
            places = _places(found, 3)
            told.append(f"{rule}: {len(found)}{f' at {places}' if places else f': {found[0].read}'}")
        if len(groups) > room:
            told.append(f"and {_count(len(groups) - room, 'more rule')}")
        width = max(40, characters // max(1, len(told)) - 1)
        return [line if len(line) <= width else line[: width - 3] + "..." for line in told]


def _placed(finding: Finding) -> str:
    return f"{finding.place}: {finding.read}" if finding.place else finding.read


def _places(found: Sequence[Finding], limit: int) -> str:
    places = list(dict.fromkeys(finding.place for finding in found if finding.place))
    more = f" and {len(places) - limit} more" if len(places) > limit else ""
    return ", ".join(places[:limit]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
