"""Log a bundle to a tracking server of MLflow and register it; the alias moves only on keep."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pytest_finetune.bundle.format import MANIFEST
from pytest_finetune.publish import facts
from pytest_finetune.publish.mlflow_server import Server
from pytest_finetune.publish.parcel import Parcel, Pushed, PushError
from pytest_finetune.publish.target import MlflowTarget
from pytest_finetune.wording import counted, one_line, size

ALIAS: Final = "champion"
FOLDER: Final = "bundle"
# Set last, so that a push that was killed before it can be finished by the next one.
COMPLETE: Final = f"{facts.PREFIX}complete"


def push(parcel: Parcel, target: MlflowTarget) -> Pushed:
    """Log one run with parameters, metrics, tags and the bundle's files, and register it as a model version.

    The version points at the files themselves: there is no pickle in it and nothing that a server would run. A
    bundle that has a version already gets no second one, and no alias is taken back. Raises PushError.
    """
    server = Server.opened(target.uri)
    name = facts.name_of(parcel)
    place = f"mlflow:{server.shown}, model {name}"
    version = server.version_with(name, facts.MANIFEST_TAG, parcel.digest)
    if version is not None and version.tags.get(COMPLETE):
        told = [("alias", _where(server, name, version))]
        return Pushed(place, _url(server, name, version), False, told)
    told = []
    if version is None:
        run = _logged(server, parcel, name)
        server.ensure_model(name)
        tags = {key: value for key, value in facts.tags(parcel).items() if key.startswith(facts.PREFIX)}
        version = server.new_version(name, f"{run.info.artifact_uri}/{FOLDER}", run.info.run_id, tags)
        told += [
            ("run", server.run_url(run)),
            ("files", f"{counted(len(parcel.sizes), 'file')}, {size(parcel.total_bytes)}, under {FOLDER}/"),
            (
                "read back",
                f"the server lists {counted(len(parcel.sizes), 'file')} with these sizes, and {MANIFEST} "
                "reads byte by byte as it was sent",
            ),
        ]
    told.append(("alias", _alias(server, parcel, name, version)))
    server.tag_version(name, version, COMPLETE, "true")
    return Pushed(place, _url(server, name, version), True, told)


def _logged(server: Server, parcel: Parcel, name: str) -> Any:
    """Log the run; it ends as failed when anything about it does."""
    title = f"{one_line(parcel.bundle.manifest.experiment, 100)} {parcel.adapter_sha256[:12]}"
    shown = {"mlflow.source.name": "pytest-finetune push", "mlflow.note.content": facts.note(parcel)}
    run = server.new_run(name, title, facts.tags(parcel) | shown)
    try:
        created = datetime.fromisoformat(parcel.bundle.record["created"])
        numbers = [(one.name, one.value, one.step) for one in facts.metrics(parcel.experiment)]
        server.log(run, facts.params(parcel.experiment), numbers, round(created.timestamp() * 1000))
        for file in parcel.sizes:
            server.upload(run, parcel.folder, file, FOLDER)
        _read_back(server, run, parcel)
    except BaseException:
        server.end(run, "FAILED")
        raise
    server.end(run, "FINISHED")
    return run


def _read_back(server: Server, run: Any, parcel: Parcel) -> None:
    found = server.files(run, FOLDER)
    wrong = sorted(
        name for name in found.keys() | parcel.sizes.keys() if found.get(name) != parcel.sizes.get(name)
    )
    if wrong:
        raise PushError(
            f"{server.shown} does not have what was sent: {counted(len(wrong), 'file')} missing or of another size, "
            f"{one_line(wrong[0], 80)} the first; the run is marked as failed and nothing was registered"
        )
    if server.read(run, f"{FOLDER}/{MANIFEST}") != (parcel.folder / MANIFEST).read_bytes():
        raise PushError(
            f"{server.shown}: {MANIFEST} reads other than the one that was sent; the run is marked as failed and "
            "nothing was registered"
        )


def _alias(server: Server, parcel: Parcel, name: str, version: Any) -> str:
    """Let `champion` name this version, when its record says keep; return what happened in words."""
    before = server.version_of_alias(name, ALIAS)
    if parcel.verdict != "keep":
        stays = f"stays at version {before}" if before else "names no version"
        return f"{ALIAS} {stays}: the record says {one_line(parcel.verdict, 40)}, not keep"
    server.set_alias(name, ALIAS, version)
    was = f" (it was version {before})" if before and before != str(version.version) else ""
    return f"{ALIAS} is version {version.version}{was}"


def _where(server: Server, name: str, version: Any) -> str:
    there = server.version_of_alias(name, ALIAS)
    own = f"this is version {version.version}"
    return f"{ALIAS} stays at version {there}; {own}" if there else f"{ALIAS} names no version; {own}"


def _url(server: Server, name: str, version: Any) -> str:
    return server.model_url(name, version)
