"""A bundle signed with a key pair: the signature covers every file, and holds for that key alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pytest_finetune.record.bundle_manifest import SIGNATURE, BundleError
from pytest_finetune.record.signing import PASSWORD_VARIABLE, check_signature, sign

from .bundles import mend, new_project, promote

Verify = Callable[..., tuple[int, str]]


def key_pair(folder: Path, name: str, password: str | None = None) -> tuple[Path, Path]:
    """Write a key pair as PEM files and return private and public."""
    private = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files[1].write_bytes(public)
    return files


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle that a run signed, and the public key."""
    project = new_project(tmp_path_factory.mktemp("project"))
    private, public = key_pair(project.path, "release")
    return promote(project, f"--finetune-sign={private.name}"), public


@pytest.fixture
def bundle(signed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A signed copy to change."""
    return Path(shutil.copytree(signed[0], tmp_path / "bundle"))


def test_the_signature_of_a_promotion_holds_for_its_key(signed: tuple[Path, Path], verify: Verify) -> None:
    folder, public = signed
    code, said = verify(folder, "--public-key", public)
    assert code == 0, said
    assert f"signature  holds for {public}" in said
    assert f"signed by {public}" in said.splitlines()[-1]
    assert "who made it" not in said


def test_an_unchecked_signature_is_not_taken_for_a_checked_one(
    signed: tuple[Path, Path], verify: Verify
) -> None:
    code, said = verify(signed[0])
    assert code == 0
    assert "signature  there, NOT checked: name the key with --public-key" in said
    assert "who made it" in said


def test_another_key_does_not_hold(signed: tuple[Path, Path], tmp_path: Path, verify: Verify) -> None:
    code, said = verify(signed[0], "--public-key", key_pair(tmp_path, "other")[1])
    assert code == 1
    assert f"{SIGNATURE}: does not hold" in said


def test_mended_digests_do_not_mend_the_signature(
    bundle: Path, signed: tuple[Path, Path], verify: Verify
) -> None:
    with (bundle / "experiment" / "finetune.yaml").open("a") as file:
        file.write("\n")
    mend(bundle)
    code, said = verify(bundle, "--public-key", signed[1])
    assert code == 1
    assert f"{SIGNATURE}: does not hold" in said


def test_a_signature_that_was_taken_away_is_missed(
    bundle: Path, signed: tuple[Path, Path], verify: Verify
) -> None:
    (bundle / SIGNATURE).unlink()
    code, said = verify(bundle, "--public-key", signed[1])
    assert code == 1
    assert f"{SIGNATURE}: is missing: the bundle is not signed" in said


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b'{"dsseEnvelope": 1}'])
def test_a_signature_that_cannot_be_read_does_not_hold(
    bundle: Path,
    signed: tuple[Path, Path],
    verify: Verify,
    content: bytes,
) -> None:
    (bundle / SIGNATURE).write_bytes(content)
    code, said = verify(bundle, "--public-key", signed[1])
    assert code == 1
    assert f"{SIGNATURE}: does not hold" in said
    assert "Traceback" not in said


def test_an_encrypted_key_takes_its_password_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    private, public = key_pair(tmp_path, "locked", password="open sesame")
    with pytest.raises(BundleError, match=f"is no private key that can sign.*{PASSWORD_VARIABLE}"):
        sign(folder, str(private))
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    sign(folder, str(private))
    assert check_signature(folder, public) is None
    (folder / "b.txt").write_text("b")
    assert "b.txt" in str(check_signature(folder, public))


def test_a_key_that_is_none_is_a_mistake(signed: tuple[Path, Path], tmp_path: Path, verify: Verify) -> None:
    wrong = tmp_path / "wrong.pub"
    wrong.write_text("no key")
    code, said = verify(signed[0], "--public-key", wrong)
    assert code == 2
    assert "is no public key" in said
    assert verify(signed[0], "--public-key", tmp_path / "none")[0] == 2
    assert verify(signed[0], "--identity", "me")[0] == 2
    assert json.loads((signed[0] / SIGNATURE).read_bytes())["dsseEnvelope"]
