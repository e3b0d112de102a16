"""``mtmd-client enroll``: the site's own key, made on site, and the authority that vouches for the server."""

import contextlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mtmd_core.credentials import fingerprint, load_private_key, new_private_key, private_key_file, public_pem
from mtmd_core.durable import write_private, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import exclusive
from mtmd_core.site_card import SiteCard, write_card

from .settings import OWN_FILE, SiteSettings, differing, remember, require_data_folder


def enroll(settings: SiteSettings, given: Mapping[str, Any], authority: Path, new_key: bool = False) -> int:
    """Make what a site needs to join, and say what the coordinator gets; the exit code.

    A key that is there already is kept, so that enrolling again changes the server's address or authority alone; unless a new one
    is asked for, as for a key that was lost, stolen or seen by somebody.

    Args:
        settings: of the site.
        given: what of them came from the command line; kept in the site's own folder.
        authority: the file that the coordinator handed out.
        new_key: whether to make a new key in any case; the one before is moved aside.

    Raises:
        ConfigurationError: if ``authority`` is not an authority's certificate, or the site's own file says otherwise.
        DataError: if the folder of exams is none.
    """
    certificate = read_authority(authority)
    own_file = settings.state / OWN_FILE
    if settings.server is None:
        raise ConfigurationError("no server is named: give --server HOST:PORT, as the coordinator told you.")
    if settings.insecure:
        raise ConfigurationError(f"{own_file} says 'insecure: true': take that line out, and enrol again.")
    if line := differing(settings, given):
        raise ConfigurationError(f"{own_file} keeps something else ({line}): change it there first, and enrol again.")
    if given.get("data") is not None:
        require_data_folder(settings)
    with exclusive(settings.state, "mtmd-client"):
        aside = _set_aside(settings.key_file) if new_key and settings.key_file.exists() else None
        is_new = not settings.key_file.exists()
        if is_new:
            write_private(settings.key_file, private_key_file(new_private_key()))
        card = SiteCard(settings.site, public_pem(load_private_key(settings.key_file).public_key()))
        card_file = settings.state / f"{settings.site}-card.json"
        write_card(card_file, card)
        before = settings.authority_file.read_bytes() if settings.authority_file.exists() else None
        write_text(settings.authority_file, certificate.public_bytes(Encoding.PEM).decode("ascii"))
        remember(settings, given)
    print(
        f"authority    {settings.authority_file}\n"
        f"fingerprint  {fingerprint(certificate.public_bytes(Encoding.DER))}\n"
        f"             compare it with the one that the coordinator reads out; if it differs, go no further\n"
        f"{_another_than(before, certificate)}\n"
        f"{'made' if is_new else 'kept'} the key  {settings.key_file} (it never leaves this machine)\n"
        f"{_farewell_to(aside, settings.site)}"
        f"settings     {own_file}\n\n"
        f"hand to the coordinator\n"
        f"  file         {card_file}\n"
        f"  fingerprint  {card.fingerprint}\n\n"
        f"once the coordinator has admitted it: `{_next_command(settings, given)}`"
    )
    return 0


def _set_aside(key: Path) -> Path:
    """Rename a key, so that none that is there already is written over; its new place."""
    place = next(place for number in count(1) if not (place := key.with_name(f"{key.name}.before-{number}")).exists())
    key.replace(place)
    return place


def _another_than(before: bytes | None, certificate: x509.Certificate) -> str:
    """A line where the authority that was trusted before is another than the one that is now."""
    if before is None:
        return ""
    with contextlib.suppress(ValueError):  # one that is damaged is another
        if x509.load_pem_x509_certificate(before) == certificate:
            return ""
    return "             IT IS ANOTHER THAN BEFORE: until now this site trusted an authority with another fingerprint\n"


def _farewell_to(key: Path | None, site: str) -> str:
    if key is None:
        return ""
    return (
        f"aside        {key}, the key before: the coordinator must run `mtmd-server revoke {site}`, then admit the new card;\n"
        "             until then the server refuses this site, and lets in whoever has the old key\n"
    )


def read_authority(path: Path) -> x509.Certificate:
    """An authority's certificate.

    Raises:
        ConfigurationError: if the file is not there, is no certificate, or one that vouches for nobody.
    """
    expected = "expected the file authority.pem that the coordinator handed out."
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); {expected}") from None
    if b"PRIVATE KEY" in content:
        raise ConfigurationError(
            f"{path} holds a private key, which nobody should ever be sent: delete it, and tell the coordinator that this key "
            f"must not be used any more; {expected}"
        )
    try:
        certificate = x509.load_pem_x509_certificate(content)
        vouches = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        vouches = False
    if not vouches:
        raise ConfigurationError(f"{path} is not the certificate of an authority; {expected}")
    return certificate


def _next_command(settings: SiteSettings, given: Mapping[str, Any]) -> str:
    place = f" --state {given['state']}" if given.get("state") is not None else ""
    data = "" if settings.data is not None else " --data DIR"
    return f"mtmd-client --site {settings.site}{place}{data}"
