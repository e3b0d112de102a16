"""``mtmd-server readmit SITE``: let a site that was set aside take part again.

It leaves a request in the run's folder, which the running app takes at the beginning of its next round and a stopped run when it
goes on; so nothing has to be reached and nobody is interrupted.
"""

from pathlib import Path

from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import is_held

from .standing import REQUESTS, read_standing


def readmit(state: Path, site: str) -> str:
    """Ask for a site; a line that says what happens now.

    Raises:
        ConfigurationError: if the site is not set aside; the text names those that are.
    """
    aside = [name for name, own in read_standing(state).items() if own.set_aside]
    if site not in aside:
        known = f"set aside are {', '.join(aside)}" if aside else "no site is"
        raise ConfigurationError(f"'{site}' is not set aside in the run of {state}: {known} (mtmd-server status).")
    write_text(state / REQUESTS / site, "\n")
    when = "from the next round on" if is_held(state) else "when mtmd-server goes on"
    return f"{site} takes part again {when}, as soon as it is connected"
