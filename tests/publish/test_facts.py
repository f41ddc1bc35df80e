"""What a tracking server is told is what the record says, under names and in lengths that every server takes."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.publish import HubTarget, MlflowTarget, parse
from pytest_finetune.publish.facts import LONGEST_PARAM, metrics, params, tags


def score(rate: float) -> dict[str, Any]:
    return {"passed": 1, "total": 2, "rate": rate, "interval": [rate - 0.125, rate + 0.125]}


def pair(rule: str, against: str, gain: float) -> dict[str, Any]:
    return {
        "rule": rule,
        "against": against,
        "gain": gain,
        "interval": [gain / 2, gain * 2],
        "p_value": gain / 100,
    }


@pytest.fixture
def experiment() -> dict[str, Any]:
    """The parts of a record that a tracking server is told of."""
    return {
        "arms": {
            "baseline": {"seconds": 2.5, "rules": {"label": score(0.25)}},
            "tuned": {"seconds": None, "rules": {"label": score(0.75), "strict_json": score(0.875)}},
            "tuned@general": {"seconds": 1.0, "rules": {"style": score(0.5)}},
        },
        "rules": {"label": {"primary": True}, "strict_json": {}, "style": {"suite": "general"}},
        "comparisons": [pair("label", "baseline", 0.5), pair("label", "prompted", 0.25)],
        "memory": {"predicted_peak_bytes": 2**30, "measured_peak_bytes": None, "budget_bytes": 2**33},
        "training": {
            "seconds": 12.5,
            "steps": 2,
            "final_loss": 0.5,
            "log": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.5}],
            "held_out_loss": [{"step": 2, "epoch": 1.0, "loss": 0.75}],
        },
    }


def test_every_rate_gain_and_size_of_the_record_is_a_metric(experiment: dict[str, Any]) -> None:
    told = {one.name: one.value for one in metrics(experiment)}
    for one in experiment["comparisons"]:
        place = f"{one['rule']}/{one['against']}"
        assert told[f"gain/{place}"] == one["gain"]
        assert [told[f"gain/{place}/lower"], told[f"gain/{place}/upper"]] == one["interval"]
        assert told[f"p_value/{place}"] == one["p_value"]
    rated = {name: value for name, value in told.items() if name.startswith("rate/") and name.count("/") == 2}
    assert rated == {
        "rate/baseline/label": 0.25,
        "rate/tuned/label": 0.75,
        "rate/tuned/strict_json": 0.875,
        "rate/tuned_general/style": 0.5,
    }
    assert (told["rate/tuned/label/lower"], told["rate/tuned/label/upper"]) == (0.625, 0.875)
    assert (told["memory/predicted_peak_bytes"], told["memory/budget_bytes"]) == (2**30, 2**33)
    assert (told["training/seconds"], told["training/steps"], told["training/final_loss"]) == (12.5, 2, 0.5)
    assert (told["seconds/baseline"], told["seconds/tuned_general"]) == (2.5, 1.0)
    curves = [(one.name, one.step, one.value) for one in metrics(experiment) if one.step]
    assert curves == [
        ("training/loss", 1, 2.0),
        ("training/loss", 2, 0.5),
        ("training/held_out_loss", 2, 0.75),
    ]


def test_what_is_null_or_not_finite_is_no_metric(experiment: dict[str, Any]) -> None:
    experiment["training"]["final_loss"] = math.nan
    experiment["training"]["log"] = [
        {"step": 1, "loss": math.inf},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 1.0},
    ]
    experiment["memory"] = None
    found = metrics(experiment)
    assert all(math.isfinite(one.value) for one in found)
    assert [one.step for one in found if one.name == "training/loss"] == [3]
    assert not [
        one.name for one in found if one.name.startswith("memory/") or one.name == "training/final_loss"
    ]
    assert metrics({}) == []


def test_names_are_those_that_a_server_takes(experiment: dict[str, Any]) -> None:
    arm = experiment["arms"]["tuned"]
    arm["rules"] = {
        "label[é]\n/../x": next(iter(arm["rules"].values())),
        "/": next(iter(arm["rules"].values())),
    }
    names = [one.name for one in metrics(experiment)]
    names += params({"config": {"sft": {"a:b\x1b": 1}, "x" * 400: 2}})
    assert all(re.fullmatch(r"[\w.\- /]{1,250}", name, re.ASCII) for name in names)
    assert not [name for name in names if ".." in name.split("/") or "" in name.split("/")]


def test_settings_are_flat_short_and_shown_not_obeyed() -> None:
    config = {
        "prompt": {"template": "\x1b[31m" + "x" * 600},
        "suites": {},
        "seed": 0,
        "revision": None,
        "on": True,
    }
    told = params({"config": config})
    assert told.keys() == {"prompt.template", "seed", "on"}
    assert (told["seed"], told["on"]) == ("0", "True")
    assert told["prompt.template"].startswith("\\x1b[31mxxx")
    assert len(told["prompt.template"]) == LONGEST_PARAM


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("hf://acme/tickets", HubTarget("acme/tickets", None)),
        ("hf://acme/t.1-x_y@release/1.0", HubTarget("acme/t.1-x_y", "release/1.0")),
        ("mlflow:", MlflowTarget(None)),
        ("mlflow:https://host/mlflow/", MlflowTarget("https://host/mlflow")),
    ],
)
def test_a_place_is_read_and_written_alike(text: str, target: HubTarget | MlflowTarget) -> None:
    assert parse(text) == target
    assert parse(str(target)) == target


def test_the_file_that_was_judged_is_found_by_its_quantisation_and_digest() -> None:
    def told(tree: dict[str, Any]) -> dict[str, str]:
        manifest = SimpleNamespace(base_model="base", revision=None, tree=tree)
        bundle = SimpleNamespace(manifest=manifest, record={"plugin_version": "0.2.0"})
        parcel: Any = SimpleNamespace(
            bundle=bundle, experiment={"task": "t"}, adapter_sha256="a", digest="d", verdict="keep"
        )
        return {name: value for name, value in tags(parcel).items() if "gguf" in name}

    file = {"file": "gguf/model.gguf", "quantization": "q4_k_m", "sha256": "ab" * 32}
    assert told({"gguf": file}) == {
        "pytest_finetune.gguf": "q4_k_m",
        "pytest_finetune.gguf_sha256": "ab" * 32,
    }
    assert told({}) == {}
