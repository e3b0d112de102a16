"""Names of sites: they become folder names, keys of a state dict and words of messages, so few characters are allowed."""

import re

from mtmd_core.errors import ConfigurationError

_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,39}")

# A site's private layers are filed in a torch.nn.ModuleDict under its name, which must not be one of its own. Written out,
# because settings are read without importing PyTorch; a test holds the list to the PyTorch that is installed.
RESERVED = frozenset(
    """
    add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty
    train training type update values xpu zero_grad
    """.split()  # noqa: SIM905 - sixty words read better than sixty strings
)


KEPT_FILES = frozenset({"all_sites", "autoencoder"})
"""What a run's files call the network of all sites and that of label maps: a site's own would overwrite them."""


def check_site_name(name: object) -> str:
    """Return ``name`` if it can name a site.

    Raises:
        ConfigurationError: if it is not lower-case letters, digits and underscores, or is a word that PyTorch or a run's files
            keep for themselves.
    """
    if not isinstance(name, str) or not _PATTERN.fullmatch(name):
        raise ConfigurationError(
            f"'{name}' cannot name a site: use 1 to 40 lower-case letters, digits and underscores, a letter first "
            "(for example ankle, knee_2)."
        )
    if name in RESERVED:
        raise ConfigurationError(f"'{name}' cannot name a site: PyTorch keeps that word; try '{name}_site'.")
    if name in KEPT_FILES:
        raise ConfigurationError(f"'{name}' cannot name a site: a run's files keep that word; try '{name}_1'.")
    return name
