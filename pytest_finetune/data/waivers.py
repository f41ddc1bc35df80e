"""Accept single findings: each waiver names a rule, a reason and, if it likes, a place and a last day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from pytest_finetune.data.catalogue import FROM_THE_STORE, finding
from pytest_finetune.data.findings import Finding, Findings, Waiver


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
