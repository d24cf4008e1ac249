"""Who may sign in: OAuth clients, and service accounts with their keys.

While no client is registered, any client id is good with any secret. Service accounts exist only once their key was made here.
Sources: RFC 6749 (2.3.1), RFC 7523 (2.1, 3), https://developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_public_key

from drivefs.emulator.oauth import OAuthError
from drivefs.emulator.store import Store

__all__ = ["Client", "Clients", "ServiceAccounts", "new_key_file"]

PROJECT: Final = "drivefs-emulator"
_MOST_SECONDS: Final = 3600  # that an assertion may live
_SKEW_SECONDS: Final = 300
_AUDIENCES: Final = frozenset(
    {
        "https://oauth2.googleapis.com/token",
        "https://www.googleapis.com/oauth2/v4/token",
        "https://accounts.google.com/o/oauth2/token",
    }
)


@dataclass(frozen=True, slots=True)
class Client:
    """An app. kind: "installed" or "web", as in the file that Google's console gives out; redirects: for web ones."""

    id: str
    kind: str = "installed"
    redirects: tuple[str, ...] = ()


class Clients:
    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def any(self) -> bool:
        """Whether any client id is good: none was registered."""
        return self._store.connection.execute("SELECT 1 FROM clients LIMIT 1").fetchone() is None

    def register(self, kind: str, redirects: list[str], base_url: str) -> dict[str, Any]:
        """A new client, in the form of the file that apps read. From now on only registered ones are good."""
        client_id = f"{secrets.randbelow(10**12):012d}-{secrets.token_hex(16)}.apps.googleusercontent.com"
        secret = f"GOCSPX-{secrets.token_urlsafe(21)}"
        self._store.connection.execute(
            "INSERT INTO clients (id, secret, kind, redirects) VALUES (?, ?, ?, ?)",
            (client_id, secret, kind, json.dumps(redirects)),
        )
        described = {"client_id": client_id, "project_id": PROJECT, "client_secret": secret} | _addresses(base_url)
        return {kind: described | {"redirect_uris": redirects or ["http://localhost"]}}

    def find(self, client_id: str) -> Client:
        """Raises OAuthError for a stranger."""
        if not client_id:
            raise OAuthError("invalid_request", "Could not determine client ID from request.")
        row = self._store.connection.execute("SELECT * FROM clients WHERE id = ?", (client_id,)).fetchone()
        if row is not None:
            return Client(row["id"], row["kind"], tuple(json.loads(row["redirects"])))
        if not self.any:
            raise OAuthError("invalid_client", "The OAuth client was not found.", 401)
        return Client(client_id)

    def authenticate(self, form: dict[str, str]) -> Client:
        """The client that a token request comes from. Raises OAuthError."""
        client = self.find(form.get("client_id", ""))
        row = self._store.connection.execute("SELECT secret FROM clients WHERE id = ?", (client.id,)).fetchone()
        if row is not None and not form.get("client_secret"):
            raise OAuthError("invalid_request", "client_secret is missing.")
        if row is not None and not hmac.compare_digest(row["secret"].encode(), form["client_secret"].encode()):
            raise OAuthError("invalid_client", "The provided client secret is invalid.", 401)
        return client


def _addresses(base_url: str) -> dict[str, str]:
    return {
        "auth_uri": f"{base_url}o/oauth2/auth",
        "token_uri": f"{base_url}token",
        "auth_provider_x509_cert_url": f"{base_url}oauth2/v1/certs",
    }


class ServiceAccounts:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, described: dict[str, Any], public_key: bytes) -> None:
        """Accept what is signed with a key from now on."""
        self._store.connection.execute(
            "INSERT INTO service_accounts (key_id, email, public_key, token_uri) VALUES (?, ?, ?, ?)",
            (described["private_key_id"], described["client_email"], public_key, described["token_uri"]),
        )

    def verify(self, assertion: str) -> dict[str, Any]:
        """The claims of an assertion: who signs in, and for what. Raises OAuthError."""
        header, claims, signed, signature = _decode(assertion)
        if header.get("alg") != "RS256":
            raise OAuthError("invalid_grant", "Invalid JWT: the algorithm must be RS256.")
        missing = [name for name in ("iss", "scope", "aud", "iat", "exp") if not claims.get(name)]
        if missing:
            raise OAuthError("invalid_grant", f"Invalid JWT: missing claims {', '.join(missing)}.")
        _check_times(claims, self._store.clock() / 1000)
        rows = self._store.connection.execute("SELECT * FROM service_accounts WHERE email = ?", (str(claims["iss"]),)).fetchall()
        if not rows:
            raise OAuthError("invalid_grant", "Invalid grant: account not found")
        keys = [row["public_key"] for row in rows if header.get("kid") in (None, row["key_id"])]
        if not any(_signed_by(key, signed, signature) for key in keys):
            raise OAuthError("invalid_grant", "Invalid JWT Signature.")
        if not isinstance(claims["aud"], str) or claims["aud"] not in _AUDIENCES | {row["token_uri"] for row in rows}:
            raise OAuthError("invalid_grant", "Invalid JWT: Failed audience check.")
        return claims


def new_key_file(name: str, base_url: str) -> tuple[dict[str, Any], bytes]:
    """A new account's key file, and its public key. Takes the tenth of a second that an RSA key takes: call in a thread."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    email, number = f"{name}@{PROJECT}.iam.gserviceaccount.com", str(secrets.randbelow(10**21)).zfill(21)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    described = {"type": "service_account", "project_id": PROJECT, "private_key_id": secrets.token_hex(20)}
    described |= {"private_key": private, "client_email": email, "client_id": number} | _addresses(base_url)
    described |= {"client_x509_cert_url": f"{base_url}robot/v1/metadata/x509/{email}", "universe_domain": "googleapis.com"}
    return described, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _check_times(claims: dict[str, Any], now: float) -> None:
    issued, expires = claims["iat"], claims["exp"]
    numeric = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (issued, expires))
    if not numeric or not issued - _SKEW_SECONDS <= now < expires or expires - issued > _MOST_SECONDS:
        raise OAuthError(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            " Check your iat and exp values in the JWT claim.",
        )


def _signed_by(public_key: bytes, signed: bytes, signature: bytes) -> bool:
    key = load_pem_public_key(public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _decode(assertion: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, the bytes that were signed, and the signature (RFC 7515, 7.1)."""
    parts = assertion.split(".")
    try:
        if len(parts) != 3 or not parts[2]:
            raise ValueError("three parts")
        first, second, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        header, claims = json.loads(first), json.loads(second)
        signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    except (ValueError, RecursionError):
        raise OAuthError("invalid_grant", "Invalid JWT: it could not be decoded.") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise OAuthError("invalid_grant", "Invalid JWT: it could not be decoded.")
    return header, claims, signed, signature
