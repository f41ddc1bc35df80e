"""The project that a command asks about: its experiment, its rows and its store, read when they are needed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.arguments import STORE
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import read_rows
from pytest_finetune.data.tokenizer_files import NoTokenizer
from pytest_finetune.data.tokens import tokenization_of
from pytest_finetune.experiment import load_experiment, parse_set
from pytest_finetune.store import Store, StoreError, is_url, open_store
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.experiment import Experiment


@dataclass(frozen=True)
class Project:
    """An experiment and what belongs to it."""

    experiment: Experiment
    store: Store

    @classmethod
    def of(cls, args: argparse.Namespace) -> Project:
        """Read the experiment that the arguments name; ExperimentError with every mistake in it."""
        root = folder_of(args)
        return cls(load_experiment(root, args.experiment, parse_set(args.overrides)), store_of(args))

    @cached_property
    def contract(self) -> Contract:
        """The data contract; ContractError when its file has mistakes."""
        file = self.experiment.paths.contract_file
        return Contract.load(self.experiment.root, file) if file else Contract.default()

    @cached_property
    def tokenization(self) -> Tokenization | None:
        """How rows become tokens; None when the base model's tokenizer is not here or cannot be read."""
        try:
            return tokenization_of(self.experiment)
        except TemplateError:
            return None
        except Exception as error:
            if type(error) is Exception:  # what tokenizers raises for a file that it cannot read
                return None
            raise

    def rows(self, relative: str, split: str) -> Rows:
        """Read one file of rows; defective lines are left out and counted in `defects`."""
        try:
            return read_rows(
                self.experiment.root,
                relative,
                split,
                max_line_bytes=self.contract.max_line_bytes,
                columns=self.experiment.paths.columns,
            )
        except OSError as error:
            raise CommandError(f"{relative}: cannot be read: {error.strerror or error}") from None

    def tokens(self, rows: Rows) -> Mapping[str, int] | None:
        """Return the token table of rows; None when nothing can be counted."""
        if self.tokenization is None or not rows:
            return None
        try:
            return self.tokenization.table(rows)
        except NoTokenizer:
            return None

    def heading(self) -> JsonTree:
        """Return the keys that open every answer about an experiment."""
        return {"experiment": self.experiment.file, "task": self.experiment.task}


def folder_of(args: argparse.Namespace) -> Path:
    """Return the project's folder; CommandError when there is none."""
    root: Path = args.rootdir
    if not root.is_dir():
        raise CommandError(f"--rootdir {str(root)!r}: there is no such folder")
    return root.resolve()


def store_of(args: argparse.Namespace) -> Store:
    """Return the store that the arguments name; it need not exist yet. Behind a URL, nothing is ever written."""
    named: str = args.store or STORE
    if is_url(named):
        try:
            return open_store(named, folder_of(args), readonly=True)
        except StoreError as error:
            raise CommandError(f"--store: {error}") from None
    root = folder_of(args) / Path(named).expanduser()
    if root.exists() and not root.is_dir():
        raise CommandError(f"--store {named!r}: that is a file; a store is a folder")
    return Store(root)


def existing_store_of(args: argparse.Namespace) -> Store | None:
    """Return the store, or None when nothing was stored yet; CommandError when a named one is not there."""
    store = store_of(args)
    if store.upstream is not None or store.root.is_dir():
        return store
    if args.store:
        raise CommandError(f"--store {args.store!r}: there is no such folder ({store.root})")
    return None


def place_of(store: Store) -> str:
    """Name the store as the user does: its URL, or its folder."""
    return str(store.root) if store.upstream is None else store.upstream.name


def left_out(defects: int) -> str:
    """Say that defective lines are missing from the counts."""
    found = (
        "1 defect was found and its line"
        if defects == 1
        else f"{defects:,} defects were found and their lines"
    )
    return f"{found} left out: `pytest` names each with its place"
