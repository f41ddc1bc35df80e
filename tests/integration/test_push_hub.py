"""A verified bundle reaches a branch of the Hub in one commit, byte by byte, and nothing is ever overwritten."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_finetune.bundle.format import MANIFEST
from pytest_finetune.cli import main

from .bundles import doctor, new_project, promote, seal
from .hub_server import GITATTRIBUTES, TOKEN, Hub, Repository, running

NAME = "acme/tickets"


class Ran(NamedTuple):
    """What a push did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Push = Callable[..., Ran]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a run wrote."""
    return promote(new_project(tmp_path_factory.mktemp("project")))


@pytest.fixture
def bundle(promoted: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(promoted, tmp_path / "bundle"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on loopback that the environment names, and a token for it."""
    import huggingface_hub.constants as hub_constants

    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)  # its storage is a service of its own
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str]) -> Push:
    """`pytest-finetune push`; no word of it may hold the token."""

    def run(bundle: Path, to: str = f"hf://{NAME}", *words: object) -> Ran:
        capsys.readouterr()
        try:
            code = main(["push", str(bundle), "--to", to, *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return Ran(code, said.out, said.err)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def manifest(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return tree


def branch_of(folder: Path) -> str:
    return f"finetune-{manifest(folder)['adapter_sha256'][:12]}"


def test_a_bundle_arrives_in_one_commit_on_a_branch_of_its_own_and_is_read_back(
    promoted: Path, hub: Hub, push: Push
) -> None:
    repository = hub.make(NAME)
    ran = push(promoted)
    assert ran.code == 0, ran
    branch, files = branch_of(promoted), content(promoted)
    assert repository.files(branch) == {".gitattributes": GITATTRIBUTES, **files}
    assert repository.files("main") == {".gitattributes": GITATTRIBUTES}
    assert repository.messages[1:] == [f"keep: priority, adapter {manifest(promoted)['adapter_sha256'][:12]}"]
    assert ran.lines[0] == f"pushed: {promoted} to hf://{NAME}@{branch}"
    said = dict(line.strip().split("  ", 1) for line in ran.lines[1:])
    assert said["files"].strip().startswith(f"{len(files)} files, ")
    assert said["read back"].strip() == (
        f"the Hub has {len(files)} files as the bundle has them (1 by SHA-256, {len(files) - 1} by git's digest), and MANIFEST.json "
        "byte by byte"
    )
    assert said["address"].strip() == f"{hub.url}/{NAME}/commit/{repository.branches[branch]}"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_what_was_pushed_can_be_downloaded_and_verified_by_anybody(
    promoted: Path, hub: Hub, push: Push, tmp_path: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    from huggingface_hub import HfApi

    hub.make(NAME)
    assert push(promoted).code == 0
    away = tmp_path / "away"
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.snapshot_download(NAME, revision=branch_of(promoted), local_dir=away)
    assert {name: found for name, found in content(away).items() if not name.startswith(".")} == content(
        promoted
    )
    assert (away / ".cache" / "huggingface").is_dir()
    code, said = verify(away)
    assert code == 0, said
    assert "of the Hub beside them, left aside" in said


def test_the_same_bundle_again_is_nothing_to_do(promoted: Path, hub: Hub, push: Push) -> None:
    repository = hub.make(NAME)
    push(promoted)
    before = dict(repository.branches)
    ran = push(promoted)
    assert ran.code == 0
    assert ran.lines[0] == (
        f"already there: hf://{NAME}@{branch_of(promoted)} holds this bundle ({manifest(promoted)['digest'][:12]}); "
        "nothing to do"
    )
    assert f"the Hub has {len(content(promoted))} files as the bundle has them (1 by SHA-256" in ran.out
    assert repository.branches == before
    assert sum("/commit/" in asked for asked in hub.asked) == 1


def test_main_is_pushed_to_only_when_it_is_asked_for(promoted: Path, hub: Hub, push: Push) -> None:
    repository = hub.make(NAME)
    assert push(promoted, f"hf://{NAME}@main").code == 0
    assert repository.branches.keys() == {"main"}
    assert repository.files("main").keys() == {".gitattributes", *content(promoted)}


def test_a_branch_with_another_bundle_is_left_as_it_is(
    promoted: Path, bundle: Path, hub: Hub, push: Push
) -> None:
    repository = hub.make(NAME)
    push(promoted, f"hf://{NAME}@production")
    doctor(bundle, lambda record: record.update(command="pytest --finetune --finetune-promote -q"))
    before = dict(repository.branches)
    ran = push(bundle, f"hf://{NAME}@production")
    assert ran.code == 1
    adapter = manifest(promoted)["adapter_sha256"][:12]
    assert ran.out == (
        f"NOT PUSHED: {bundle}: hf://{NAME}@production holds another bundle ({manifest(promoted)['digest'][:12]} of "
        f"adapter {adapter}; this one is {manifest(bundle)['digest'][:12]} of adapter {adapter}): a branch is never "
        "overwritten, name another one behind the @\n"
    )
    assert repository.branches == before


def test_a_branch_with_something_else_is_left_as_it_is(promoted: Path, hub: Hub, push: Push) -> None:
    repository = hub.make(NAME)
    repository.commit("main", {"README.md": b"mine", "model.bin": b"x"}, "by hand")
    ran = push(promoted, f"hf://{NAME}@main")
    assert ran.code == 1
    assert "@main holds 2 files of something that is no bundle (README.md, model.bin)" in ran.out
    assert repository.files("main") == {"README.md": b"mine", "model.bin": b"x"}


def test_a_new_branch_takes_nothing_over_from_main(promoted: Path, hub: Hub, push: Push) -> None:
    repository = hub.make(NAME)
    repository.commit(
        "main", {".gitattributes": b"", "old/weights.bin": b"x", "README.md": b"mine"}, "by hand"
    )
    assert push(promoted).code == 0
    assert repository.files(branch_of(promoted)).keys() == {".gitattributes", *content(promoted)}
    assert "old/weights.bin" in repository.files("main")


def test_a_push_that_was_killed_after_its_branch_is_finished_by_the_next(
    promoted: Path, hub: Hub, push: Push
) -> None:
    repository = hub.make(NAME)
    repository.commit("main", {"README.md": b"mine"}, "by hand")
    hub.rejects["POST .*/commit/"] = 500
    ran = push(promoted)
    assert ran.code == 1
    assert f"cannot commit to {branch_of(promoted)} of {NAME} (500)" in ran.out
    assert repository.branches[branch_of(promoted)] == repository.branches["main"]
    hub.rejects.clear()
    assert push(promoted).code == 0
    assert repository.files(branch_of(promoted)).keys() == content(promoted).keys()


def test_a_missing_repository_is_created_only_when_that_is_allowed(
    promoted: Path, hub: Hub, push: Push
) -> None:
    ran = push(promoted)
    assert ran.code == 1
    assert f"there is no repository {NAME} that this token can see" in ran.out
    assert "--create make a private one" in ran.out
    assert hub.repositories == {}
    ran = push(promoted, f"hf://{NAME}", "--create")
    assert ran.code == 0
    assert hub.repositories[NAME].private is True
    assert any(line.split() == ["repository", NAME, "was", "created,", "private"] for line in ran.lines)


def test_a_bundle_that_does_not_verify_is_never_pushed_and_nobody_is_asked(
    bundle: Path, hub: Hub, push: Push
) -> None:
    (bundle / "outputs" / "tuned.jsonl").write_text("{}\n")
    ran = push(bundle)
    assert ran.code == 1
    assert ran.lines == [
        f"NOT PUSHED: {bundle}: it is not verified: 1 thing not as promoted",
        "  outputs/tuned.jsonl: was changed: it does not match its digest in the manifest",
    ]
    (bundle / MANIFEST).unlink()
    assert "it is not verified" in push(bundle).out
    assert hub.asked == []


def test_a_doctored_bundle_is_never_pushed(bundle: Path, hub: Hub, push: Push) -> None:
    doctor(bundle, lambda record: record["experiments"][0]["decision"].update(verdict="iterate", keep=False))
    ran = push(bundle)
    assert ran.code == 1
    assert "the decision is iterate, not keep" in ran.out
    assert hub.asked == []


def test_a_signature_that_is_asked_for_and_missing_stops_the_push(
    promoted: Path, hub: Hub, push: Push, tmp_path: Path
) -> None:
    (tmp_path / "release.pub").write_text("a key")
    ran = push(promoted, f"hf://{NAME}", "--public-key", tmp_path / "release.pub")
    assert ran.code == 1
    assert "model.sig: is missing: the bundle is not signed" in ran.out
    assert hub.asked == []


def test_a_dry_run_names_files_and_bytes_and_asks_nobody(promoted: Path, hub: Hub, push: Push) -> None:
    ran = push(promoted, f"hf://{NAME}", "--dry-run")
    assert ran.code == 0
    files = content(promoted)
    assert ran.lines[0] == f"would push: {promoted} to hf://{NAME}@{branch_of(promoted)}"
    assert {line.split()[0]: line.split()[1] for line in ran.lines[2:-1]} == {
        name: f"{len(found):,}" for name, found in files.items()
    }
    assert ran.lines[-1].startswith(f"{len(files)} files, {sum(map(len, files.values())):,} bytes")
    assert hub.asked == []
    tree = json.loads(push(promoted, f"hf://{NAME}@v1", "--dry-run", "--json").out)
    assert (tree["to"], tree["pushed"], len(tree["files"])) == (f"hf://{NAME}@v1", False, len(files))


def test_a_process_of_its_own_takes_everything_from_its_environment_and_loads_no_torch(
    promoted: Path, hub: Hub
) -> None:
    repository = hub.make(NAME)
    code = (
        "import sys; from pytest_finetune.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'peft', 'pytest'} & sys.modules.keys())); sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "push", str(promoted), "--to", f"hf://{NAME}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stdout + done.stderr
    assert repository.files(branch_of(promoted)).keys() == {".gitattributes", *content(promoted)}
    assert TOKEN not in done.stdout + done.stderr


def test_what_the_hub_finds_odd_about_the_card_stands_beside_the_answer(
    promoted: Path, hub: Hub, push: Push
) -> None:
    hub.make(NAME)
    hub.warns = ["license is not one that\x1b[31m is known"]
    ran = push(promoted, f"hf://{NAME}", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["pushed"] is True
    assert r"license is not one that\x1b[31m is known" in ran.err


def test_the_answer_for_programs_has_the_address(promoted: Path, hub: Hub, push: Push) -> None:
    hub.make(NAME)
    tree = json.loads(push(promoted, f"hf://{NAME}", "--json").out)
    assert (tree["pushed"], tree["already_there"]) == (True, False)
    assert tree["url"].startswith(f"{hub.url}/{NAME}/commit/")
    assert tree["adapter_sha256"] == manifest(promoted)["adapter_sha256"]
    assert json.loads(push(promoted, f"hf://{NAME}", "--json").out)["already_there"] is True


def test_a_hub_that_nobody_reaches_is_one_clear_line(
    promoted: Path, hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        ran = push(promoted)
    assert ran.code == 1
    assert len(ran.lines) == 1
    assert f"cannot read the branches of {NAME} at {address}: " in ran.out
    assert "is it reachable from here? HF_ENDPOINT names another Hub" in ran.out
    assert ran.err == ""


def test_a_hub_without_xet_is_told_how_to_do_without(
    promoted: Path, hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    import huggingface_hub.constants as hub_constants

    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", False)
    hub.make(NAME)
    ran = push(promoted)
    assert ran.code == 1
    assert "/xet-write-token/" in ran.out
    assert ran.out.endswith("; HF_HUB_DISABLE_XET=1 is for a Hub that has no Xet storage\n")


def test_without_a_token_the_variable_is_named_and_nobody_is_asked(
    promoted: Path, hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = push(promoted)
    assert ran.code == 1
    assert f"there is no token for the Hub: put one that may write to {NAME} into HF_TOKEN" in ran.out
    assert hub.asked == []


def test_a_token_that_is_refused_is_told_without_showing_it(
    promoted: Path, hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.make(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_wrong_wrong")
    ran = push(promoted)
    assert ran.code == 1
    assert "the Hub does not accept the token (401" in ran.out
    assert "put a valid one into HF_TOKEN" in ran.out
    assert "hf_wrong_wrong_wrong" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ("POST .*/branch/", 403, "the token may not create the branch"),
        ("POST .*/commit/", 403, "(403): HF_TOKEN needs one with write access to it"),
        ("PUT /storage/", 400, "Error while uploading 'adapter_model.safetensors' to the Hub.: Bad request"),
        ("POST .*/preupload/", 400, "(400): "),
        ("GET .*/tree/", 404, "(404): "),
    ],
)
def test_what_the_hub_refuses_is_told_with_its_status(
    promoted: Path, hub: Hub, push: Push, asked: str, status: int, said: str
) -> None:
    hub.make(NAME)
    hub.rejects[asked] = status
    ran = push(promoted)
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert said in ran.out


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(
    promoted: Path, hub: Hub, push: Push
) -> None:
    repository = hub.make(NAME)

    def faster(of: Repository) -> None:
        of.commit(branch_of(promoted), {"theirs": b"x"}, "faster")

    hub.before_commit = faster
    ran = push(promoted)
    assert ran.code == 1
    assert "somebody else committed meanwhile (412): push again" in ran.out
    assert repository.files(branch_of(promoted)) == {"theirs": b"x"}


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [("adapter_model.safetensors", b"other"), ("record.json", b"{}"), ("decision.md", None)],
)
def test_a_hub_that_does_not_keep_what_it_was_sent_is_found_out(
    promoted: Path, hub: Hub, push: Push, name: str, spoilt: bytes | None
) -> None:
    hub.make(NAME)
    hub.spoil = lambda path, sent: spoilt if path == name else sent
    ran = push(promoted)
    assert ran.code == 1
    assert f"does not hold this bundle: {name} is not as it was sent; do not use it" in ran.out


def test_texts_of_the_record_are_shown_and_not_obeyed(bundle: Path, hub: Hub, push: Push) -> None:
    repository = hub.make(NAME)
    doctor(bundle, lambda record: record["experiments"][0].update(task="a\x1b[31m\nb\u202e"))
    seal(bundle, task="a\x1b[31m\nb\u202e")
    ran = push(bundle)
    assert ran.code == 0, ran
    assert "\x1b" not in ran.out + ran.err
    assert repository.messages[-1].startswith(r"keep: a\x1b[31m b\u202e, adapter ")


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("hf://tickets", "names no repository of the Hub"),
        ("hf://acme/tickets/more", "names no repository of the Hub"),
        ("hf://acme/..", "names no repository of the Hub"),
        ("hf://acme/tickets@", "names no branch behind the @"),
        ("hf://acme/tickets@refs/pr/1", "names no branch behind the @"),
        ("hf://acme/tickets@a b", "names no branch behind the @"),
        ("s3://bucket", "is no place to push to: write hf://org/name"),
        ("mlflow:host", "names no tracking server"),
        ("mlflow:http://me:secret@host", "without credentials: MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_place_that_is_none_is_a_mistake_with_an_example(
    bundle: Path, push: Push, to: str, said: str
) -> None:
    ran = push(bundle, to)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("pytest-finetune push: --to ")
    assert said in ran.err
    assert "secret" not in ran.err


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path, push: Push) -> None:
    ran = push(tmp_path / "none")
    assert ran.code == 2
    assert "there is no such folder" in ran.err
    ran = push(tmp_path, "mlflow:http://host:5000", "--create")
    assert ran.code == 2
    assert "--create is for a repository of the Hub" in ran.err
