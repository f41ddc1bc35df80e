"""A tracking server through MLflow's client, every failure of it in words and without credentials."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from pytest_finetune.errors import install
from pytest_finetune.publish.parcel import PushError
from pytest_finetune.wording import one_line

_T = TypeVar("_T")
URI: Final = "MLFLOW_TRACKING_URI"
_SECRETS: Final = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_PARAMS_AT_ONCE: Final = 100
_METRICS_AT_ONCE: Final = 500
_ANSWERS_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """A tracking server with its model registry; every method raises PushError. `shown` is its address."""

    shown: str
    _client: Any = field(repr=False)
    _secrets: Sequence[str] = field(repr=False)

    @classmethod
    def opened(cls, uri: str | None) -> Server:
        """Find the server; its credentials are what MLflow reads from the environment."""
        uri = uri or os.environ.get(URI)
        if not uri:
            raise PushError(f"mlflow: alone names no server: write mlflow:http://host:5000, or set {URI}")
        if not sys.stderr.isatty():
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            from mlflow import MlflowClient, set_registry_uri, set_tracking_uri
        except ImportError as error:
            raise PushError(
                f"a tracking server needs MLflow's client ({error}): {install('mlflow')}"
            ) from None
        parts = urlsplit(uri)
        login, _, host = parts.netloc.rpartition("@")
        shown = urlunsplit(parts._replace(netloc=host))
        secrets = [os.environ.get(name, "") for name in _SECRETS] + [login, login.partition(":")[2]]
        set_tracking_uri(uri)  # where an older client looks for artifacts, whatever it was told below
        set_registry_uri(uri)
        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        except Exception as error:  # what its stores refuse: a scheme, a database that is not there
            raise PushError(f"MLflow cannot open {shown}: {one_line(error, 300)}") from None
        server = cls(shown, client, [one for one in secrets if one])
        server._reach()
        return server

    def _reach(self) -> None:
        """Ask once whether anybody is there: the client itself would try for minutes."""
        if not self.shown.startswith(("http://", "https://")):
            return
        try:
            urllib.request.urlopen(f"{self.shown.rstrip('/')}/health", timeout=_ANSWERS_WITHIN_S).close()
        except urllib.error.HTTPError as error:
            error.close()  # somebody answers; a managed server may have no such page
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise PushError(
                f"no tracking server answers at {self.shown} ({one_line(reason, 200)}): is it running, and is the "
                "address right?"
            ) from None

    def version_with(self, model: str, tag: str, value: str) -> Any | None:
        """Return the version of a model that carries a tag, the newest of several; None when there is none."""
        asked = f"name = '{model}' and tags.`{tag}` = '{value}'"
        found = self._ask("look for the model", lambda: list(self._client.search_model_versions(asked)))
        return max(found, key=lambda version: int(version.version), default=None)

    def version_of_alias(self, model: str, alias: str) -> str | None:
        """Return the version that an alias names."""
        registered = self._ask("read the model", lambda: self._client.get_registered_model(model))
        found = (registered.aliases or {}).get(alias)
        return None if found is None else str(found)

    def new_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
        """Start a run in the experiment of that name."""

        def start() -> Any:
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            return self._client.create_run(place, run_name=name, tags=dict(tags))

        return self._ask("start a run", start)

    def log(
        self, run: Any, params: Mapping[str, str], metrics: Sequence[tuple[str, float, int]], time_ms: int
    ) -> None:
        """Log parameters and metrics as (name, value, step), in requests of a size that every server takes."""
        from mlflow.entities import Metric, Param

        named = [Param(key, value) for key, value in params.items()]
        numbers = [Metric(key, value, time_ms, step) for key, value, step in metrics]

        def send() -> None:
            for start in range(0, len(named), _PARAMS_AT_ONCE):
                self._client.log_batch(run.info.run_id, params=named[start : start + _PARAMS_AT_ONCE])
            for start in range(0, len(numbers), _METRICS_AT_ONCE):
                self._client.log_batch(run.info.run_id, metrics=numbers[start : start + _METRICS_AT_ONCE])

        self._ask("log parameters and metrics", send)

    def upload(self, run: Any, folder: Path, file: str, under: str) -> None:
        """Log one file of a folder as an artifact, in the folders that it has there."""
        place = (PurePosixPath(under) / file).parent.as_posix()
        send = self._client.log_artifact
        self._ask(f"upload {file}", lambda: send(run.info.run_id, str(folder / file), artifact_path=place))

    def files(self, run: Any, under: str) -> dict[str, int]:
        """Return every file below an artifact folder with its bytes; names are relative to it."""

        def walk(path: str) -> Iterator[tuple[str, int]]:
            for one in self._client.list_artifacts(run.info.run_id, path):
                if one.is_dir:
                    yield from walk(one.path)
                else:
                    yield PurePosixPath(one.path).relative_to(under).as_posix(), one.file_size

        return self._ask("list the artifacts", lambda: dict(walk(under)))

    def read(self, run: Any, path: str) -> bytes:
        """Return the bytes of an artifact."""
        with TemporaryDirectory() as folder:
            fetch = self._client.download_artifacts
            return Path(self._ask(f"read {path}", lambda: fetch(run.info.run_id, path, folder))).read_bytes()

    def tag_run(self, run: Any, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""
        for tag, value in tags.items():
            self._ask("tag the run", partial(self._client.set_tag, run.info.run_id, tag, value))

    def end(self, run: Any, status: str) -> None:
        """End a run; one that fails stays failed also when the server is gone by now."""
        if status == "FINISHED":
            self._ask("end the run", lambda: self._client.set_terminated(run.info.run_id, status))
        else:
            with suppress(Exception):  # the first error is the one to tell
                self._client.set_terminated(run.info.run_id, status)

    def ensure_model(self, name: str) -> None:
        """Register a model of that name unless there is one."""
        from mlflow.exceptions import MlflowException

        def create() -> None:
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

        self._ask("register the model", create)

    def new_version(self, model: str, source: str, run_id: str, tags: Mapping[str, str]) -> Any:
        """Register artifacts of a run as the next version."""
        create = self._client.create_model_version
        return self._ask("register a version", lambda: create(model, source, run_id=run_id, tags=dict(tags)))

    def set_alias(self, model: str, alias: str, version: Any) -> None:
        """Let an alias name a version."""
        put = self._client.set_registered_model_alias
        self._ask(f"set the alias {alias}", lambda: put(model, alias, version.version))

    def tag_version(self, model: str, version: Any, tag: str, value: str) -> None:
        """Put a tag on a version."""
        put = self._client.set_model_version_tag
        self._ask("tag the version", lambda: put(model, version.version, tag, value))

    def run_url(self, run: Any) -> str:
        """Return the page of a run."""
        return f"{self.shown}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    def model_url(self, model: str, version: Any) -> str:
        """Return the page of a model version."""
        return f"{self.shown}/#/models/{quote(model)}/versions/{version.version}"

    def _ask(self, doing: str, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except PushError:
            raise
        except Exception as error:  # the client lets through whatever its transports raise
            raise self._told(doing, error) from error

    def _told(self, doing: str, error: BaseException) -> PushError:
        reason = str(error)
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        status = getattr(error, "get_http_status_code", lambda: None)()
        if status in (401, 403):
            return PushError(
                f"{self.shown} does not let this user {doing} ({status}): MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who it is"
            )
        return PushError(f"cannot {doing} at {self.shown}: {one_line(reason, 400) or type(error).__name__}")
