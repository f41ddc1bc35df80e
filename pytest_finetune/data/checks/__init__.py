"""The built-in checks, a file for each concern: the contract and both files in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from pytest_finetune.data.checks.conversations import check_conversations
from pytest_finetune.data.checks.files import check_files, check_tokens
from pytest_finetune.data.checks.labels import check_labels, check_tags
from pytest_finetune.data.checks.outputs import check_outputs
from pytest_finetune.data.checks.privacy import check_privacy
from pytest_finetune.data.checks.splits import check_groups, check_splits
from pytest_finetune.data.checks.texts import check_scope, check_texts
from pytest_finetune.data.contract_rules import ContractRules
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.rows import Rows

Check = Callable[[ContractRules, Rows, Rows], Iterator[Finding]]

# In the order of the flow.
BUILT_IN: Final[tuple[Check, ...]] = (
    check_files,
    check_texts,
    check_conversations,
    check_outputs,
    check_labels,
    check_tags,
    check_splits,
    check_groups,
    check_scope,
    check_privacy,
    check_tokens,
)
