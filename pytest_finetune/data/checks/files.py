"""Checks on whole files: defects of the bytes, pinned checksums, number of rows, what the tokenizer counts."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.formatting import format_prompt

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.data.tokens import Limits, TokenCount, Tokenization

_LONGEST: Final = 16
_LOOKED_AT: Final = 100  # what stands before all rows stands before these


def check_files(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield what reading found, files that are not the pinned ones, and files with too few rows."""
    for rows in (train, held_out):
        yield from (*rows.defects, *rows.notes)
        pinned = contract.checksums.get(rows.path)
        if pinned is not None and pinned != rows.sha256:
            read = f"sha256 is {rows.sha256[:12]}..., the contract pins {pinned[:12]}..."
            yield finding("data/checksum", read, file=rows.path)
    for rows, split in ((train, "train"), (held_out, "eval")):
        wanted = contract.min_rows[split]
        if len(rows) < wanted and not rows.unread:
            yield _too_few(rows, wanted)


def _too_few(rows: Rows, wanted: int) -> Finding:
    asked = f"(the contract asks for {wanted})"
    if not rows.others:
        return finding("data/too-few-rows", f"{len(rows)} rows {asked}", file=rows.path)
    read = (
        f"{len(rows)} rows are left of {len(rows) + rows.others}: split.dev sets {rows.others} aside {asked}"
    )
    fix = "Set fewer rows aside (split.dev), add rows, or lower rows.min_train knowingly."
    return finding("data/too-few-rows", read, file=rows.path, fix=fix)


