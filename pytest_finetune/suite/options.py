"""What the flags and ini options ask for, read into one frozen `Settings`; the plugin declares them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_finetune.bundle.format import BundleError
from pytest_finetune.bundle.signing import SIGSTORE, require
from pytest_finetune.experiment import ExperimentError, parse_set

DEFAULT_EXPERIMENT: Final = "finetune.yaml"
DEFAULT_STORE: Final = ".finetune"
LOCAL: Final = "local"
DEFAULT_RECORD: Final = "finetune-record"
_DEVICES: Final = "auto, cpu, cuda, cuda:N or mps"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for on the command line and in the ini file.

    `promote` is None (not asked), "" (to each experiment's ``paths.output_dir``) or a folder. `asked` tells whether
    any ``--finetune*`` flag was given.
    """

    finetune: bool
    experiments: tuple[str, ...]
    overrides: Mapping[str, Any]
    promote: str | None
    promote_data: bool
    sign: str | None
    budget: str | None
    store: str
    record: Path
    retrain: bool
    reuse: str
    device: str
    require_gpu: bool
    asked: bool
    headroom: str | None = None
    rejudge: bool = False
    store_readonly: bool = False
    track: tuple[str, ...] = ()
    executor: str = LOCAL
    executor_dry_run: bool = False


def read_settings(config: pytest.Config) -> Settings:
    """Return the settings of this run; raise pytest.UsageError for what is invalid or contradictory."""
    option = config.option
    promote = _promote(option.finetune_promote, config.invocation_params.args)
    device = option.finetune_device or config.getini("finetune_device") or "auto"
    if not (
        device in {"auto", "cpu", "cuda", "mps"} or (device.startswith("cuda:") and device[5:].isdigit())
    ):
        raise pytest.UsageError(f"--finetune-device={device!r} is no device: write {_DEVICES}")
    if promote is not None and not option.finetune:
        raise pytest.UsageError(
            "--finetune-promote needs --finetune: a bundle is written only after a judged run"
        )
    _check_promotion(option, config)
    return Settings(
        finetune=option.finetune,
        experiments=_experiments(config),
        overrides=_overrides(option.finetune_set or ()),
        promote=promote,
        promote_data=option.finetune_promote_data,
        sign=option.finetune_sign,
        budget=option.finetune_budget or config.getini("finetune_budget") or None,
        store=option.finetune_store or config.getini("finetune_store") or DEFAULT_STORE,
        record=config.rootpath
        / (option.finetune_record or config.getini("finetune_record") or DEFAULT_RECORD),
        retrain=option.finetune_retrain,
        reuse=_reuse(option),
        device=device,
        require_gpu=option.finetune_require_gpu,
        asked=any(
            value not in (None, False) for name, value in vars(option).items() if name.startswith("finetune")
        ),
        rejudge=option.finetune_rejudge,
        headroom=option.finetune_headroom or config.getini("finetune_headroom") or None,
        store_readonly=_readonly(option, config),
        track=tuple(map(str, option.finetune_track or config.getini("finetune_track"))),
        executor=_executor(option, config),
        executor_dry_run=option.finetune_executor_dry_run,
    )


def _check_promotion(option: Any, config: pytest.Config) -> None:
    """Refuse what only a promotion uses where there is none, and what it cannot do, before the long run."""
    for flag, value in (
        ("--finetune-promote-data", option.finetune_promote_data),
        ("--finetune-sign", option.finetune_sign),
    ):
        if value and option.finetune_promote is None:
            raise pytest.UsageError(f"{flag} needs --finetune-promote: it says what goes into the bundle")
    if option.finetune_promote is not None and _readonly(option, config):
        raise pytest.UsageError(
            "--finetune-promote contradicts --finetune-store-readonly: the look at the held-out rows would be "
            "counted on this machine only, and the next decision on these rows would be too easy: promote where the "
            "store may be written (-o finetune_store_readonly=false where the ini file says so)"
        )
    if option.finetune_sign:
        key = option.finetune_sign
        try:
            require(key if key == SIGSTORE else str(config.invocation_params.dir / key))
        except BundleError as error:
            raise pytest.UsageError(f"--finetune-sign={key}: {error}") from None


def _executor(option: Any, config: pytest.Config) -> str:
    """Return where steps run; what jobs cannot do is refused before anything is sent."""
    named = str(option.finetune_executor or config.getini("finetune_executor") or LOCAL).strip()
    if named == LOCAL:
        if option.finetune_executor_dry_run:
            raise pytest.UsageError(
                "--finetune-executor-dry-run prints what would be sent, and nothing is: name --finetune-executor"
            )
        return named
    if not option.finetune:
        return LOCAL  # no model is needed
    if option.finetune_retrain:
        raise pytest.UsageError(
            f"--finetune-retrain trains on this machine, and --finetune-executor={named} elsewhere: add "
            "--finetune-executor=local, or leave one of them out"
        )
    if _readonly(option, config):
        raise pytest.UsageError(
            f"--finetune-store-readonly contradicts --finetune-executor={named}: a job brings its result back through "
            "the store"
        )
    return named


def _readonly(option: Any, config: pytest.Config) -> bool:
    return bool(option.finetune_store_readonly or config.getini("finetune_store_readonly"))


def _experiments(config: pytest.Config) -> tuple[str, ...]:
    try:
        found: object = config.getini("finetune_experiments")
    except (TypeError, pytest.UsageError):
        # Native TOML is strict about lists; one word stands for a list of one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = config.inicfg["finetune_experiments"]
    if not isinstance(found, (str, list)):
        raise pytest.UsageError(f"finetune_experiments = {found!r}: write one file name or a list of them")
    named = [found] if isinstance(found, str) else found
    return tuple(dict.fromkeys(Path(str(file)).as_posix() for file in named)) or (DEFAULT_EXPERIMENT,)


def _reuse(option: Any) -> str:
    if option.finetune_reuse and option.finetune_retrain:
        raise pytest.UsageError(
            f"--finetune-reuse={option.finetune_reuse} contradicts --finetune-retrain, "
            "which reuses nothing: leave one out"
        )
    return option.finetune_reuse or "exact"


def _overrides(assignments: Sequence[str]) -> Mapping[str, Any]:
    if not assignments:
        return {}
    try:
        return parse_set(assignments)
    except ExperimentError as error:
        raise pytest.UsageError(str(error)) from None


def _promote(value: str | None, args: Sequence[object]) -> str | None:
    if value and f"--finetune-promote={value}" not in map(str, args):
        raise pytest.UsageError(
            f"--finetune-promote {value!r}: a folder is named with an equals sign (--finetune-promote={value}), "
            "so that a test path after the flag is never taken for it"
        )
    return value
