"""The paper's strategies: what each shares, which terms it trains with, and which label space each site learns in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mtmd_core.errors import ConfigurationError
from mtmd_core.words import nearest

EVERY_SITE = "every_site"
"""The one domain of a network that tells no sites apart."""


class Sharing(Enum):
    """Which part of a network is common to all sites."""

    NOTHING = "nothing"
    CONVOLUTIONS = "convolutions"
    EVERYTHING = "everything"


class Contrast(Enum):
    """Which scales the contrastive term of Eq. 5 covers: none, the bottleneck s5 (SSC), or all nine (MSC)."""

    NONE = "none"
    SINGLE_SCALE = "single_scale"
    MULTI_SCALE = "multi_scale"


@dataclass(frozen=True)
class Strategy:
    """One of the paper's strategies (section 4 of the method).

    ``prior``: whether predictions are held against an auto-encoder of label maps (Eq. 7). ``source``: the site whose network
    initialises the others' (transfer), None where there is none.
    """

    sharing: Sharing
    contrast: Contrast = Contrast.NONE
    prior: bool = False
    source: str | None = None

    @property
    def autoencoder_contrast(self) -> Contrast:
        """The contrastive term of the auto-encoder (Eq. 6): λ1 is 0 but where the segmentation network has MSC too."""
        multi_scale = self.prior and self.contrast is Contrast.MULTI_SCALE
        return Contrast.MULTI_SCALE if multi_scale else Contrast.NONE


STRATEGIES: dict[str, Strategy] = {
    "individual": Strategy(Sharing.NOTHING),
    "shared": Strategy(Sharing.EVERYTHING),
    "shared_mjap": Strategy(Sharing.EVERYTHING, prior=True),
    "dsl": Strategy(Sharing.CONVOLUTIONS),
    "dsl_mjap": Strategy(Sharing.CONVOLUTIONS, prior=True),
    "dsl_ssc": Strategy(Sharing.CONVOLUTIONS, Contrast.SINGLE_SCALE),
    "dsl_msc": Strategy(Sharing.CONVOLUTIONS, Contrast.MULTI_SCALE),
    "dsl_msc_mjap": Strategy(Sharing.CONVOLUTIONS, Contrast.MULTI_SCALE, prior=True),
}
"""Strategies by the names that configuration and output files use; ``transfer_SITE`` is known for every site besides."""

FEDERATED_STRATEGIES = tuple(STRATEGIES)
"""What a federation can train with: all but a transfer, which is a run of its own at one site after another."""

TRANSFERS = "transfer"
"""In a study's list of strategies: a transfer from every site."""

_TRANSFER = f"{TRANSFERS}_"
_PARTS = re.compile(r"(individual|transfer_[a-z0-9_]+?|shared|dsl)((?:_(?:ssc|msc|mjap))+)")


def strategy_named(name: str) -> Strategy:
    """The strategy of a name: one of :data:`STRATEGIES`, or ``transfer_SITE``.

    Raises:
        ConfigurationError: if there is none; for a combination of known parts the text says why it is impossible.

    >>> strategy_named("transfer_knee").source
    'knee'
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    combination = _PARTS.fullmatch(name)
    if combination:
        raise ConfigurationError(f"strategy={name} is impossible: {_why_not(*combination.groups())}")
    if name.startswith(_TRANSFER) and len(name) > len(_TRANSFER):
        return Strategy(Sharing.NOTHING, source=name.removeprefix(_TRANSFER))
    raise ConfigurationError(f"strategy={name} is not known; {nearest(name, (*STRATEGIES, _TRANSFER + 'SITE'))}")


def _why_not(base: str, terms: str) -> str:
    if base == "dsl":
        return f"terms are written once each, ssc or msc before mjap; {nearest('dsl' + terms, STRATEGIES)}"
    if "sc" in terms:
        return (
            "contrastive terms (ssc, msc) draw domains apart, and only dsl trains one network that tells domains apart: "
            "use dsl_ssc, dsl_msc or dsl_msc_mjap."
        )
    return "the anatomical prior is learnt over all sites, and this strategy trains each site alone: use shared_mjap or dsl_mjap."


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


def label_spaces(sharing: Sharing, structures: Mapping[str, int]) -> dict[str, LabelSpace]:
    """The label space of every site, from the number of structures of each (background not counted).

    Where everything is shared one network predicts the union of all foreground classes plus one background, laid out in
    the order of site names; otherwise each site keeps its own.

    Raises:
        ConfigurationError: if the union has more classes than label maps (uint8) can hold.

    >>> label_spaces(Sharing.EVERYTHING, {"knee": 4, "ankle": 3})["knee"]
    LabelSpace(domain='every_site', offset=3, structures=4, classes=8)
    """
    if sharing is not Sharing.EVERYTHING:
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
