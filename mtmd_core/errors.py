"""Errors that a person is meant to read: what was given, what was expected, what to do.

Each carries the exit code that the commands end with (0 is "done"), and the one word that a site's failure leaves it as: the
text of an exception may quote an exam's name or a path, so it stays in the site's own log.
"""

from enum import StrEnum


class SiteError(StrEnum):
    """Why a site could not answer a message, in a word. Nothing else of a failure reaches the server."""

    PLAN_REFUSED = "plan_refused"  # it asks for what this site cannot do, or does not allow
    BUNDLE_REFUSED = "bundle_refused"  # it came with code, which no site runs
    MESSAGE_UNREADABLE = "message_unreadable"  # records that are missing or do not fit
    PRIOR_MISSING = "prior_missing"  # the auto-encoder is not here; the coordinator sends it again
    STATE_MISSING = "state_missing"  # the private parameters of the asked round are not here
    DATA_UNUSABLE = "data_unusable"  # an exam or its folder
    NOT_FINITE = "not_finite"  # training came to NaN or infinity; nothing of the round is kept
    NOT_LET_OUT = "not_let_out"  # the outbox held the reply back
    DISK = "disk"  # a file could not be read or written
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_DIED = "worker_died"
    WORKER_HUNG = "worker_hung"  # ended by the site's watchdog
    UNEXPECTED = "unexpected"  # anything else


class MtmdError(Exception):
    """Any failure whose message is complete without a traceback."""

    exit_code = 1
    site_error = SiteError.UNEXPECTED


class RunFailedError(MtmdError):
    """A run began and could not be finished."""

    exit_code = 1


class ConfigurationError(MtmdError, ValueError):
    """Arguments or settings that cannot be used."""

    exit_code = 2
    site_error = SiteError.PLAN_REFUSED


class UnreachableError(MtmdError):
    """The other side could not be reached, or did not answer in time."""

    exit_code = 3


class DataError(MtmdError, ValueError):
    """A file or folder of exams that cannot be used as it is."""

    exit_code = 4
    site_error = SiteError.DATA_UNUSABLE


def site_error_of(error: BaseException) -> SiteError:
    """The word that an exception leaves a site as.

    >>> site_error_of(FileNotFoundError("exams of Jane Doe")).value
    'disk'
    """
    if isinstance(error, MtmdError):
        return error.site_error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's own, unimported here
        return SiteError.OUT_OF_MEMORY
    if isinstance(error, OSError):
        return SiteError.DISK
    return SiteError.UNEXPECTED
