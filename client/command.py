"""``mtmd-client``: a hospital's command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtmd_core.arguments import CommandParser, exit_code_of
from mtmd_core.strategies import FEDERATED_STRATEGIES
from mtmd_core.words import DEVICES, RELEASES

from .settings import OWN_FILE, SiteSettings, differing, load_settings, remember, require_data_folder

_EPILOG = """\
other commands (each has its own --help):
  enroll    make the site's key, and trust the coordinator's certificate
  check     read all exams of a site and print every problem
  import    turn one DICOM series into a case
  predict   segment new exams with a trained model
  status    what the site is doing: round, refusals, time left; works at any time
  ledger    verify the record of everything that left the site
  outbox    show what would leave, without sending it

The first time, name everything; once the site has joined, what was given is kept in its own folder (--state, by default
sites/NAME), in site.yaml, and from then on `mtmd-client --site NAME` is enough. Words given later count for that run only.

exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 server unreachable, 4 data invalid,
130 and 143 ended by Ctrl-C and SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in _COMMANDS else ""
    return exit_code_of("mtmd-client", lambda: _COMMANDS.get(command, _join)(words[1:] if command else words))


def _join(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-client",
        description="Take part in a federation with the exams of one site.",
        epilog=_EPILOG,
        commands=_COMMANDS,
    )
    _add_site(parser)
    _add_data(parser)
    _add_server(parser)
    parser.add_argument("--insecure", action="store_const", const=True, help="plain HTTP for trials, loopback only")
    _add_choices(parser)
    parser.add_argument("--connect-timeout-seconds", type=float, metavar="S", help="how long the server may stay away")
    parser.add_argument("--message-timeout-seconds", type=float, metavar="S", help="how long one message may take")
    given = vars(parser.parse(words))
    settings = load_settings(given.pop("site"), given)

    from .supervisor import check_ready, join

    check_ready(settings)

    def say(line: str) -> None:
        print(f"{settings.site}: {line}", flush=True)

    def keep() -> None:
        if (written := remember(settings, given)) is not None:
            place = f" --state {given['state']}" if given["state"] is not None else ""
            say(f"settings kept in {written}; next time `mtmd-client --site {settings.site}{place}` is enough")

    if line := differing(settings, given):
        say(line)
    if settings.insecure:
        why = "--insecure" if given["insecure"] else f"{settings.state / OWN_FILE} says 'insecure: true'"
        say(f"PLAIN HTTP, nothing is encrypted and nobody shows who they are, for trials only: {why}")
    code = join(settings, say, keep)
    say("the run is done" if code == 0 else "the server says that the run failed")
    return code


def _enroll(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-client enroll",
        description="Make the site's own key, trust the coordinator's authority, and write the card that the coordinator admits.",
    )
    _add_site(parser)
    _add_data(parser)
    _add_server(parser)
    parser.add_argument(
        "--authority", type=Path, required=True, metavar="FILE", help="authority.pem, as the coordinator handed it out"
    )
    parser.add_argument(
        "--new-key", action="store_true", help="make a new key even if there is one, for example because it was stolen"
    )
    _add_choices(parser)
    given = vars(parser.parse(words))
    site, authority, new_key = (given.pop(word) for word in ("site", "authority", "new_key"))
    settings = load_settings(site, given)

    from .enroll import enroll

    return enroll(settings, given, authority, new_key)


def _check(words: Sequence[str]) -> int:
    parser = CommandParser(prog="mtmd-client check", description="Read all exams; print every problem.")
    _add_site(parser)
    _add_data(parser)
    settings = _settings(parser, words)[0]

    from .check import check

    return check(require_data_folder(settings), settings.site)


def _import(words: Sequence[str]) -> int:
    parser = CommandParser(prog="mtmd-client import", description="Turn one DICOM series into a case.")
    parser.add_argument("--dicom", type=Path, required=True, metavar="DIR", help="folder with the files of one series")
    parser.add_argument("--case", required=True, metavar="NAME", help="name of the new case")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="nnU-Net raw folder that receives it")
    parser.add_argument("--label", type=Path, metavar="FILE", help="label map with the same geometry")
    given = parser.parse(words)

    from .import_case import import_case

    return import_case(given.dicom, given.case, given.data, given.label)


def _predict(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-client predict", description="Segment new exams; ends with 4 if any could not be."
    )
    _add_site(parser)
    parser.add_argument("-m", "--model", type=Path, metavar="MODEL", help="trained model (default: the site's own)")
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="PATH", help="one exam, or a folder of exams"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where label maps are written")
    parser.add_argument("--device", choices=DEVICES, help="where to compute (default: auto)")
    settings, given = _settings(parser, words)

    from .predict import predict

    return predict(settings.site, given.model, given.input, given.output, settings.state, settings.device)


def _status(words: Sequence[str]) -> int:
    parser = CommandParser(prog="mtmd-client status", description="Say what a site is doing; it is not disturbed.")
    _add_site(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people or for programs")
    settings, given = _settings(parser, words)

    from .status import status

    return status(settings.site, settings.state, given.format == "json")


def _ledger(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-client ledger",
        description="Verify the record of everything that left the site; ends with 4 if it was altered.",
    )
    parser.add_argument(
        "action", choices=("verify",), help="follow the chain of digests from the first line to the last"
    )
    _add_site(parser)
    settings = _settings(parser, words)[0]

    from .verify_ledger import verify_ledger

    return verify_ledger(settings.state / "ledger.jsonl")


def _outbox(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-client outbox",
        description="Show every record that would leave the site; nothing is sent, nothing is written into the ledger.",
    )
    _add_site(parser)
    _add_data(parser)
    parser.add_argument(
        "--dry-run", action="store_true", required=True, help="the only thing that the outbox does by hand"
    )
    parser.add_argument("--release", choices=RELEASES, help="as if this were the site's setting")
    parser.add_argument(
        "--strategy",
        choices=FEDERATED_STRATEGIES,
        metavar="NAME",
        help="of the default configuration (default: the plan of the last round)",
    )
    settings, given = _settings(parser, words)

    from .dry_run import dry_run

    return dry_run(settings, given.strategy)


_COMMANDS = {
    "enroll": _enroll,
    "check": _check,
    "import": _import,
    "predict": _predict,
    "status": _status,
    "ledger": _ledger,
    "outbox": _outbox,
}


def _add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--site", required=True, metavar="NAME", help="the site's name, for example ankle")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the site's own folder (default: sites/NAME)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="the site's exams, an nnU-Net raw folder")


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="HOST:PORT", help="where mtmd-server listens")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, help="where to compute (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the worker")
    parser.add_argument("--release", choices=RELEASES, help="scores that leave the site (default: mean)")
    parser.add_argument(
        "--strategies", type=_names, metavar="NAMES", help="what may be trained here (default: individual,dsl)"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _settings(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[SiteSettings, argparse.Namespace]:
    given = parser.parse(words)
    known = {key: value for key, value in vars(given).items() if key in ("state", "data", "device", "release")}
    return load_settings(given.site, known), given


if __name__ == "__main__":
    sys.exit(main())
