"""Signing a bundle with model-signing: a Sigstore bundle over every file, by a key pair or by an identity."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_finetune.bundle.format import SIGNATURE, BundleError, of_the_hub, walk
from pytest_finetune.errors import install

PASSWORD_VARIABLE: Final = "FINETUNE_KEY_PASSWORD"
SIGSTORE: Final = "sigstore"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must have signed, by Sigstore: the identity in the certificate, and who vouched for it."""

    name: str
    issuer: str


def sign(folder: Path, key: str) -> None:
    """Sign every file of a finished bundle; `key` is a private key's file (PEM), or ``sigstore``.

    Sigstore takes the identity that the CI system offers, else it asks in a browser; it needs the network. The
    password of an encrypted key comes from FINETUNE_KEY_PASSWORD. Raises BundleError.
    """
    signing = _library("signing")
    config = signing.Config().set_hashing_config(_hashing([folder / SIGNATURE]))
    config = _with_identity(config) if key == SIGSTORE else _with_key(config, Path(key))
    try:
        config.sign(folder, folder / SIGNATURE)
    except Exception as error:  # the library lets through whatever its own dependencies raise
        raise BundleError(f"cannot sign with {key}: {_reason(error)}{_needs(key)}") from error


def check_signature(folder: Path, by: Path | Identity) -> str | None:
    """Return why the signature does not hold for this folder, None when it does.

    Raises BundleError for a bad key, and where Sigstore's roots cannot be had: then nothing was checked.
    """
    verifying = _library("verifying")
    config = verifying.Config()
    config = _by_identity(config, by) if isinstance(by, Identity) else _public(config, by)
    beside = [folder / name for name, _ in walk(folder) if of_the_hub(name)]
    if beside:
        config = config.set_hashing_config(_hashing(beside))
    try:
        config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # as above; every way of failing means that the signature does not hold
        return _reason(error)
    return _ignored(folder)


def require(key: str) -> None:
    """Raise BundleError where library, key file or CI identity is missing: before a long run, not after it."""
    _library("signing")
    if key == SIGSTORE:
        _ambient_token()
    elif not Path(key).is_file():
        raise BundleError(f"there is no key file {key!r}")


def _with_identity(config: Any) -> Any:
    token = _ambient_token()
    try:
        return config.use_sigstore_signer(identity_token=token)
    except Exception as error:  # its trust roots come from the network
        raise BundleError(f"cannot sign with {SIGSTORE}: {_reason(error)}{_needs(SIGSTORE)}") from error


def _by_identity(config: Any, by: Identity) -> Any:
    try:
        return config.use_sigstore_verifier(identity=by.name, oidc_issuer=by.issuer)
    except Exception as error:  # as above
        raise BundleError(
            f"nothing was checked: Sigstore's roots of trust cannot be read ({_reason(error)}): check an identity "
            "where there is a network, or a key pair with --public-key"
        ) from error


def _ambient_token() -> str | None:
    """Return the identity that a CI job offers; None outside of one, where Sigstore asks in a browser.

    Raises BundleError in a job that offers none: the browser that would be asked next is nobody's.
    """
    if not os.environ.get("CI"):
        return None
    from sigstore import oidc

    try:
        token = oidc.detect_credential()
    except Exception as error:  # GitHub's variables are there and its answer is no
        why = _reason(error)
    else:
        if token is not None:
            return str(token)
        why = "none was found"
    raise BundleError(
        f"this CI job has no identity to sign with ({why}): on GitHub give the job `permissions: id-token: write`, "
        "on GitLab an `id_tokens: SIGSTORE_ID_TOKEN` with `aud: sigstore`, or sign with a key pair"
    )


def _needs(key: str) -> str:
    """Name what Sigstore needs and a key pair does not."""
    return "; Sigstore needs the network, a key pair (a PEM file) does not" if key == SIGSTORE else ""


def _with_key(config: Any, key: Path) -> Any:
    if not key.is_file():
        raise BundleError(f"there is no key file {str(key)!r}")
    password = os.environ.get(PASSWORD_VARIABLE, "").encode() or None  # the library hands it on as it is
    try:
        return config.use_elliptic_key_signer(private_key=key, password=password)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{str(key)!r} is no private key that can sign: {_reason(error)} (an elliptic-curve key in PEM; "
            f"the password of an encrypted one is read from {PASSWORD_VARIABLE})"
        ) from None


def _public(config: Any, key: Path) -> Any:
    if not key.is_file():
        raise BundleError(f"there is no key file {str(key)!r}")
    try:
        return config.use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{str(key)!r} is no public key: {_reason(error)} (an elliptic-curve key in PEM)"
        ) from None


def _hashing(left_out: list[Path]) -> Any:
    """Cover everything else: by default git's own files would be left out as well."""
    return _library("hashing").Config().set_ignored_paths(paths=left_out, ignore_git_paths=False)


def _ignored(folder: Path) -> str | None:
    """Refuse a signature that leaves out any file but itself."""
    envelope = json.loads((folder / SIGNATURE).read_bytes())["dsseEnvelope"]
    import base64

    payload = json.loads(base64.b64decode(envelope["payload"]))
    left_out = set(payload["predicate"]["serialization"].get("ignore_paths", ())) - {SIGNATURE}
    return f"it leaves out {', '.join(sorted(left_out))}" if left_out else None


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise BundleError(f"signatures need model-signing ({error}): {install('sign')}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
