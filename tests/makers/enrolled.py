"""An enrolled site and the coordinator's folder, made by the commands' own functions."""

from datetime import UTC, datetime
from pathlib import Path

from client.enroll import enroll
from client.settings import SiteSettings, load_settings
from mtmd_core.site_card import SiteCard, read_card
from server.authority import Certificates, certificates_in, create_authority, issue_server_certificate


def make_certificates(state: Path, *names: str) -> Certificates:
    """An authority and a server's certificate in a coordinator's folder."""
    certificates, now = certificates_in(state), datetime.now(UTC)
    create_authority(certificates, now)
    issue_server_certificate(certificates, names, now)
    return certificates


def enroll_site(state: Path, site: str, server: str, authority: Path) -> tuple[SiteSettings, SiteCard]:
    """Enrol a site in the folder ``state``; its settings and its card."""
    given = {"state": state, "server": server}
    enroll(load_settings(site, given), given, authority)
    return load_settings(site, {"state": state}), read_card(state / f"{site}-card.json")
