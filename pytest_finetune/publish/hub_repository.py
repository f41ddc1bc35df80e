"""One repository of the Hub through `huggingface_hub`, every failure of it in words and without the token."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pytest_finetune import __version__
from pytest_finetune.errors import install
from pytest_finetune.publish.parcel import PushError
from pytest_finetune.wording import one_line

_T = TypeVar("_T")
TOKEN: Final = "HF_TOKEN"
ENDPOINT: Final = "HF_ENDPOINT"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the Hub tells of it: git's name for its blob, and the SHA-256 of one in large file storage."""

    blob: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch at one commit."""

    name: str
    commit: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository; every method raises PushError."""

    name: str
    _api: Any = field(repr=False)
    _token: str = field(repr=False)

    @classmethod
    def opened(cls, name: str) -> Repository:
        """Take the token where `huggingface_hub` looks for it, and the endpoint from HF_ENDPOINT."""
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.utils import disable_progress_bars
        except ImportError as error:
            raise PushError(f"the Hub needs huggingface_hub ({error}): {install('hub')}") from None
        if not sys.stderr.isatty():
            disable_progress_bars()
        try:
            token = get_token()
        except Exception as error:  # a trusted publisher's exchange goes through the network
            raise PushError(f"there is no token for the Hub: {one_line(error, 300)}") from error
        if not token:
            raise PushError(
                f"there is no token for the Hub: put one that may write to {name} into {TOKEN}, "
                "or run `hf auth login`"
            )
        endpoint = os.environ.get(ENDPOINT) or None
        api = HfApi(
            endpoint=endpoint, token=token, library_name="pytest-finetune", library_version=__version__
        )
        return cls(name, api, token)

    def url(self, commit: str) -> str:
        """Return the address of a commit."""
        return f"{self._api.endpoint}/{self.name}/commit/{commit}"

    def branches(self) -> Mapping[str, str] | None:
        """Return each branch's commit; None when this token sees no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            refs = self._api.list_repo_refs(self.name)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:
                raise self._told("read the branches", error) from error
            return None
        except Exception as error:
            raise self._told("read the branches", error) from error
        return {ref.name: ref.target_commit for ref in refs.branches}

    def create(self) -> None:
        """Create the repository, private."""
        self._ask("create the repository", lambda: self._api.create_repo(self.name, private=True))

    def with_branch(self, name: str) -> Mapping[str, str]:
        """Create a branch at `main` and return all branches."""
        self._ask(f"create the branch {name}", lambda: self._api.create_branch(self.name, branch=name))
        branches = self.branches()
        if branches is None or name not in branches:
            raise PushError(f"{self.name}: the branch {name} was created and is not there")
        return branches

    def at(self, name: str, commit: str) -> Branch:
        """List what a branch holds at a commit."""

        def listing() -> dict[str, RemoteFile]:
            found = self._api.list_repo_tree(self.name, recursive=True, revision=commit)
            return {
                one.path: RemoteFile(one.blob_id, one.lfs.sha256 if one.lfs else None)
                for one in found
                if hasattr(one, "blob_id")  # a folder has none
            }

        return Branch(name, commit, self._ask(f"list the files of {name}", listing))

    def read(self, branch: Branch, file: str) -> bytes:
        """Return the bytes of one file at the branch's commit."""
        with tempfile.TemporaryDirectory() as folder:

            def download() -> str:
                return str(
                    self._api.hf_hub_download(
                        self.name, file, revision=branch.commit, local_dir=folder, force_download=True
                    )
                )

            return Path(self._ask(f"read {file} of {branch.name}", download)).read_bytes()

    def commit(self, over: Branch, add: Mapping[str, Path], delete: Sequence[str], summary: str) -> str:
        """Make one commit on top of `over`, refused by the Hub when somebody was faster; return the commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [
            *(CommitOperationDelete(path_in_repo=name) for name in delete),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in add.items()),
        ]
        made = self._ask(
            f"commit to {over.name}",
            lambda: self._api.create_commit(
                self.name,
                operations,
                commit_message=summary,
                revision=over.name,
                parent_commit=over.commit,
            ),
        )
        return str(made.oid)

    def _ask(self, doing: str, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as error:  # the library lets through whatever its transports raise
            raise self._told(doing, error) from error

    def _told(self, doing: str, error: BaseException) -> PushError:
        chain = list(_chain(error))
        texts = dict.fromkeys(str(one).strip() or type(one).__name__ for one in chain)
        reason = one_line(": ".join(texts).replace(self._token, "***"), 400)
        answers = (getattr(getattr(one, "response", None), "status_code", None) for one in chain)
        status = next((found for found in answers if found is not None), None)
        if status == 401:
            return PushError(
                f"the Hub does not accept the token (401, cannot {doing} of {self.name}): put a valid one into "
                f"{TOKEN}, or run `hf auth login`"
            )
        if status == 403:
            return PushError(
                f"the token may not {doing} of {self.name} (403): {TOKEN} needs one with write access to it ({reason})"
            )
        if status == 412:
            return PushError(f"{self.name}: somebody else committed meanwhile (412): push again")
        if status is None:
            hint = f"is it reachable from here? {ENDPOINT} names another Hub"
            if "xet" in reason.lower():
                hint = "HF_HUB_DISABLE_XET=1 is for a Hub that has no Xet storage"
            return PushError(f"cannot {doing} of {self.name} at {self._api.endpoint}: {reason}; {hint}")
        return PushError(f"cannot {doing} of {self.name} ({status}): {reason}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: an upload that fails says only that it did."""
    while error is not None:
        yield error
        error = error.__cause__
