"""The data contract: a YAML file in, one frozen `Contract` out, whose `findings` are empty when all holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import FROM_THE_STORE, RULES, finding, printable
from pytest_finetune.data.checks import BUILT_IN
from pytest_finetune.data.checks.labels import label_in
from pytest_finetune.data.checks.outputs import answer_problems
from pytest_finetune.data.contract_mistakes import mistakes
from pytest_finetune.data.contract_rules import (
    ContractRules,
    DataCheck,
    LabelRules,
    LeakageRules,
    PrivacyRules,
)
from pytest_finetune.data.detectors import redact
from pytest_finetune.data.findings import Finding, Findings, Waiver
from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.yamlfile import Json, JsonTree, Problem, YamlError, YamlFile, check, load_yaml

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.data.tokens import Tokenization


class ContractError(FinetuneError, ValueError):
    """The contract file cannot be used; a line for each mistake: ``file:line: key: found, allowed``."""


@dataclass(frozen=True, slots=True)
class Contract(ContractRules):
    """A data contract: `findings` are empty when the rows are what it asks for."""

    @classmethod
    def load(cls, root: Path, relative: str, *, today: date | None = None) -> Contract:
        """Read a contract file; ContractError lists every mistake in it.

        `today` decides which waivers have expired; the system's date when not given.
        """
        return _load(root, relative, today or date.today())

    @classmethod
    def default(cls) -> Contract:
        """Return the contract of an experiment without one: only what holds for any rows.

        Defects, duplicates, conflicts, leakage and secrets; personal data is the owner's to judge.
        """
        contract = _build({"privacy": {"personal_data": "allow"}}, None, None, date.max)
        return replace(contract, output_format=None)

    def label_of(self, output: str) -> str | None:
        """Return an answer's label as text, None when it has none or the contract knows no labels."""
        return label_in(self, output)

    def problems_of(self, answer: str) -> list[str]:
        """Return how an answer breaks the contract, in words; empty when it keeps it. For rules::

        def test_strict_json(response, contract):
            assert contract.problems_of(response.text) == []
        """
        return answer_problems(self, answer)

    def with_checks(self, *checks: DataCheck) -> Contract:
        """Return the contract with further checks, which take the training and the held-out rows."""
        return replace(self, extra_checks=(*self.extra_checks, *checks))

    def with_tokens(self, tokenization: Tokenization) -> Contract:
        """Return the contract with a tokenizer at hand, so that the tokens rules are checked as well."""
        return replace(self, tokenization=tokenization)

    def findings(self, train: Rows, held_out: Rows) -> Findings:
        """Check both files against the contract; an empty list when all holds.

        Findings that the contract waives are in `.waived`. No finding holds a secret or personal data.
        """
        found = [finding for check in BUILT_IN for finding in check(self, train, held_out)]
        for further in self.extra_checks:
            found.extend(_masked(finding) for finding in further(train, held_out))
        return apply_waivers(_in_order(found), self.waivers, self.today, self.file)


def _masked(finding: Finding) -> Finding:
    """Mask what a check outside this package may have quoted."""
    return finding if finding.rule in RULES else replace(finding, read=printable(redact(finding.read)))


def _in_order(found: Sequence[Finding]) -> list[Finding]:
    rank = {rule: number for number, rule in enumerate(RULES)}
    return sorted(
        dict.fromkeys(found),
        key=lambda finding: (
            rank.get(finding.rule, len(rank)),
            finding.rule,
            finding.file or "",
            finding.line or 0,
        ),
    )


def apply_waivers(
    found: Sequence[Finding], waivers: Sequence[Waiver], today: date, contract_file: str | None
) -> Findings:
    """Take the waived findings out of the list; expired waivers accept nothing, unused ones are told."""
    valid = [waiver for waiver in waivers if not _expired(waiver, today)]
    kept: list[Finding] = []
    waived: list[tuple[Finding, Waiver]] = []
    for item in found:
        waiver = next((waiver for waiver in valid if waiver.covers(item)), None)
        if waiver is None:
            kept.append(item)
        else:
            waived.append((item, waiver))
    used = {waiver for _, waiver in waived}
    told = _told(waivers, used, today, contract_file, found)
    return Findings([*kept, *told], waived)


