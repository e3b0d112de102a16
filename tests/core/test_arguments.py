"""How commands end."""

import errno
import signal

import pytest

from mtmd_core.arguments import exit_code_of
from mtmd_core.errors import DataError
from mtmd_core.processes import Interrupted


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("exam_3: no image."), 4, "exam_3: no image."),
        (Interrupted(signal.SIGTERM), 143, "ended by SIGTERM"),
        (KeyboardInterrupt(), 130, "ended by SIGINT"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/mtmd"),
            2,
            "/srv/mtmd: Permission denied. Give a place that",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/srv/mtmd"),
            2,
            "/srv/mtmd: Read-only file system. Give a place that",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/x"), 1, "/srv/x: No space left on device. Make space"),
    ],
)
def test_an_end_is_a_code_and_one_line(error: BaseException, code: int, line: str, capsys) -> None:
    def run() -> int:
        raise error

    assert exit_code_of("mtmd-client", run) == code
    said = capsys.readouterr().err
    assert said.startswith(f"mtmd-client: {line}")
    assert said.count("\n") == 1


def test_a_disk_that_is_full_is_told_by_what_writing_raises(capsys) -> None:
    def run() -> int:
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("x")
        return 0

    assert exit_code_of("mtmd-client", run) == 1
    assert capsys.readouterr().err.startswith("mtmd-client: the disk: No space left on device. Make space")


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EMFILE, errno.EIO])
def test_what_no_person_could_put_right_is_not_dressed_up(number: int) -> None:
    def run() -> int:
        raise OSError(number, "reset", "/srv/mtmd")

    with pytest.raises(OSError, match="reset"):
        exit_code_of("mtmd-client", run)
    assert exit_code_of("mtmd-client", lambda: 3) == 3
