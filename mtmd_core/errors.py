"""Errors that a person is meant to read: what was given, what was expected, what to do.

Each carries the exit code that the commands end with (0 is "done").
"""


class MtmdError(Exception):
    """Any failure whose message is complete without a traceback."""

    exit_code = 1


class RunFailedError(MtmdError):
    """A run began and could not be finished."""

    exit_code = 1


class ConfigurationError(MtmdError, ValueError):
    """Arguments or settings that cannot be used."""

    exit_code = 2


class UnreachableError(MtmdError):
    """The other side could not be reached, or did not answer in time."""

    exit_code = 3


class DataError(MtmdError, ValueError):
    """A file or folder of exams that cannot be used as it is."""

    exit_code = 4
