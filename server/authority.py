"""The federation's own certificate authority, and the server's certificate that it signs.

Every hospital gets the authority's certificate and trusts nothing else for this connection, so no public authority, and no
hospital's own, can vouch for another server.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mtmd_core.credentials import fingerprint
from mtmd_core.durable import write_private, write_text
from mtmd_core.errors import ConfigurationError

FOLDER = "tls"
"""Inside the coordinator's own folder."""
ALWAYS = ("localhost", "127.0.0.1")
AUTHORITY_DAYS = 3653
SERVER_DAYS = 825
_BACKDATED = timedelta(hours=1)
"""So that a hospital's clock which is a little slow does not find a certificate of the future."""
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.IGNORECASE
)


@dataclass(frozen=True)
class Certificates:
    """The four files: the authority's certificate and key, the server's certificate and key."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The file that hospitals get."""
        return self.folder / "authority.pem"

    @property
    def authority_key(self) -> Path:
        """Signs server certificates; never leaves this machine."""
        return self.folder / "authority.key"

    @property
    def server(self) -> Path:
        """What the server shows."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The server's own key."""
        return self.folder / "server.key"


def certificates_in(state: Path) -> Certificates:
    """Where the certificates of a coordinator's folder lie, made or not."""
    return Certificates(state / FOLDER)


def require_certificates(state: Path) -> Certificates:
    """The certificates of a coordinator's folder, fit for use now.

    Raises:
        ConfigurationError: if there are none, one is damaged or missing, or the server's has expired.
    """
    certificates = certificates_in(state)
    if not certificates.server.exists() and not certificates.authority.exists():
        raise ConfigurationError(
            f"{state} has no certificates: make them with `mtmd-server init --name HOST`, where HOST is what hospitals call "
            "this machine, or give --insecure for plain HTTP on loopback."
        )
    try:
        certificate = x509.load_pem_x509_certificate(certificates.server.read_bytes())
        key = serialization.load_pem_private_key(certificates.server_key.read_bytes(), password=None)
        if key.public_key() != certificate.public_key():
            raise ValueError("the key is not that of the certificate")
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{certificates.server} and {certificates.server_key.name} beside it cannot be used ({_in_short(error)}): make both "
            "anew with `mtmd-server init --renew --name HOST`; hospitals need nothing new."
        ) from None
    until = certificate.not_valid_after_utc
    if until < datetime.now(UTC):
        raise ConfigurationError(
            f"the certificate {certificates.server} has expired on {until:%Y-%m-%d}: run `mtmd-server init --renew`; hospitals "
            "need nothing new."
        )
    return certificates


def create_authority(certificates: Certificates, now: datetime) -> None:
    """Make the authority.

    Raises:
        ConfigurationError: if there is one already.
    """
    if certificates.authority.exists() or certificates.authority_key.exists():
        raise ConfigurationError(
            f"{certificates.folder} holds an authority already, which hospitals may trust: it is never overwritten. For another "
            "name or a fresh server certificate run `mtmd-server init --renew --name HOST`; for another federation give another "
            "--state folder."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mtmd federation authority")])
    builder = _builder(name, name, key.public_key(), key.public_key(), now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    write_private(certificates.authority_key, _key_file(key))
    write_text(certificates.authority, _certificate_file(builder.sign(key, hashes.SHA256())))


def issue_server_certificate(certificates: Certificates, names: Iterable[str], now: datetime) -> None:
    """Make the server's key and certificate for ``names`` (host names, IP addresses) and this machine's loopback.

    Raises:
        ConfigurationError: if a name is none, or there is no authority to sign.
    """
    names = every_name(names)
    alternatives = [_alternative(name) for name in names]
    if not certificates.authority_key.exists():
        raise ConfigurationError(f"{certificates.folder} holds no authority that could sign; run `mtmd-server init`.")
    authority = load_certificate(certificates.authority)
    try:
        authority_key = serialization.load_pem_private_key(certificates.authority_key.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{certificates.authority_key} is no private key ({_in_short(error)}): put it back from a copy; without one, "
            "begin another federation in another --state folder."
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mtmd-server")])
    days = min(SERVER_DAYS, (authority.not_valid_after_utc - now).days)
    builder = _builder(subject, authority.subject, key.public_key(), authority_key.public_key(), now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    write_private(certificates.server_key, _key_file(key))
    write_text(certificates.server, _certificate_file(builder.sign(authority_key, hashes.SHA256())))


def require_names(names: Iterable[str]) -> None:
    """Refuse, before anything is written, what no certificate can hold for.

    Raises:
        ConfigurationError: for a name that is neither a host's nor an IP address.
    """
    for name in names:
        _alternative(name)


def every_name(names: Iterable[str]) -> list[str]:
    """The given names and loopback's, each once."""
    return list(dict.fromkeys([*names, *ALWAYS]))


def names_in(certificate: x509.Certificate) -> list[str]:
    """Host names and IP addresses that a server's certificate holds for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(entry.value) for entry in found]


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate of ours.

    Raises:
        ConfigurationError: if the file is not there or damaged.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is no certificate ({_in_short(error)}): put it back from a copy. {_without(path)}"
        ) from None


def _without(path: Path) -> str:
    """What to do where there is no copy."""
    if path == certificates_in(path.parent.parent).authority:
        return "Hospitals have one too: it is what they were handed."
    return "Without one, make it anew with `mtmd-server init --renew --name HOST`, with every name that hospitals call it by."


def _in_short(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error).split(".")[0]


def certificate_fingerprint(path: Path) -> str:
    """The fingerprint of a certificate file, for people to compare."""
    return fingerprint(load_certificate(path).public_bytes(serialization.Encoding.DER))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    """What both certificates have, RFC 5280's key identifiers among it (strict checkers ask for them)."""
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return builder.add_extension(identifier, critical=False)


def _usage(*granted: str) -> x509.KeyUsage:
    words = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{word: word in granted for word in words})


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST.fullmatch(name) or name.replace(".", "").isdigit():
        raise ConfigurationError(
            f"'{name}' is neither a host name nor an IP address: give what hospitals call this machine, without https:// and "
            "without a port, for example federation.hospital.org or 192.0.2.7."
        )
    return x509.DNSName(name)


def _key_file(key: ec.EllipticCurvePrivateKey) -> bytes:
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*formats)


def _certificate_file(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
