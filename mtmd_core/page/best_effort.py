"""A page is a convenience: that it could not be written costs nothing else."""

import contextlib
import logging
from collections.abc import Iterator

log = logging.getLogger(__name__)


@contextlib.contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Let a page fail by itself: the error goes into the log, with its traceback, and the program goes on.

    Args:
        what: is missing then, for the log.
    """
    try:
        yield
    except Exception:  # of whatever kind: hours of training lie behind it
        log.exception("%s could not be written; nothing else is lost", what)
