"""Keys, their fingerprints, and how a request shows which key made it.

A request carries a public key, the time and a signature of the time: the scheme of Flower's SuperNodes
(``flwr/supernode/node_auth_http_interceptor.py`` and ``flwr/superlink/routers/fleet/node_auth.py`` of Flower 1.41), so that
one key serves Flower and what stands in front of it. Body and path are not signed: the scheme is for encrypted connections.
"""

import binascii
import hashlib
import shlex
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mtmd_core.errors import ConfigurationError

PUBLIC_KEY_HEADER = "flwr-public-key"
TIMESTAMP_HEADER = "flwr-timestamp"
SIGNATURE_HEADER = "flwr-signature"
CURVE = ec.SECP384R1
OLDEST_SECONDS, NEWEST_SECONDS = 305.0, -5.0
"""Between which ages a signature is taken, by the clock of the side that checks; as Flower has them."""

_SIGNATURE = ec.ECDSA(hashes.SHA256())


class CredentialError(Exception):
    """A request that does not show who made it; the text is complete, and may be sent back."""


def new_private_key() -> ec.EllipticCurvePrivateKey:
    """A key on NIST's curve P-384."""
    return ec.generate_private_key(CURVE())


def private_key_file(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as ``flower-supernode --auth-supernode-private-key`` reads it: OpenSSH's format, no passphrase."""
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    return key.private_bytes(*formats)


def load_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read what :func:`private_key_file` made.

    Raises:
        ConfigurationError: if the file holds no such key, or other users of the machine may read it.
    """
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(
            f"{path} may be read by other users of this machine: run `chmod 600 {shlex.quote(str(path))}`."
        )
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} holds no private key of a site; `mtmd-client enroll` makes one.")
    return key


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as text (PEM)."""
    formats = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_bytes(*formats).decode("ascii")


def load_public_pem(text: str) -> ec.EllipticCurvePublicKey:
    """Undo :func:`public_pem`.

    Raises:
        ValueError: if it is no public key on P-384.
    """
    try:
        key = serialization.load_pem_public_key(text.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise ValueError("not a public key on the curve P-384")
    return key


def key_fingerprint(public_key: str) -> str:
    """The fingerprint of a public key's PEM, however its lines are broken."""
    formats = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return fingerprint(load_public_pem(public_key).public_bytes(*formats))


def fingerprint(content: bytes) -> str:
    """SHA-256 in groups that can be read out over the telephone.

    >>> fingerprint(b"mtmd")[:14]
    '00aa 52c7 e4cf'
    """
    digits = hashlib.sha256(content).hexdigest()
    return " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))


def signed_headers(key: ec.EllipticCurvePrivateKey, at: datetime) -> dict[str, str]:
    """Headers that show, to whoever knows the public key, that its owner makes a request at this time."""
    timestamp = at.astimezone(UTC).isoformat()
    signature = key.sign(timestamp.encode("ascii"), _SIGNATURE)
    return {
        PUBLIC_KEY_HEADER: _base64(public_pem(key.public_key()).encode("ascii")),
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: _base64(signature),
    }


def signer(headers: Mapping[str, str], now: datetime) -> str:
    """The public key (PEM) whose owner signed a request's headers.

    Raises:
        CredentialError: if there is no signature, it is not the key's, or it is too old or too new.
    """
    try:
        public_key = b64decode(headers[PUBLIC_KEY_HEADER], validate=True).decode("ascii")
        signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
        timestamp = headers[TIMESTAMP_HEADER]
        signed_at = datetime.fromisoformat(timestamp)
        load_public_pem(public_key).verify(signature, timestamp.encode("ascii"), _SIGNATURE)
        age = (now - signed_at).total_seconds()
    except KeyError:
        raise CredentialError("the request is not signed: this server talks to enrolled sites only.") from None
    except (InvalidSignature, ValueError, TypeError, binascii.Error):
        raise CredentialError("the request's signature is not that of the key that it names.") from None
    if not NEWEST_SECONDS < age < OLDEST_SECONDS:
        clock = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s in the future"
        raise CredentialError(
            f"the request was signed {clock} by the server's clock: set the clocks of both machines (NTP keeps them right)."
        )
    return public_key


def _base64(content: bytes) -> str:
    return b64encode(content).decode("ascii")
