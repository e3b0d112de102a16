"""The paper's strategies: what each shares between sites, and which label space each site learns in."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mtmd_core.errors import ConfigurationError

EVERY_SITE = "every_site"
"""The one domain of a network that tells no sites apart."""


class Sharing(Enum):
    """Which part of a network is common to all sites."""

    NOTHING = "nothing"
    CONVOLUTIONS = "convolutions"
    EVERYTHING = "everything"


STRATEGIES: dict[str, Sharing] = {
    "individual": Sharing.NOTHING,
    "shared": Sharing.EVERYTHING,
    "dsl": Sharing.CONVOLUTIONS,
}
"""Strategies by the names that configuration and output files use (section 4 of the method)."""


@dataclass(frozen=True)
class LabelSpace:
    """Where a site's structures lie among a network's classes.

    ``domain`` names the private layers that serve the site; its structures 1…n are the classes
    ``offset + 1 … offset + n`` of ``classes`` in all, background included.
    """

    domain: str
    offset: int
    structures: int
    classes: int


def label_spaces(strategy: str, structures: Mapping[str, int]) -> dict[str, LabelSpace]:
    """The label space of every site, from the number of structures of each (background not counted).

    Under ``shared`` one network predicts the union of all foreground classes plus one background, laid out in the
    order of site names; otherwise each site keeps its own.

    Raises:
        ConfigurationError: if the union has more classes than label maps (uint8) can hold.

    >>> label_spaces("shared", {"knee": 4, "ankle": 3})["knee"]
    LabelSpace(domain='every_site', offset=3, structures=4, classes=8)
    """
    if STRATEGIES[strategy] is not Sharing.EVERYTHING:
        return {site: LabelSpace(site, 0, count, count + 1) for site, count in sorted(structures.items())}
    classes = 1 + sum(structures.values())
    if classes > 256:
        raise ConfigurationError(
            f"strategy=shared would have {classes} classes over all sites; 256 at most are possible: use strategy=dsl."
        )
    spaces, offset = {}, 0
    for site, count in sorted(structures.items()):
        spaces[site] = LabelSpace(EVERY_SITE, offset, count, classes)
        offset += count
    return spaces
