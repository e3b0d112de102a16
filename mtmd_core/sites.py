"""Names of sites: they become folder names, keys of a state dict and words of messages, so few characters are allowed."""

import re

from mtmd_core.errors import ConfigurationError

_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_site_name(name: str) -> str:
    """Return ``name`` if it can name a site.

    Raises:
        ConfigurationError: if it is not lower-case letters, digits and underscores, or is a word PyTorch keeps for
            itself (a site's private layers are filed under its name).
    """
    if not _PATTERN.fullmatch(name):
        raise ConfigurationError(
            f"'{name}' cannot name a site: use 1 to 40 lower-case letters, digits and underscores, a letter first "
            "(for example ankle, knee_2)."
        )
    from torch import nn  # slow to import, and needless where a name is refused at sight

    if hasattr(nn.ModuleDict(), name):
        raise ConfigurationError(f"'{name}' cannot name a site: PyTorch keeps that word; try '{name}_site'.")
    return name
