"""A disk that is full while a training writes to it: room is made of what is not needed, and tried once more."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SAFETENSORS: Final = re.compile(r"\(os error (\d+)\)")
_TORCH: Final = re.compile(r"PytorchStreamWriter failed writing|inline_container|unexpected pos")
"""What torch says of a file that it cannot write, without the system's reason."""


def write_or_make_room(write: Callable[[], None], make_room: Callable[[], None], folder: Path) -> None:
    """Write into a folder; where its disk is full, make room and write once more. OSError where it stays full."""
    try:
        with system_errors(folder):
            write()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        make_room()
        with system_errors(folder):
            write()


@contextlib.contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Raise what torch and safetensors say of a full disk as the OSError that it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _number(error: Exception) -> int | None:
    if found := _SAFETENSORS.search(str(error)):
        return int(found[1])
    return errno.ENOSPC if isinstance(error, RuntimeError) and _TORCH.search(str(error)) else None
