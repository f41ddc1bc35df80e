"""Rows of data sets that the `datasets` library keeps: a folder that it saved, or one of the hub's in its cache.

Both are Arrow files, and are read as such. Reading never asks the hub: `fetch_data_set` does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.columnar import Record, read_columns
from pytest_finetune.data.findings import Finding
from pytest_finetune.errors import FinetuneError, lacking
from pytest_finetune.experiment.data_sets import DATA_FILES, HUB, HubDataSet, hub_data_set, naming_problem
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.fingerprint.hub import cached_commit, data_set_cache
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import Json

_INFO: Final = "dataset_info.json"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_WORDS: Final = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where `datasets` sets an underscore into a name before it writes it small."""


class DataSetError(FinetuneError):
    """A data set cannot be read; the message says why and what to do."""


class DataSet(NamedTuple):
    """The Arrow files of one split, in order; `commit` is the hub's."""

    files: tuple[Path, ...]
    commit: str | None = None


class _Kept(NamedTuple):
    """One configuration of a data set in the cache, at one commit."""

    folder: Path
    info: Json

    @property
    def config(self) -> str:
        return str(self.info.get("config_name", self.folder.parent.parent.name))

    @property
    def splits(self) -> Json:
        return self.info.get("splits") or {}


def is_data_set(path: Path, named: str) -> bool:
    """Tell whether a name of rows stands for a data set rather than for a file, which would lie at `path`."""
    return named.startswith(HUB) or path.is_dir()


def read_data_set(path: Path, named: str) -> Iterator[Record | Finding]:
    """Yield the rows of a data set and the findings about it; each row is known by its number."""
    try:
        found = find_data_set(path, named)
    except DataSetError as error:
        yield finding("data/data-set", str(error), file=named)
        return
    number = 0
    for file in found.files:
        for item in read_columns(file, named, after=number):
            number += 1
            yield item
    if not number:
        yield finding("data/empty-file", "a data set without a row", file=named)
    asked = hub_data_set(named)
    if asked and found.commit and asked.revision != found.commit:
        fix = f"To hold on to these rows, name them {asked.at(found.commit)}."
        yield finding("data/revision", f"its rows are those of commit {found.commit}", file=named, fix=fix)


def digest_of(root: Path, named: str) -> str | None:
    """Return the SHA-256 of a file of rows; of a data set that of its rows as JSON lines. None when it is not here."""
    path = root / named
    if not is_data_set(path, named):
        return sha256_of(path) if path.is_file() else None
    digest = hashlib.sha256()
    for item in read_data_set(path, named):
        if isinstance(item, Record):
            digest.update(json.dumps(item.value, sort_keys=True).encode("ascii") + b"\n")
        elif item.rule == "data/data-set":
            return None
    return digest.hexdigest()


def fetch_data_set(named: str) -> DataSet:
    """Bring a data set of the hub into the cache as it is there now; DataSetError says why that did not work."""
    asked = hub_data_set(named)
    if asked is not None and (failed := _fetch(asked)):
        raise DataSetError(f"{named} could not be fetched: {failed}")
    return find_data_set(Path(named), named)


def is_here(named: str) -> bool:
    """Tell whether a data set of this name is here; a file of rows is nobody's to fetch."""
    asked = hub_data_set(named)
    return asked is None or isinstance(_cached(asked), DataSet)


def find_data_set(path: Path, named: str) -> DataSet:
    """Return the files of a data set; DataSetError says why it is not here."""
    if problem := naming_problem(path, named):
        raise DataSetError(problem)
    asked = hub_data_set(named)
    if asked is None:
        return DataSet(tuple(path / name for name in _data_files(path / DATA_FILES)))
    found = _cached(asked)
    if isinstance(found, DataSet):
        return found
    raise DataSetError(found)


def _data_files(state: Path) -> list[str]:
    try:
        return [Path(file["filename"]).name for file in json.loads(state.read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSetError(f"{state.name} does not name its data files: {one_line(error)}") from None


def _cached(asked: HubDataSet) -> DataSet | str:
    """Return the files of a split as the cache of `datasets` holds them, else what is missing there."""
    organisation, _, name = asked.name.partition("/")
    written = _WORDS.sub("_", name).lower()
    kept = sorted(_kept(data_set_cache() / f"{organisation}___{written}"), key=_age)
    commit = cached_commit(f"datasets--{asked.name.replace('/', '--')}", asked.revision)
    of_commit = [one for one in kept if one.folder.name == commit]
    if asked.revision is None and not of_commit:
        of_commit = [one for one in kept if one.folder.name == kept[-1].folder.name]
    if not of_commit:
        at = f" at {asked.revision}" if asked.revision else ""
        return f"{asked.name}{at} is not in the cache of `datasets` ({data_set_cache()})"
    found = _split(of_commit, asked.words)
    if isinstance(found, str):
        return f"{asked.name} {found}"
    folder, split, shards = found
    parts = [f"-{at:05d}-of-{shards:05d}" for at in range(shards)] if shards > 1 else [""]
    files = tuple(folder / f"{written}-{split}{part}.arrow" for part in parts)
    if lost := next((file for file in files if not file.is_file()), None):
        return f"{asked.name} is not whole in the cache of `datasets`: there is no {lost}"
    return DataSet(files, folder.name if _COMMIT.fullmatch(folder.name) else None)


def _age(kept: _Kept) -> int:
    return kept.folder.stat().st_mtime_ns


def _kept(folder: Path) -> Iterator[_Kept]:
    for file in folder.glob(f"*/*/*/{_INFO}"):
        try:
            info = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(info, dict):
            yield _Kept(file.parent, info)


def _split(kept: Sequence[_Kept], words: Sequence[str]) -> tuple[Path, str, int] | str:
    """Return the folder, the split and its number of files that the words name, else why they name none."""
    *config, split = words if len(words) == 2 else (*words, "")[:1]
    if len(words) == 1 and any(one.config == split for one in kept):
        config, split = [split], ""
    of_config = [one for one in kept if not config or one.config == config[0]]
    having = [one for one in of_config if split in one.splits or (not split and len(one.splits) == 1)]
    if len(having) > 1:
        having = [one for one in having if one.config == "default"] or having
    if len(having) != 1:
        there = ", ".join(f"{one.config}/{name}" for one in kept for name in one.splits)
        return f"holds {there} in the cache: name one of them, as {HUB}ORG/NAME/CONFIG/SPLIT"
    split = split or next(iter(having[0].splits))
    return having[0].folder, split, len(having[0].splits[split].get("shard_lengths") or [0])


def _fetch(asked: HubDataSet) -> str:
    """Bring a data set into the cache of `datasets`; return why that did not work, nothing where it did."""
    if absent := lacking("datasets"):
        return f"fetching it needs {absent}"
    import datasets

    configs = [asked.words[0]] if len(asked.words) == 2 else [None, *asked.words]
    failed = ""
    for config in configs:
        try:
            datasets.load_dataset(asked.name, config, revision=asked.revision)
            return ""
        except Exception as error:  # what its readers, the network and a name that is none let through
            failed = failed or one_line(error)[:300]
    return failed
