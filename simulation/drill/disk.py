"""A small disk that can be filled up, or where this user may mount none, a limit on files that does much the same."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LIMIT_BYTES = 1024
"""Under the fallback no file may grow beyond this."""
_NO_LIMIT = resource.RLIM_INFINITY


@dataclass
class Disk:
    """``kind`` says to people what fills up: a ``tmpfs``, or the processes' limit on a file's size (``RLIMIT_FSIZE``)."""

    folder: Path
    is_mounted: bool
    _limited: list[int] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What it is, in a word for people."""
        return "tmpfs" if self.is_mounted else "RLIMIT_FSIZE"

    def fill(self, pids: Sequence[int]) -> None:
        """Leave no space, for anybody on a mounted disk, else for the processes ``pids``."""
        if self.is_mounted:
            _write_until_full(self.folder / "ballast")
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (_LIMIT_BYTES, _NO_LIMIT))
                self._limited.append(pid)

    def free(self) -> None:
        """Make space again."""
        (self.folder / "ballast").unlink(missing_ok=True)
        for pid in self._limited:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (_NO_LIMIT, _NO_LIMIT))
        self._limited.clear()


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int, mount: bool = True) -> Iterator[Disk]:
    """Put a disk of its own under a folder and what it holds, if this user may; it is taken away again in the end.

    What the folder holds then is kept. With ``mount`` false no disk is tried.
    """
    if not (mount and _mount(folder, size_bytes)):
        yield Disk(folder, is_mounted=False)
        return
    kept = folder.with_name(f"{folder.name}.kept")
    try:
        yield Disk(folder, is_mounted=True)
        (folder / "ballast").unlink(missing_ok=True)
        shutil.copytree(folder, kept, symlinks=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
    shutil.rmtree(folder)
    kept.replace(folder)


def _mount(folder: Path, size_bytes: int) -> bool:
    """Mount a disk over a folder and move what it holds there; whether that was possible."""
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return False
    content = folder.with_name(f"{folder.name}.content")
    shutil.copytree(folder, content, symlinks=True)
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "none", str(folder)]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
        if mounted:
            shutil.copytree(content, folder, symlinks=True, dirs_exist_ok=True)
        return mounted
    finally:
        shutil.rmtree(content)


def _write_until_full(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
