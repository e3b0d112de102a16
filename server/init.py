"""``mtmd-server init``: the coordinator's own folder with certificates, and what to hand to each hospital."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mtmd_core.arguments import CommandParser
from mtmd_core.errors import ConfigurationError

from .settings import load_settings


def init(words: Sequence[str]) -> int:
    """Make the authority and the server's certificate, or with ``--renew`` the latter alone; the exit code."""
    given = _parser().parse(words)
    settings = load_settings({"state": given.state})

    from .authority import (
        certificate_fingerprint,
        certificates_in,
        create_authority,
        every_name,
        issue_server_certificate,
        load_certificate,
        names_in,
        require_names,
    )

    certificates, now = certificates_in(settings.state), datetime.now(UTC)
    require_names(given.name)
    names, before = given.name, []
    if given.renew:
        try:
            before = names_in(load_certificate(certificates.server))
        except ConfigurationError:
            if not names:  # a damaged one is made anew under names that are given
                raise
        names = names or before
    else:
        create_authority(certificates, now)
    issue_server_certificate(certificates, names, now)
    authority, server = load_certificate(certificates.authority), load_certificate(certificates.server)
    place = f" --state {given.state}" if given.state is not None else ""
    print(f"authority   {certificates.authority}, valid until {authority.not_valid_after_utc:%Y-%m-%d}")
    print(f"server      for {', '.join(every_name(names))}, valid until {server.not_valid_after_utc:%Y-%m-%d}")
    if given.renew:
        dropped = [name for name in before if name not in every_name(names)]
        _say_renewed(place, names, dropped)
    else:
        host = names[0] if names else every_name(names)[-1]
        _say_what_to_hand_out(
            settings.port, place, host, certificates.authority, certificate_fingerprint(certificates.authority)
        )
        if not names:
            print("This certificate is for this machine alone: --name HOST makes one for hospitals to reach.")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="mtmd-server init",
        description="Make the certificates of a federation, and say what each hospital gets.",
        epilog="Run it once, on the machine that will coordinate. Private keys stay in its folder, readable by you alone.",
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="the coordinator's own folder (default: federation)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a host name or IP address by which hospitals reach this machine; may be given several times",
    )
    parser.add_argument(
        "--renew",
        action="store_true",
        help="a fresh server certificate by the same authority, for the names of the last one or for all that --name gives",
    )
    return parser


def _say_renewed(place: str, names: Sequence[str], dropped: Sequence[str]) -> None:
    print("hospitals need nothing new; a server that runs shows the new certificate after its next start")
    if dropped:
        every = " ".join(f"--name {name}" for name in (*dropped, *names))
        print(
            f"but for those that call it {', '.join(dropped)}, which it is no longer: `mtmd-server init{place} --renew "
            f"{every}` makes it all of these"
        )


def _say_what_to_hand_out(port: int, place: str, host: str, authority: Path, fingerprint: str) -> None:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(
        f"\nhand to each hospital\n"
        f"  file         {authority}\n"
        f"  fingerprint  {fingerprint}\n"
        f"  address      {address}\n"
        f"Let them compare the fingerprint by another way than the file came, by telephone for example.\n"
        f"Each hospital then enrols and sends a card back: `mtmd-server admit{place} FILE`"
    )
