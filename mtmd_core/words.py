"""Words that commands, settings files and the configuration share, and the known word nearest to a misspelt one.

Light on purpose: a command's ``--help`` must not wait for PyTorch or Hydra.
"""

import difflib
from collections.abc import Iterable, Sequence

from mtmd_core.errors import ConfigurationError

DEVICES = ("auto", "cpu", "cuda")
NO_RELEASE = "none"
RELEASES = (NO_RELEASE, "mean", "structure")
"""Scores that leave a site: none, a site's means, or one value per structure."""


def without_control(text: str, kept: str = "") -> str:
    r"""A text from the other side as terminals and logs may show it: a ``?`` for what is neither printable nor among ``kept``.

    >>> without_control("\x1b[2Jhello\n")
    '?[2Jhello?'
    """
    return "".join(c if c.isprintable() or c in kept else "?" for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that names the known word nearest to a misspelt one."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(names)}."


def check_one_of(word: str, given: str, known: Sequence[str]) -> None:
    """Whether a word is set to something known.

    Raises:
        ConfigurationError: naming the word, what was given and the nearest that is known.
    """
    if given not in known:
        raise ConfigurationError(f"{word}={given} is not known; {nearest(given, known)}")
