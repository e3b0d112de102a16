"""The command line of a command: what it does not know is answered with the nearest word that it does."""

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from mtmd_core.words import nearest


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
