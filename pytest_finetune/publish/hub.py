"""Push a bundle to a branch of the Hub, in one commit, and read it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_finetune.bundle.format import MANIFEST, BundleError, parse
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.publish.hub_repository import Branch, RemoteFile, Repository
from pytest_finetune.publish.parcel import Parcel, Pushed, PushError
from pytest_finetune.publish.target import HubTarget
from pytest_finetune.wording import counted, one_line, size

_RULES: Final = ".gitattributes"  # what the Hub itself puts into every repository
_NAMED: Final = 5


def branch_name(parcel: Parcel) -> str:
    """Name the branch of an adapter: every adapter has its own."""
    return f"finetune-{parcel.adapter_sha256[:12]}"


def push(parcel: Parcel, target: HubTarget, *, create: bool) -> Pushed:
    """Push to the target's branch; `create` allows a new private repository. Raises PushError.

    A branch that holds anything but this very bundle is left as it is.
    """
    repository = Repository.opened(target.repository)
    name = target.branch or branch_name(parcel)
    place = f"hf://{target.repository}@{name}"
    branches = repository.branches()
    told = []
    if branches is None:
        branches = _created(repository, create)
        told.append(("repository", f"{target.repository} was created, private"))
    fresh = name not in branches or (target.branch is None and branches[name] == branches.get("main"))
    if name not in branches:
        branches = repository.with_branch(name)
    branch = repository.at(name, branches[name])
    if not fresh and _holds(repository, branch, parcel, place):
        told.append(("read back", _read_back(len(parcel.sizes), _same(parcel, branch, place))))
        return Pushed(place, repository.url(branch.commit), False, told)
    commit = _committed(repository, branch, parcel)
    there = repository.at(name, commit)
    by_sha256 = _same(parcel, there, place)
    if repository.read(there, MANIFEST) != (parcel.folder / MANIFEST).read_bytes():
        raise PushError(f"{place}: its {MANIFEST} reads other than the one that was sent; do not use it")
    told.append(("files", f"{counted(len(parcel.sizes), 'file')}, {size(parcel.total_bytes)}, in one commit"))
    told.append(("read back", _read_back(len(parcel.sizes), by_sha256)))
    return Pushed(place, repository.url(commit), True, told)


def _created(repository: Repository, allowed: bool) -> Mapping[str, str]:
    if not allowed:
        raise PushError(
            f"there is no repository {repository.name} that this token can see: create it on the Hub, or let "
            "--create make a private one"
        )
    repository.create()
    branches = repository.branches()
    if branches is None:
        raise PushError(f"{repository.name} was created and cannot be seen: may the token read it?")
    return branches


def _holds(repository: Repository, branch: Branch, parcel: Parcel, place: str) -> bool:
    """Tell whether the branch holds this very bundle; False when it is empty, PushError for anything else."""
    if MANIFEST not in branch.files:
        others = sorted(branch.files.keys() - {_RULES})
        if others:
            raise PushError(
                f"{place} holds {counted(len(others), 'file')} of something that is no bundle ({_listed(others)}): "
                "name another branch behind the @"
            )
        return False
    try:
        found = parse(repository.read(branch, MANIFEST))
    except BundleError as error:
        raise PushError(f"{place} holds a bundle that is damaged ({error}): name another branch") from None
    if found.digest == parcel.digest:
        return True
    theirs = f"{found.digest[:12]} of adapter {one_line(found.adapter_sha256[:12])}"
    raise PushError(
        f"{place} holds another bundle ({theirs}; this one is {parcel.digest[:12]} of adapter "
        f"{parcel.adapter_sha256[:12]}): a branch is never overwritten, name another one behind the @"
    )


def _committed(repository: Repository, branch: Branch, parcel: Parcel) -> str:
    """Commit the bundle over whatever a new branch inherited, and return the commit."""
    additions = {name: parcel.folder / name for name in parcel.sizes}
    foreign = sorted(branch.files.keys() - additions.keys() - {_RULES})
    task = one_line(parcel.experiment["task"] or parcel.experiment["name"], 60)
    summary = f"{parcel.verdict}: {task}, adapter {parcel.adapter_sha256[:12]}"
    return repository.commit(branch, additions, foreign, summary)


def _same(parcel: Parcel, branch: Branch, place: str) -> int:
    """Compare every file with what the Hub says it has; return how many it names by SHA-256."""
    wrong = [name for name in parcel.sizes if not _is(parcel, name, branch.files.get(name))]
    wrong += sorted(branch.files.keys() - parcel.sizes.keys() - {_RULES})
    if wrong:
        raise PushError(
            f"{place} does not hold this bundle: {_listed(wrong)} "
            f"{'is' if len(wrong) == 1 else 'are'} not as it was sent; do not use it (commit {branch.commit[:12]})"
        )
    return sum(1 for name in parcel.sizes if branch.files[name].sha256 is not None)


def _is(parcel: Parcel, name: str, there: RemoteFile | None) -> bool:
    if there is None:
        return False
    if there.sha256 is not None:  # the manifest lists neither itself nor its signature
        return there.sha256 == (parcel.bundle.manifest.files.get(name) or sha256_of(parcel.folder / name))
    return there.blob == _git_blob(parcel.folder / name)


def _git_blob(file: Path) -> str:
    """Return the name that git gives to these bytes; the Hub knows a file outside LFS by nothing else."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _read_back(total: int, by_sha256: int) -> str:
    rest = total - by_sha256
    ways = [f"{by_sha256} by SHA-256"] if by_sha256 else []
    ways += [f"{rest} by git's digest"] if rest else []
    files = counted(total, "file")
    return f"the Hub has {files} as the bundle has them ({', '.join(ways)}), and {MANIFEST} byte by byte"


def _listed(names: list[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
