"""The command line of a command: what it does not know is answered with the nearest word that it does."""

import argparse
import errno
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from mtmd_core.errors import ConfigurationError, MtmdError, RunFailedError
from mtmd_core.processes import Interrupted
from mtmd_core.words import nearest

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
"""What a person must look at before the command can work; all else may pass by itself."""


def exit_code_of(program: str, run: Callable[[], int]) -> int:
    """Run a command; its exit code, and the one line on standard error that says why it is not 0.

    A file or folder that this user cannot have is something that a person must look at (code 2). A full disk is none (code 1).
    Whatever else the system reports is not known here: its traceback is shown.
    """
    try:
        return run()
    except Interrupted as ended:
        return _told(program, f"ended by {ended}", ended.exit_code)
    except KeyboardInterrupt:
        return _told(program, "ended by SIGINT", 130)
    except MtmdError as error:
        return _told(program, str(error), error.exit_code)
    except OSError as error:
        if error.errno in _FULL:  # what was being written is not always said
            line = f"{error.filename or 'the disk'}: {error.strerror}. Make space and give the same command again."
            return _told(program, line, RunFailedError.exit_code)
        if error.errno not in _OUT_OF_PLACE or error.filename is None:
            raise
        line = f"{error.filename}: {error.strerror}. Give a place that this user may read and write, or see to its permissions."
        return _told(program, line, ConfigurationError.exit_code)


def _told(program: str, line: str, code: int) -> int:
    print(f"{program}: {line}", file=sys.stderr)
    return code


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose refusals take one line and end with exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str = "", commands: Iterable[str] = ()) -> None:
        """``commands`` are further words that may stand first; the caller takes them away, here they are only suggested."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._commands = tuple(commands)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments' values; positional ones may stand between options.

        Raises:
            SystemExit: with code 2 for a word that is not known or a value that cannot be used, with 0 after ``--help``.
        """
        for word in words:
            option = word.split("=")[0]
            if option.startswith("--") and option != "--" and option not in self._option_string_actions:
                self.unknown(option)
        parsed, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            self.unknown(unknown[0])
        return parsed

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, as :mod:`argparse` calls for when a word cannot be used."""
        self.exit(2, f"{self.prog}: {message}\nsee {self.prog} --help\n")

    def unknown(self, word: str) -> NoReturn:
        """End with exit code 2 and the nearest word that is known."""
        commands = () if word.startswith("-") else self._commands
        self.error(f"unknown word '{word}'; {nearest(word, [*self._option_string_actions, *commands])}")
