"""Checks that need the tokenizer: rows that are cut, answers that teach nothing, missing stop tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import finding

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.data.tokens import TokenCount


def check_tokens(contract: Contract, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield training rows that lose tokens, when a tokenizer is at hand (`Contract.with_tokens`)."""
    tokenization = contract.tokenization
    if tokenization is None:
        return
    counts = tokenization.counts(train)
    yield from token_findings(contract, train, counts, tokenization.max_length)


def token_findings(
    contract: Contract, rows: Sequence[Row], counts: Sequence[TokenCount], max_length: int
) -> Iterator[Finding]:
    """Yield the findings of token counts made elsewhere; one count a row, in order."""
    cut = [(row, count) for row, count in zip(rows, counts, strict=True) if count.length > max_length]
    if len(cut) > contract.max_truncated:
        for row, count in cut:
            read = f"{count.length} tokens, cut at {max_length}"
            yield finding("tokens/truncated", read, file=row.file, line=row.line, digest=row.digest)
    for row, count in zip(rows, counts, strict=True):
        if count.supervised(max_length) == 0:
            read = f"the prompt has {count.prompt} tokens, the row {count.length}, and {max_length} are kept"
            yield finding("tokens/unsupervised", read, file=row.file, line=row.line, digest=row.digest)
        if count.length <= max_length and not count.stops:
            read = "no stop token after the answer"
            yield finding("tokens/no-eos", read, file=row.file, line=row.line, digest=row.digest)
        if not count.kept and not count.chat:
            read = "the last tokens of the prompt are others once the answer follows"
            yield finding("tokens/prompt", read, file=row.file, line=row.line, digest=row.digest)
