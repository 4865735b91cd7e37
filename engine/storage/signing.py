"""Ed25519 signatures (RFC 8032) over bytes, with keys in PEM files. A private key is never shown.

A signature is 64 bytes as they are, so that others can check it too:
`openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in report.json -sigfile SIGNATURE`.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigError, InputNotFoundError, OutputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_SUFFIX = ".pub"
_ONLY_OWNER = 0o600
_OTHERS = 0o077


def make_key(path: Path) -> tuple[Path, str]:
    """Make a private key that its owner alone may read, and the public key beside it.

    Returns
    -------
    public : Path
        Of the public key, to be given to everybody.
    key_id : str

    Raises
    ------
    OutputError
        One of the files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    open_half = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    if public.exists():
        raise OutputError(f"{public}: expected a new name for a key, found a file")
    for target, data, mode in ((path, secret, _ONLY_OWNER), (public, open_half, 0o644)):
        try:
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise OutputError(f"{target}: expected a new name for a key, found a file") from error
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    return public, id_of(private.public_key())


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    ConfigError
        It is no private Ed25519 key in PEM, it has a password, or others than its owner may read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, "a private key (voorwerp keygen makes one)")
    if path.stat().st_mode & _OTHERS:
        raise ConfigError(f"{path}: others than its owner may read this private key: chmod 600 it, or make another")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: expected a private Ed25519 key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected a private key of Ed25519, found one of another kind")
    return key


def read_public_key(path: Path) -> "Ed25519PublicKey":
    """Read a public key.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    ConfigError
        It is no public Ed25519 key in PEM.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path, "a public key"))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: expected a public Ed25519 key in PEM, as voorwerp keygen makes it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected a public key of Ed25519, found one of another kind")
    return key


def id_of(key: "Ed25519PublicKey") -> str:
    """Name a public key by its content: 16 hex digits of SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def is_signed(key: "Ed25519PublicKey", signature: bytes, data: bytes) -> bool:
    """Whether a signature is that of a key over some bytes."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputNotFoundError(f"expected {expected}, found nothing at {path}") from error
    except OSError as error:
        raise ConfigError(f"{path}: expected {expected}, which can be read: {error.strerror}") from error
