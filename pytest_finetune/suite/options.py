"""Flags and ini options, read into one frozen `Settings`."""

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
DEFAULT_RECORD: Final = "finetune-record"
_PROMOTE_DEFAULT: Final = "\0paths.output_dir"
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
    store_readonly: bool = False


def add_options(parser: pytest.Parser) -> None:
    """Declare the group `finetune` and the ini options."""
    group = parser.getgroup("finetune", "fine-tunes as tests")
    group.addoption(
        "--finetune",
        action="store_true",
        help="train (or reuse) the adapter and judge it; without this, tests that need a model are skipped",
    )
    group.addoption(
        "--finetune-promote",
        metavar="DIR",
        nargs="?",
        const=_PROMOTE_DEFAULT,
        default=None,
        help="after a green run that decides keep, write the promotion bundle to DIR (default: paths.output_dir); "
        "write --finetune-promote=DIR with =",
    )
    group.addoption(
        "--finetune-promote-data",
        action="store_true",
        help="put a copy of the training and held-out rows into the promotion bundle",
    )
    group.addoption(
        "--finetune-sign",
        metavar="KEY",
        help="sign the promotion bundle: a private key file (PEM), or the word sigstore",
    )
    group.addoption(
        "--finetune-budget",
        metavar="SIZE",
        help="judge the memory plan against another card: 8GiB, 24GB or a known card such as rtx-4090",
    )
    group.addoption(
        "--finetune-headroom",
        metavar="SHARE",
        help="how much of the card the memory plan leaves free: 8%% or 0.08 (default: 8%%)",
    )
    group.addoption(
        "--finetune-set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of the experiment (repeatable): training.learning_rate=1e-4",
    )
    group.addoption(
        "--finetune-store",
        metavar="DIR",
        help="where adapters and answers are kept: a folder, or a URL such as s3://bucket/prefix "
        f"(default: {DEFAULT_STORE})",
    )
    group.addoption(
        "--finetune-store-readonly",
        action="store_true",
        help="read from the store and write nothing to it, as on pull-request runners",
    )
    group.addoption(
        "--finetune-record", metavar="DIR", help=f"where the record is written (default: {DEFAULT_RECORD})"
    )
    group.addoption("--finetune-retrain", action="store_true", help="do not reuse a stored adapter")
    group.addoption(
        "--finetune-reuse",
        metavar="HOW",
        choices=("exact", "semantic"),
        default=None,
        help="exact (default): reuse an adapter of this very environment; semantic: also one of the same experiment "
        "from other package versions or another device, said in the record",
    )
    group.addoption("--finetune-device", metavar="DEVICE", help=f"{_DEVICES} (default: auto)")
    group.addoption(
        "--finetune-require-gpu",
        action="store_true",
        help="no accelerator is a usage error, not a slow CPU run",
    )
    _add_ini(parser)


def _add_ini(parser: pytest.Parser) -> None:
    parser.addini(
        "finetune_experiments",
        f"experiment files, relative to rootdir (default: {DEFAULT_EXPERIMENT})",
        type="args",
        default=[],
    )
    parser.addini("finetune_budget", "default of --finetune-budget", default="")
    parser.addini("finetune_headroom", "default of --finetune-headroom", default="")
    parser.addini("finetune_store", "default of --finetune-store", default="")
    parser.addini(
        "finetune_store_readonly", "default of --finetune-store-readonly", type="bool", default=False
    )
    parser.addini("finetune_record", "default of --finetune-record", default="")
    parser.addini("finetune_device", "default of --finetune-device", default="")


def read_settings(config: pytest.Config) -> Settings:
    """Return the settings of this run; raise pytest.UsageError for what cannot be meant."""
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
        overrides=_overrides(option.finetune_set),
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
        asked=_asked(option),
        headroom=option.finetune_headroom or config.getini("finetune_headroom") or None,
        store_readonly=_readonly(option, config),
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


def _readonly(option: Any, config: pytest.Config) -> bool:
    return bool(option.finetune_store_readonly or config.getini("finetune_store_readonly"))


def _asked(option: Any) -> bool:
    names = (
        "finetune",
        "finetune_promote",
        "finetune_promote_data",
        "finetune_sign",
        "finetune_budget",
        "finetune_headroom",
        "finetune_set",
        "finetune_store",
        "finetune_store_readonly",
        "finetune_record",
        "finetune_retrain",
        "finetune_reuse",
        "finetune_device",
        "finetune_require_gpu",
    )
    return any(getattr(option, name) for name in names)


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
    names = [found] if isinstance(found, str) else found
    return tuple(dict.fromkeys(map(str, names))) or (DEFAULT_EXPERIMENT,)


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
    if value is None:
        return None
    if value == _PROMOTE_DEFAULT:
        return ""
    if f"--finetune-promote={value}" not in map(str, args):
        raise pytest.UsageError(
            f"--finetune-promote {value!r}: a folder is named with an equals sign (--finetune-promote={value}), "
            "so that a test path after the flag is never taken for it"
        )
    return value
