"""How a data set of the `datasets` library is named where a file of rows can be named, and whether it is named well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

HUB: Final = "hf://datasets/"
SPELLING: Final = f"{HUB}ORG/NAME[@REVISION][/CONFIG][/SPLIT]"
NO_FILE: Final = "there is no such file"
DATA_FILES: Final = "state.json"
"""The file of a saved data set that names its data files."""

_SPLITS: Final = "dataset_dict.json"
_NAMED: Final = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@\s]+))?(?P<words>(?:/[^/@\s]+){0,2})/?"
)


class HubDataSet(NamedTuple):
    """A data set of the hub; `words` are its configuration and split, one word is either of the two."""

    name: str
    revision: str | None
    words: tuple[str, ...]

    def at(self, revision: str) -> str:
        """Return how it is named at a revision."""
        return HUB + "/".join((f"{self.name}@{revision}", *self.words))


def hub_data_set(named: str) -> HubDataSet | None:
    """Read the name of a data set of the hub; None when it is not spelled as one."""
    found = _NAMED.fullmatch(named.removeprefix(HUB)) if named.startswith(HUB) else None
    if found is None:
        return None
    return HubDataSet(found["name"], found["revision"], tuple(filter(None, found["words"].split("/"))))


def naming_problem(path: Path, named: str) -> str | None:
    """Return what keeps rows from being read from under this name, with what to do; None where nothing is to be seen.

    `path` is where a file of that name lies. Whether a data set of the hub is here is seen when it is read.
    """
    if named.startswith("hf:"):
        return None if hub_data_set(named) else f"a data set of the hub is named {SPELLING}"
    if path.is_file() or (path / DATA_FILES).is_file():
        return None
    if (path / _SPLITS).is_file():
        splits = sorted(part.name for part in path.iterdir() if part.is_dir())
        return f"it holds the splits {', '.join(splits)}: name one of them, as {named}/{splits[0]}"
    if path.is_dir():
        return "that is a folder and no data set that `datasets` saved: name a file of rows in it"
    return NO_FILE
