"""What a coordinator may send along with a run: a bundle that names what is installed here, and holds nothing else.

The worker never unpacks, installs or imports a bundle. One of another kind is still a sign that somebody expects other code to
run here than what the hospital has installed, so its message is refused and the log says why.
"""

import io
import tomllib
import zipfile
import zlib

from mtmd_core.errors import ConfigurationError, SiteError

FILES = [".info/CONTENT", "pyproject.toml"]
"""All that our bundle holds: Flower's list of contents, and a description."""
COMPONENTS = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
LARGEST_DESCRIPTION_BYTES = 65_536

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
)
"""What Python raises over an archive, its compression, or a description that makes no sense."""


class ForeignBundleError(ConfigurationError):
    """A message came with a bundle that is not mtmd's."""

    site_error = SiteError.BUNDLE_REFUSED


def check_bundle(content: bytes) -> None:
    """Look at a bundle without unpacking it.

    Raises:
        ForeignBundleError: if it holds code or anything else that ours does not, names other components, or wants something
            installed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(archive.namelist())
            if names != FILES:
                raise ForeignBundleError(f"it holds {_few(names)}, where mtmd's holds {' and '.join(FILES)} alone")
            with archive.open("pyproject.toml") as file:  # read no further, whatever the archive says of its size
                text = file.read(LARGEST_DESCRIPTION_BYTES)
        described = tomllib.loads(text.decode())
        components = described["tool"]["flwr"]["app"]["components"]
        wanted = described["project"]["dependencies"]
    except _UNREADABLE as error:
        if isinstance(error, ForeignBundleError):
            raise
        raise ForeignBundleError(f"it is no bundle that can be read ({type(error).__name__})") from None
    if components != COMPONENTS:
        raise ForeignBundleError(f"it names the components {components!r}, where mtmd's names {COMPONENTS!r}")
    if wanted:
        raise ForeignBundleError(f"it wants {_few(wanted)} installed, where mtmd's wants nothing")


def _few(names: object) -> str:
    listed = [str(name) for name in names] if isinstance(names, list) else [str(names)]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(repr(name[:100]) for name in listed[:5]) + more if listed else "nothing"
