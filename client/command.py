"""``mtmd-client``: a hospital's command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mtmd_core.errors import MtmdError
from mtmd_core.processes import Interrupted

from .settings import DEVICES, RELEASES, SiteSettings, load_settings, remember

_EPILOG = """\
other commands (each has its own --help):
  check     read all exams of a site and print every problem
  import    turn one DICOM series into a case
  predict   segment new exams with a trained model

The first time, name everything; what was given is kept in the site's folder (--state, by default sites/NAME), and from
then on `mtmd-client --site NAME` is enough.

exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 server unreachable, 4 data invalid,
130 and 143 ended by Ctrl-C and SIGTERM"""


class _Parser(argparse.ArgumentParser):
    """Names the nearest known word for one that it does not know."""

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        for word in words:
            option = word.split("=")[0]
            if option.startswith("--") and option != "--" and option not in self._option_string_actions:
                self._unknown(option)
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            self._unknown(unknown[0])
        return parsed

    def _unknown(self, word: str) -> NoReturn:
        from mtmd_core.config import nearest  # slow to import, and not needed otherwise

        commands = _COMMANDS if self.prog == "mtmd-client" and not word.startswith("-") else ()
        self.error(f"unknown word '{word}'; {nearest(word, [*self._option_string_actions, *commands])}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nsee {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in _COMMANDS else ""
    try:
        return _COMMANDS.get(command, _join)(words[1:] if command else words)
    except Interrupted as ended:
        print(f"mtmd-client: ended by {ended}", file=sys.stderr)
        return ended.exit_code
    except MtmdError as error:
        print(f"mtmd-client: {error}", file=sys.stderr)
        return error.exit_code


def _join(words: Sequence[str]) -> int:
    parser = _Parser(
        prog="mtmd-client",
        allow_abbrev=False,
        description="Take part in a federation with the exams of one site.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_site(parser)
    _add_data(parser)
    parser.add_argument("--server", metavar="HOST:PORT", help="where mtmd-server listens")
    parser.add_argument("--insecure", action="store_const", const=True, help="plain HTTP, loopback only")
    parser.add_argument("--device", choices=DEVICES, help="where to compute (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the worker")
    parser.add_argument("--release", choices=RELEASES, help="scores that leave the site (default: mean)")
    parser.add_argument("--connect-timeout-seconds", type=float, metavar="S", help="how long the server may stay away")
    parser.add_argument("--message-timeout-seconds", type=float, metavar="S", help="how long one message may take")
    given = vars(parser.parse(words))
    settings = load_settings(given.pop("site"), given)

    from .supervisor import check_ready, join

    check_ready(settings)

    def say(line: str) -> None:
        print(f"{settings.site}: {line}", flush=True)

    if (written := remember(settings, given)) is not None:
        say(f"settings kept in {written}; next time `mtmd-client --site {settings.site}` is enough")
    code = join(settings, say)
    say("the run is done" if code == 0 else "the server says that the run failed")
    return code


def _check(words: Sequence[str]) -> int:
    parser = _Parser(prog="mtmd-client check", allow_abbrev=False, description="Read all exams; print every problem.")
    _add_site(parser)
    _add_data(parser)
    settings = _settings(parser, words)[0]

    from .check import check
    from .supervisor import require_data_folder

    return check(require_data_folder(settings), settings.site)


def _import(words: Sequence[str]) -> int:
    parser = _Parser(prog="mtmd-client import", allow_abbrev=False, description="Turn one DICOM series into a case.")
    parser.add_argument("--dicom", type=Path, required=True, metavar="DIR", help="folder with the files of one series")
    parser.add_argument("--case", required=True, metavar="NAME", help="name of the new case")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="nnU-Net raw folder that receives it")
    parser.add_argument("--label", type=Path, metavar="FILE", help="label map with the same geometry")
    given = parser.parse(words)

    from .import_case import import_case

    return import_case(given.dicom, given.case, given.data, given.label)


def _predict(words: Sequence[str]) -> int:
    parser = _Parser(prog="mtmd-client predict", allow_abbrev=False, description="Segment new exams.")
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


_COMMANDS = {"check": _check, "import": _import, "predict": _predict}


def _add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--site", required=True, metavar="NAME", help="the site's name, for example ankle")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the site's own folder (default: sites/NAME)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="the site's exams, an nnU-Net raw folder")


def _settings(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[SiteSettings, argparse.Namespace]:
    given = parser.parse(words)
    known = {key: value for key, value in vars(given).items() if key in ("state", "data", "device")}
    return load_settings(given.site, known), given


if __name__ == "__main__":
    sys.exit(main())
