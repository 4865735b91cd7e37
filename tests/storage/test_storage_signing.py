"""Keys and signatures: the private key stays with its owner, and a signature is good for one key and one text alone."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine.storage.signing import id_of, is_signed, make_key, read_private_key, read_public_key
from schemas.errors import ConfigError, InputNotFoundError, OutputError


def test_keys_are_a_pair_and_the_private_one_is_for_its_owner_alone(tmp_path: Path) -> None:
    private = tmp_path / "survey.key"
    public, key_id = make_key(private)
    assert public == tmp_path / "survey.key.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    own, open_half = read_private_key(private), read_public_key(public)
    assert id_of(own.public_key()) == id_of(open_half) == key_id
    assert is_signed(open_half, own.sign(b"report"), b"report")


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    for taken in ("a", "b.pub"):
        (tmp_path / taken).write_text("precious")
    for name in ("a", "b"):
        with pytest.raises(OutputError, match="expected a new name for a key"):
            make_key(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.pub"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}
    with pytest.raises(OutputError, match="cannot be written"):
        make_key(tmp_path / "nowhere" / "c")


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    private = tmp_path / "survey.key"
    make_key(private)
    private.chmod(0o640)
    with pytest.raises(ConfigError, match="others than its owner may read this private key: chmod 600"):
        read_private_key(private)


def test_files_that_are_no_such_keys_are_refused(tmp_path: Path) -> None:
    public, _ = make_key(tmp_path / "survey.key")
    other = generate_private_key(SECP256R1())
    pem = serialization.Encoding.PEM
    secret = other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    locked = Ed25519PrivateKey.generate().private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    texts = {"curve": secret, "locked": locked, "text": b"no key", "public": public.read_bytes()}
    for name, content in texts.items():
        path = tmp_path / name
        path.touch(0o600)
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="expected a private"):
            read_private_key(path)
        if name != "public":
            with pytest.raises(ConfigError, match="expected a public Ed25519 key in PEM"):
                read_public_key(path)
    shared = other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "curve.pub").write_bytes(shared)
    with pytest.raises(ConfigError, match="found one of another kind"):
        read_public_key(tmp_path / "curve.pub")
    with pytest.raises(InputNotFoundError, match="voorwerp keygen makes one"):
        read_private_key(tmp_path / "none")
    with pytest.raises(InputNotFoundError, match="expected a public key, found nothing"):
        read_public_key(tmp_path / "none")


def test_a_signature_is_that_of_the_standard() -> None:
    # RFC 8032, section 7.1, test 3.
    secret = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    key = Ed25519PublicKey.from_public_bytes(public)
    assert Ed25519PrivateKey.from_private_bytes(secret).sign(b"\xaf\x82") == signature
    assert is_signed(key, signature, b"\xaf\x82")
    assert not is_signed(key, signature, b"\xaf\x83")
    assert not is_signed(key, signature[:-1], b"\xaf\x82")
    assert not is_signed(key, b"", b"\xaf\x82")
    assert not is_signed(Ed25519PrivateKey.generate().public_key(), signature, b"\xaf\x82")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_agrees(tmp_path: Path) -> None:
    public, _ = make_key(tmp_path / "key")
    text, signature = tmp_path / "text", tmp_path / "signature"
    text.write_bytes(b"report")
    signature.write_bytes(read_private_key(tmp_path / "key").sign(b"report"))
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-rawin",
        "-in",
        text,
        "-sigfile",
        signature,
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    text.write_bytes(b"Report")
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