def check_tokens(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield rows that lose tokens or are more than the base can take, when a tokenizer is at hand."""
    tokenization = contract.tokenization
    if tokenization is None:
        return
    limits, counts = tokenization.limits, tokenization.counts(train)
    yield from token_findings(contract, train, counts, tokenization.max_length)
    for row in train:
        if not _ends_in_stop(row, tokenization):
            yield from _special_tokens(row, tokenization)
    for row, count in zip(train, counts, strict=True):
        kept = min(count.length, tokenization.max_length)
        if limits.positions is not None and kept > limits.positions:
            read = f"{kept} tokens, and the model has {limits.positions} positions"
            yield finding("tokens/positions", read, file=row.file, line=row.line, digest=row.digest)
        yield from _without_embedding(row, count, limits)
    yield from asked_findings(held_out, tokenization)
    yield from _two_starts(train, tokenization)


def _two_starts(rows: Rows, tokenization: Tokenization) -> Iterator[Finding]:
    """Yield the first row that brings the token which the tokenizer puts before every text anyway."""
    start, prompt = tokenization.start, tokenization.prompt
    asked = ((row, str(format_prompt(row, prompt))) for row in rows[:_LOOKED_AT]) if start else ()
    row = next((row for row, text in asked if text.startswith(start)), None)
    if row is not None:
        read = f"the prompt begins with {start!r}, which the tokenizer puts before it as well"
        yield finding("tokens/two-starts", read, file=row.file, line=row.line, digest=row.digest)


def asked_findings(held_out: Rows, tokenization: Tokenization) -> Iterator[Finding]:
    """Yield rows that cannot be asked as they stand there: refused by the template, too long, of unknown tokens."""
    limits = tokenization.limits
    for row in held_out:
        yield from _special_tokens(row, tokenization)
    counts = tokenization.counts(held_out)
    yield from _more_than_positions(held_out, counts, limits)
    for row, count in zip(held_out, counts, strict=True):
        yield from _prompt_findings(row, count)
        if limits.room is not None and 0 < limits.room < count.prompt:
            read = f"a prompt of {count.prompt} tokens, and generation.max_new_tokens leaves {limits.room}"
            yield finding("tokens/no-room", read, file=row.file, line=row.line, digest=row.digest)
        yield from _without_embedding(row, count, limits)


def _more_than_positions(held_out: Rows, counts: Sequence[TokenCount], limits: Limits) -> Iterator[Finding]:
    """Yield once that no prompt has room, however short it is: the setting is at fault, not the rows."""
    if limits.positions is None or limits.room is None or limits.room > 0 or not counts:
        return
    most = limits.positions - max(count.prompt for count in counts)
    read = f"generation.max_new_tokens {limits.new_tokens} is not less than the model's {limits.positions} positions"
    fix = f"Set generation.max_new_tokens to at most {most}." if most > 0 else None
    yield finding("tokens/no-room", read, file=held_out.path, fix=fix)


def _prompt_findings(row: Row, count: TokenCount) -> Iterator[Finding]:
    """Yield what keeps a row from being asked as it is taught, or its answer from being given at all."""
    say = partial(finding, file=row.file, line=row.line, digest=row.digest)
    if count.refused:
        yield say("chat/refused", count.refused)
    if not count.kept:
        yield say("tokens/prompt", count.apart)
    if count.rewritten is not None:
        yield say("chat/answer", f"the answer is {row.output!r}, and the template writes {count.rewritten!r}")


def _special_tokens(row: Row, tokenization: Tokenization) -> Iterator[Finding]:
    found = [token for token in tokenization.special if token in _said(row)]
    stops = [token for token in found if token in tokenization.stops]
    if found:
        rule = "tokens/stop-token" if stops else "tokens/special-token"
        read = f"the answer holds {(stops or found)[0]!r}"
        yield finding(rule, read, file=row.file, line=row.line, digest=row.digest)


def _said(row: Row) -> str:
    """Return the text of an answer; its calls are written by the chat template, with the tokens that belong there."""
    return row.output if row.messages is None else str(row.messages[-1]["content"])


def _ends_in_stop(row: Row, tokenization: Tokenization) -> bool:
    """Tell whether the one special token of an answer is the stop token at its end, which training leaves as it is."""
    ends = [token for token in tokenization.stops if row.output.endswith(token)]
    bare = row.output.removesuffix(ends[0]) if ends else row.output
    return bool(ends) and not any(token in bare for token in tokenization.special)


def longest(rows: Sequence[Row]) -> list[Row]:
    """Return the few rows with the longest questions: one of them is too long when any is."""
    return heapq.nlargest(_LONGEST, rows, key=lambda row: len(row.instruction) + len(row.input))


def _without_embedding(row: Row, count: TokenCount, limits: Limits) -> Iterator[Finding]:
    if limits.embeddings is not None and count.highest >= limits.embeddings:
        read = f"token id {count.highest}, and the model has {limits.embeddings} embeddings"
        yield finding("tokens/vocabulary", read, file=row.file, line=row.line, digest=row.digest)


def token_findings(
    contract: ContractRules, rows: Sequence[Row], counts: Sequence[TokenCount], max_length: int
) -> Iterator[Finding]:
    """Yield the findings of token counts made elsewhere; one count a row, in order."""
    cut = [(row, count) for row, count in zip(rows, counts, strict=True) if count.length > max_length]
    if len(cut) > contract.max_truncated:
        for row, count in cut:
            read = f"{count.length} tokens, cut at {max_length}"
            yield finding("tokens/truncated", read, file=row.file, line=row.line, digest=row.digest)
    for row, count in zip(rows, counts, strict=True):
        if count.supervised(max_length) == 0 and not count.refused:
            read = f"the prompt has {count.prompt} tokens, the row {count.length}, and {max_length} are kept"
            yield finding("tokens/unsupervised", read, file=row.file, line=row.line, digest=row.digest)
        if count.length <= max_length and not count.stops:
            read = "no stop token after the answer"
            if count.ending:
                read = (
                    f"the answer ends in {count.ending!r}, which stops no answer of this base: name it in eos_token_id "
                    "of its generation_config.json as well"
                )
            yield finding("tokens/no-eos", read, file=row.file, line=row.line, digest=row.digest)
        yield from _prompt_findings(row, count)
