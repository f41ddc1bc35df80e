"""Writing that survives a crash, and file-system errors that a user can act on."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_finetune.errors import FinetuneError

_WHAT_TO_DO: Final = {
    errno.ENOSPC: "the disk is full; free space (see `pytest-finetune gc`), or use --finetune-store=DIR",
    errno.EDQUOT: "the disk quota is used up; free space there, or use --finetune-store=DIR",
    errno.EROFS: "the file system is read-only; use --finetune-store=DIR for a folder that can be written",
    errno.EACCES: "permission denied; give this user the right to write there, or use --finetune-store=DIR",
    errno.EPERM: "permission denied; give this user the right to write there, or use --finetune-store=DIR",
    errno.ENOTDIR: "a file stands where the store needs a folder; move it, or use --finetune-store=DIR",
    errno.EEXIST: "a file stands where the store needs a folder; move it, or use --finetune-store=DIR",
    errno.EIO: "the disk reports an input/output error; check it before anything else is trusted to it",
}


_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL: Final = _NO_ROOM | {errno.EROFS}
"""A disk that takes nothing more, whatever the reason."""
_RUST_ERROR: Final = re.compile(r"\(os error (\d+)\)")


class StoreError(FinetuneError):
    """The store cannot do what was asked; the message says where, why and what to do."""


@contextlib.contextmanager
def explained(action: str, place: Path, *, only: frozenset[int] | None = None) -> Iterator[None]:
    """Turn an OSError in the block into a StoreError that names the action, the place and the way out.

    With `only`, errors of other numbers pass as they are. safetensors raises an error of its own with
    the number in its text; that counts too.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise StoreError(explanation(action, place, error)) from error
    except Exception as error:
        found = _RUST_ERROR.search(str(error))
        if found is None or int(found[1]) not in FULL:
            raise
        raise StoreError(explanation(action, place, OSError(int(found[1]), str(error)))) from error


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error is that of a disk, or a quota, with no room left; safetensors says it in its text."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    found = _RUST_ERROR.search(str(error)) if error is not None else None
    return found is not None and int(found[1]) in _NO_ROOM


def explanation(action: str, place: Path, error: OSError) -> str:
    """Say in one line what failed, where, and what to do about it."""
    remedy = _WHAT_TO_DO.get(error.errno or 0, error.strerror or str(error))
    return f"store: cannot {action} at {place}: {remedy}"


def temporary_name() -> str:
    """Return a name that no other writer on any machine uses: ``tmp-<host>-<pid>-<uuid>``."""
    return f"tmp-{host_name()}-{os.getpid()}-{uuid.uuid4().hex}"


def host_name() -> str:
    """Return this machine's name with only letters, digits, dots and underscores."""
    return re.sub(r"[^0-9A-Za-z._]", "_", socket.gethostname()) or "host"


def write_durably(file: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on the disk; FileExistsError when it exists."""
    with file.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_atomically(file: Path, data: bytes) -> None:
    """Replace a file's content so that a reader sees the old or the new one, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.parent / f".{temporary_name()}"
    try:
        write_durably(part, data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_file(file: Path) -> None:
    """Wait until the bytes of an existing file are on the disk."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk."""
    if os.name == "nt":
        return  # Windows cannot open a folder; NTFS journals its names
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places: in one step on Linux, else in three, of which a crash may see two."""
    if sys.platform == "linux" and _exchange_at_once(one, other):
        return
    spare = one.with_name(temporary_name())
    other.rename(spare)
    one.rename(other)
    spare.rename(one)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Call renameat2(2), for which Python has no name; False where kernel or file system lacks it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_cwd, exchange_names = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange_names) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def remove_tree(path: Path) -> None:
    """Remove a folder, a file or a link (never what it points to); nothing happens when it is gone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=False)