def _told(
    waivers: Sequence[Waiver], used: set[Waiver], today: date, file: str | None, found: Sequence[Finding]
) -> Iterator[Finding]:
    for waiver in waivers:
        if _expired(waiver, today):
            if any(waiver.covers(item) for item in found):
                read = f"the waiver of {waiver.rule} ended on {waiver.expires} ({waiver.reason})"
                yield finding("contract/waiver-expired", read, file=file)
        elif waiver not in used and waiver.rule not in FROM_THE_STORE:
            yield finding(
                "contract/waiver-unused", f"the waiver of {waiver.rule} ({waiver.reason})", file=file
            )


def _expired(waiver: Waiver, today: date) -> bool:
    return waiver.expires is not None and date.fromisoformat(waiver.expires) < today


@cache
def schema() -> Json:
    """Return the JSON Schema of the contract file."""
    text = (Path(__file__).parent / "contract.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def _load(root: Path, relative: str, today: date) -> Contract:
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ContractError(f"{relative}: lies outside the project {str(root)!r}")
    try:
        file = load_yaml(path, relative)
    except FileNotFoundError:
        raise ContractError(f"{relative}: no such contract file in {str(root)!r}") from None
    except (YamlError, OSError) as error:
        raise ContractError(str(error)) from None
    problems = list(_problems(file))
    if problems:
        raise ContractError("\n".join(problem.at(relative) for problem in problems))
    return _build(file.tree, relative, sha256_of(path), today)


def _problems(file: YamlFile) -> Iterator[Problem]:
    if not isinstance(file.tree, dict):
        found = "nothing" if file.tree is None else type(file.tree).__name__
        yield Problem(1, "", f"a contract is a mapping of keys; this file holds {found}")
        return
    broken = check(file, schema())
    yield from broken or mistakes(file)


def _build(tree: Json, file: str | None, sha256: str | None, today: date) -> Contract:
    resolved = _with_defaults(tree, schema())
    output, rows = resolved["output"], resolved["rows"]
    instruction = resolved.get("instruction", [])
    answer_schema = output.get("schema")
    if answer_schema is not None:
        output["format"] = "json"
    return Contract(
        file,
        sha256,
        instructions=(instruction,) if isinstance(instruction, str) else tuple(instruction),
        output_format=output["format"],
        schema=answer_schema,
        pattern=output.get("pattern"),
        stable_keys=output["stable_keys"],
        labels=_label_rules(resolved, answer_schema) if "labels" in tree else None,
        min_rows={"train": rows["min_train"], "eval": rows["min_eval"]},
        max_line_bytes=rows["max_line_bytes"],
        tags=resolved["tags"],
        max_truncated=resolved["tokens"]["max_truncated"],
        leakage=LeakageRules(**resolved["leakage"]),
        privacy=PrivacyRules(**resolved["privacy"]),
        scope_patterns=tuple(resolved.get("out_of_scope_patterns", ())),
        checksums=resolved.get("checksums", {}),
        waivers=tuple(Waiver(**waiver) for waiver in resolved.get("waivers", ())),
        resolved=resolved,
        today=today,
    )


def _with_defaults(tree: Json, described: Json) -> JsonTree:
    """Return a copy of `tree` with the schema's defaults in every section."""
    full: JsonTree = {}
    for key, rule in described["properties"].items():
        if "$ref" in rule:
            rule = schema()["$defs"][rule["$ref"].rpartition("/")[2]]
        if "properties" in rule:
            full[key] = _with_defaults(tree.get(key) or {}, rule)
        elif key in tree:
            full[key] = json.loads(json.dumps(tree[key]))
        elif "default" in rule:
            full[key] = rule["default"]
    return full


def _label_rules(resolved: Json, answer_schema: object) -> LabelRules:
    labels = dict(resolved["labels"])
    values = labels.pop("values", None)
    if values is None:
        values = _enum_at(answer_schema, labels["field"])
    return LabelRules(values=tuple(values), **labels)


def _enum_at(answer_schema: object, dotted: str | None) -> Sequence[object]:
    part = answer_schema
    for key in dotted.split(".") if dotted else ():
        part = part.get("properties", {}).get(key) if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping):
        return ()
    found = [part["const"]] if "const" in part else part.get("enum", ())
    return found if isinstance(found, Sequence) else ()
