"""Every name that the server takes from inside Flower 1.41, in one place; ``test_flower_contract.py`` holds them to it."""

from functools import partial

from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.run import Run
from flwr.superlink.grid import http_grid

__all__ = ["Run", "shorten_waits", "site_failed"]

OBJECT_WAIT_SECONDS = (0.02, 0.1)
"""First and longest wait for a part of a reply that the SuperLink is still receiving (Flower: 1 s and 10 s)."""


def shorten_waits() -> None:
    """Let this process's Grid ask again sooner for what has not arrived yet.

    A reply is announced before its arrays are there, so the first question for each array usually comes too early, and
    Flower then waits a second or more. The waits are defaults of a function that ``pull_messages`` calls, out of reach.
    """
    http_grid.pull_objects = partial(
        pull_objects, initial_backoff=OBJECT_WAIT_SECONDS[0], backoff_cap=OBJECT_WAIT_SECONDS[1]
    )


_SITE_ERRORS = (
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.MOD_FAILED_PRECONDITION,
)


def site_failed(error: Error) -> bool:
    """Whether a site's own program answered with a failure; else the message was lost on its way or with its worker."""
    return error.code in _SITE_ERRORS
