"""Advisory locks on files: a dead holder frees them, and nothing is wrong without them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pytest_finetune.store.disk import host_name

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, every caller goes on without
    fcntl = None  # type: ignore[assignment]

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_TRIES: Final = 5
_REMINDER_S: Final = 60.0
_DEAD_S: Final = 1.0  # a new holder needs a moment to write its name over that of a dead one
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK})


@dataclass(frozen=True, slots=True)
class Lock:
    """The outcome of asking for a lock; `held` is False when waiting ended without it."""

    held: bool
    waited_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that is held until `release`, or until the process ends."""

    file: Path
    handle: int

    def release(self) -> None:
        """Give the lock back and remove its file."""
        # Removed while it is still held: whoever waits on this file sees that its name is gone.
        with contextlib.suppress(OSError):
            self.file.unlink()
        os.close(self.handle)


@contextlib.contextmanager
def file_lock(
    file: Path, on_wait: Callable[[str], None], what: str, timeout_s: float, warn: Callable[[str], None]
) -> Iterator[Lock]:
    """Hold the lock `file` for the block, or go on without it after `timeout_s` and a warning.

    While another process holds it, `on_wait` hears who does and since when: at once, then once a minute.
    The file is removed when the lock is released.
    """
    started = time.monotonic()
    held = first_free([file], on_wait, what, timeout_s, lambda text: warn(f"store: {text}"))
    try:
        yield Lock(held is not None, time.monotonic() - started)
    finally:
        if held is not None:
            held.release()


@contextlib.contextmanager
def free_lock(file: Path) -> Iterator[bool]:
    """Hold the lock `file` for the block when nobody holds it; False, at once, when that cannot be had."""
    held = None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            held = _try(file)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def shared(file: Path) -> int | None:
    """Mark a file as in use until the returned handle is closed; None where there are no locks."""
    if fcntl is None:
        return None
    for _ in range(_TRIES):  # a collection holds a file for a moment while it looks at it
        handle = _take(file, fcntl.LOCK_SH)
        if handle is not None or not file.exists():
            return handle
        time.sleep(_FIRST_PAUSE_S)
    return None


def exclusive(path: Path) -> int | None:
    """Take a file or folder that nobody uses; None when somebody does or when that cannot be told."""
    if fcntl is None:
        return None
    return _take(path, fcntl.LOCK_EX)


def _take(path: Path, operation: int) -> int | None:
    try:
        # Without O_NONBLOCK, a foreign pipe in place of the file would hold us up for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, operation | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextlib.contextmanager
def whole_file(handle: int) -> Iterator[None]:
    """Keep other writers of an open file out for the block, which must be short; best effort."""
    locked = False
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
    try:
        yield
    finally:
        if locked:
            fcntl.flock(handle, fcntl.LOCK_UN)


def first_free(
    files: Sequence[Path],
    on_wait: Callable[[str], None],
    what: str,
    timeout_s: float,
    warn: Callable[[str], None],
) -> Held | None:
    """Take the first of the locks `files` that is free, or becomes free; None where that cannot be had.

    That is after `timeout_s`, and on a file system without locks; each with a warning. While others hold them all,
    `on_wait` hears who does and since when: at once, then once a minute.
    """
    if fcntl is None:
        return None
    pause, told, deadline = _FIRST_PAUSE_S, 0.0, time.monotonic() + timeout_s
    seen_dead: dict[Path, float] = {}
    while True:
        try:
            held = next(filter(None, map(_try, files)), None)
        except OSError as error:
            warn(f"no lock for {what} ({error.strerror}); going on without it")
            return None
        if held is not None:
            return held
        owners = {file: _owner(file) for file in files}
        now = time.monotonic()
        if _freed_after_the_dead(owners, seen_dead, now):
            continue
        who = "; ".join(map(_who, owners.values()))
        if now >= deadline:
            warn(f"{what} is still locked by {who}; going on without the lock")
            return None
        if not told or now - told >= _REMINDER_S:
            on_wait(f"waiting for {what}, locked by {who}")
            told = now
        time.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _freed_after_the_dead(
    owners: Mapping[Path, Mapping[str, Any]], seen_dead: dict[Path, float], now: float
) -> bool:
    """Free locks that live on in a child that their dead holder left: a new file is a new lock."""
    freed = False
    for file, owner in owners.items():
        if not _is_dead(owner):
            seen_dead.pop(file, None)
        elif now - seen_dead.setdefault(file, now) >= _DEAD_S:
            file.unlink(missing_ok=True)
            del seen_dead[file]
            freed = True
    return freed


def _try(file: Path) -> Held | None:
    """Try once; None when it is held."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _still_named(handle, file):  # its last holder removed it between our two calls
            os.close(handle)
            return _try(file)
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(_self()).encode(), 0)
    except OSError as error:
        os.close(handle)
        if error.errno in _BUSY:
            return None
        raise
    return Held(file, handle)


def _still_named(handle: int, file: Path) -> bool:
    try:
        named = file.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


def _self() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": host_name(), "namespace": _pid_namespace(), "since": since}


def _pid_namespace() -> str:
    """Name the space in which process ids count; two containers on one machine have two."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _owner(file: Path) -> Mapping[str, Any]:
    try:
        owner = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: Mapping[str, Any]) -> bool:
    """Tell that the holder is gone, only where its process id means something here."""
    pid = owner.get("pid")
    if (
        owner.get("host") != host_name()
        or owner.get("namespace") != _pid_namespace()
        or not isinstance(pid, int)
    ):
        return False
    return not process_exists(pid)


def process_exists(pid: int) -> bool:
    """Tell whether a process of this machine (this pid namespace) is alive."""
    if os.name == "nt":
        return True  # signal 0 is Ctrl-C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _who(owner: Mapping[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
