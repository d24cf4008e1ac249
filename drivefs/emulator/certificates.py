"""A certificate authority of one's own, for the few host names that Drive's clients have compiled in.

The authority may vouch for those names only (name constraints), so whoever trusts it trusts it for nothing else. Its key is made
once and stays in a private folder; the keys of leaf certificates live in memory.
Source: RFC 5280, 4.2.1 (extensions).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "AuthorityError", "serves"]

_DOMAIN: Final = "googleapis.com"
_HOSTS: Final = ("accounts.google.com",)
_LIFE: Final = timedelta(days=3650)
_LEAST_LIFE: Final = timedelta(days=30)  # an authority with less than this left is replaced
_LEAF_LIFE: Final = timedelta(days=397)
_SKEW: Final = timedelta(days=1)  # for clients whose clock is behind
_MOST_LEAVES: Final = 64


class AuthorityError(Exception):
    """The folder or the key in it cannot be used; the text says what to do."""


def serves(host: str) -> bool:
    """Whether certificates are made for ``host`` (lower case): ``*.googleapis.com`` and ``accounts.google.com``."""
    labels = host.removesuffix(f".{_DOMAIN}").split(".")
    below = host.endswith(f".{_DOMAIN}") and all(one.replace("-", "").isalnum() and one.isascii() for one in labels)
    return host in _HOSTS or (below and len(host) <= 253)


class Authority:
    """Signs leaf certificates with the key in a folder. ``path``: the certificate that clients are told to trust."""

    def __init__(self, path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Use ``open``."""
        self.path = path
        self._certificate, self._key = certificate, key
        self.context = lru_cache(_MOST_LEAVES)(self._context)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority kept in ``folder`` (``ca.pem``, ``ca-key.pem``); made where there is none yet. Raises AuthorityError."""
        with _locked(folder):
            return cls._load(folder) or cls._make(folder)

    @classmethod
    def _load(cls, folder: Path) -> Authority | None:
        key_path, path = folder / "ca-key.pem", folder / "ca.pem"
        if not key_path.exists() or not path.exists():
            return None
        if stat.S_IMODE(key_path.stat().st_mode) & 0o077:
            raise AuthorityError(f"others may read {key_path}. Delete it and ca.pem, and let clients trust the new certificate.")
        try:
            certificate, key = (
                x509.load_pem_x509_certificate(path.read_bytes()),
                load_pem_private_key(key_path.read_bytes(), None),
            )
        except ValueError:
            raise AuthorityError(f"the certificate or key in {folder} is damaged. Delete both files and start again.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"ca.pem and ca-key.pem in {folder} do not belong together. Delete both files and start again.")
        current = certificate.not_valid_after_utc - datetime.now(timezone.utc) > _LEAST_LIFE
        return cls(path, certificate, key) if current else None

    @classmethod
    def _make(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "drivefs emulator: for googleapis.com only")])
        allowed = [x509.DNSName(one) for one in (_DOMAIN, *_HOSTS)]
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        builder = (
            _builder(name, name, key, _LIFE, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.NameConstraints(allowed, None), critical=True)
        )
        certificate = builder.sign(key, hashes.SHA256())
        _write(folder / "ca-key.pem", _pem(key), 0o600)
        _write(folder / "ca.pem", certificate.public_bytes(Encoding.PEM), 0o644)
        return cls(folder / "ca.pem", certificate, key)

    def _context(self, host: str) -> ssl.SSLContext:
        """A server's TLS context with a certificate for ``host``: TLS 1.2 or newer, HTTP/1.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        # The subject stays empty where the name would be too long for it; clients read the alternative name.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)] if len(host) <= 64 else [])
        usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True}
        builder = (
            _builder(subject, self._certificate.subject, key, _LEAF_LIFE, self._key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=len(host) > 64)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        pem = _pem(key) + builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        with _in_memory(pem) as path:
            context.load_cert_chain(path)
        return context


_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two servers that start at once make one authority. Made where it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AuthorityError(f"cannot use {folder} for the certificate ({error.strerror}). Choose another --ca-dir.") from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise AuthorityError(f"others may write in {folder}. Choose a --ca-dir of your own, with mode 0700.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, mode: int) -> None:
    """All of the file or none of it. The caller holds the folder."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path at which ``data`` can be read for a moment: the ssl module reads keys from files only, and none should be left."""
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
