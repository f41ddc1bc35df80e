"""A bundle signed with a key pair: the signature covers every file, and holds for that key alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
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

from pytest_finetune.bundle.format import SIGNATURE, BundleError
from pytest_finetune.bundle.signing import (
    PASSWORD_VARIABLE,
    SIGSTORE,
    Identity,
    check_signature,
    require,
    sign,
)

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


def test_a_signature_holds_on_the_way_through_the_hub(
    bundle: Path, signed: tuple[Path, Path], verify: Verify
) -> None:
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (bundle / ".cache" / "huggingface").mkdir(parents=True)
    (bundle / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("Signature: 8a47\n")
    code, said = verify(bundle, "--public-key", signed[1])
    assert code == 0, said
    (bundle / "decision.md").write_text("keep")
    assert "decision.md" in str(check_signature(bundle, signed[1]))


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


@pytest.fixture
def signable(tmp_path: Path) -> Path:
    """A folder that something could sign."""
    folder = tmp_path / "signable"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    return folder


def unreachable(*_: object, **__: object) -> None:
    """Stand in for the roots of trust where there is no network."""
    raise OSError("Failed to refresh TUF metadata")


def test_without_a_network_sigstore_says_what_would_do_without(
    signable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sigstore.models.ClientTrustConfig.production", unreachable)
    with pytest.raises(BundleError) as raised:
        sign(signable, SIGSTORE)
    assert str(raised.value) == (
        "cannot sign with sigstore: Failed to refresh TUF metadata; Sigstore needs the network, a key pair "
        "(a PEM file) does not"
    )
    assert not (signable / SIGNATURE).exists()


def test_an_identity_that_cannot_be_checked_is_neither_held_nor_refused(
    signed: tuple[Path, Path], verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sigstore.models.ClientTrustConfig.production", unreachable)
    words = ("--identity", "ci@example.org", "--identity-issuer", "https://issuer.example")
    code, said = verify(signed[0], *words)
    assert code == 2
    assert said == (
        "pytest-finetune verify: nothing was checked: Sigstore's roots of trust cannot be read (Failed to refresh TUF "
        "metadata): check an identity where there is a network, or a key pair with --public-key\n"
    )


@pytest.mark.parametrize(
    "reason", ["none was found", "GitHub: missing or insufficient OIDC token permissions"]
)
def test_a_ci_job_without_an_identity_is_told_before_the_run_and_asks_no_browser(
    signable: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def detect() -> None:
        if reason != "none was found":
            raise RuntimeError(reason)

    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("sigstore.oidc.detect_credential", detect)
    monkeypatch.setattr(
        "sigstore.oidc.Issuer.identity_token", lambda *_, **__: pytest.fail("asked a browser")
    )
    for attempt in (partial(require, SIGSTORE), partial(sign, signable, SIGSTORE)):
        with pytest.raises(BundleError) as raised:
            attempt()
        assert f"this CI job has no identity to sign with ({reason}): on GitHub give" in str(raised.value)
        assert "`permissions: id-token: write`" in str(raised.value)


def test_the_identity_of_a_ci_job_is_the_one_that_signs(
    signable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import model_signing.signing

    private, public = key_pair(signable.parent, "ambient")
    asked: list[object] = []

    def signer(config: model_signing.signing.Config, *, identity_token: str | None) -> object:
        asked.append(identity_token)
        return config.use_elliptic_key_signer(private_key=private)

    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: "the job's token")
    monkeypatch.setattr(model_signing.signing.Config, "use_sigstore_signer", signer)
    require(SIGSTORE)
    sign(signable, SIGSTORE)
    assert asked == ["the job's token"]
    assert check_signature(signable, public) is None


def test_an_identity_is_handed_to_sigstore_with_its_issuer(
    signable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import model_signing.verifying

    private, public = key_pair(signable.parent, "someone")
    sign(signable, str(private))
    asked: list[tuple[str, str]] = []

    def verifier(config: model_signing.verifying.Config, *, identity: str, oidc_issuer: str) -> object:
        asked.append((identity, oidc_issuer))
        return config.use_elliptic_key_verifier(public_key=public)

    monkeypatch.setattr(model_signing.verifying.Config, "use_sigstore_verifier", verifier)
    who = Identity("ci@example.org", "https://issuer.example")
    assert check_signature(signable, who) is None
    (signable / "a.txt").write_text("b")
    assert "a.txt" in str(check_signature(signable, who))
    assert asked == [("ci@example.org", "https://issuer.example")] * 2
