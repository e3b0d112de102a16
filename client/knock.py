"""Asking the server, before anything is started and from time to time, whether it is there and lets this site in.

Flower's SuperNode would find out as well, and end with a number; what a person reads comes from here.
"""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import httpx

from mtmd_core.credentials import load_private_key, signed_headers
from mtmd_core.errors import ConfigurationError, UnreachableError
from mtmd_core.processes import is_healthy
from mtmd_core.words import without_control

from .settings import SiteSettings, require_server

PATH = "/v1/fleet/admission"
_TIMEOUT_SECONDS = 5.0
_LONGEST_WORD = 500
"""Characters of the server's that a person is shown."""
_PROXY_REFUSES = ("403", "407")
"""How a proxy's answer begins that asking again does not change; with any other it did not find the server."""

Knock = Callable[[], bool]
"""Whether the server answers; raises UnreachableError if it is not the right one or refuses this site."""


def knocker(settings: SiteSettings) -> Knock:
    """How this site knocks.

    Raises:
        ConfigurationError: if the settings do not allow it, or the site's key or the authority's certificate is none.
    """
    host, port = require_server(settings)
    if settings.insecure:
        return partial(is_healthy, host, port)
    key = load_private_key(settings.key_file)
    try:
        trusted = ssl.create_default_context(cafile=str(settings.authority_file))
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            f"{settings.authority_file} holds no certificate: ask the coordinator for the authority's file and run "
            "`mtmd-client enroll` again."
        ) from None
    client = httpx.Client(verify=trusted, timeout=_TIMEOUT_SECONDS)
    url = f"https://{settings.server}{PATH}"

    def knock() -> bool:
        try:
            answer = client.get(url, headers=signed_headers(key, datetime.now(UTC)))
        except httpx.ProxyError as error:
            if str(error).startswith(_PROXY_REFUSES):
                raise UnreachableError(_no_way_out(settings, error)) from None
            return False
        except httpx.TransportError as error:
            if (fault := _certificate_fault(error)) is not None:
                raise UnreachableError(_wrong_server(settings, fault)) from None
            return False
        except httpx.RequestError:  # an answer that nobody can read
            return False
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            reason = _said(answer, "detail") or "no reason was given."
            raise UnreachableError(f"the server at {settings.server} does not let {settings.site} in: {reason}")
        site = _said(answer, "site")
        if answer.status_code != httpx.codes.OK or site is None:
            return False
        if site != settings.site:
            raise UnreachableError(
                f"the server at {settings.server} knows this key as {site}, not {settings.site}: start with --site {site}, or "
                f"enrol {settings.site} in a folder of its own."
            )
        return True

    return knock


def _certificate_fault(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Why a certificate was not believed, if that is what an error comes from."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLCertVerificationError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _wrong_server(settings: SiteSettings, fault: ssl.SSLCertVerificationError) -> str:
    return (
        f"what answers at {settings.server} is not the server that {settings.authority_file} vouches for "
        f"({fault.verify_message}). Nothing was sent to it. Check the address; compare the authority's fingerprint with the "
        "coordinator; if the coordinator made a new authority, run `mtmd-client enroll` again with its file."
    )


def _no_way_out(settings: SiteSettings, error: httpx.ProxyError) -> str:
    host = settings.server.rpartition(":")[0]
    return (
        f"the proxy that HTTPS_PROXY names opens no way to {settings.server}: {error}. Ask those who run it to let this machine "
        "through to that address (CONNECT); if it wants a password, give HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT; if none is "
        f"needed to reach {host}, give NO_PROXY={host}."
    )


def _said(answer: httpx.Response, word: str) -> str | None:
    """What an answer says under a word, as terminals may show it; None if it says nothing."""
    try:
        return without_control(str(answer.json()[word]))[:_LONGEST_WORD]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
