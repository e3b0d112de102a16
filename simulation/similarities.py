"""How alike the domains' representations are in one run: of pairs drawn from pooled embeddings, and as a federation knows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.representations import (
    SCALES,
    DomainPair,
    expected_similarities,
    expected_similarity_within,
    pair_similarities,
)
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import Sharing, strategy_named

from .embeddings import SiteEmbeddings, embed_images
from .trained import segmentation_networks


class Similarity(NamedTuple):
    """Cosine similarities of so many random pairs: mean, standard deviation, and the mean over all pairs there are."""

    pairs: int
    mean: float
    deviation: float
    expected: float


Similarities = dict[tuple[str, DomainPair], Similarity]  # scale and domains → similarity


def similarities(embeddings: Mapping[str, SiteEmbeddings], seed: int) -> Similarities:
    """Of one network's embeddings by site: similarities at every scale, within and between sites."""
    found = {}
    for place, scale in enumerate(SCALES):
        own = {site: each.scales[place] for site, each in embeddings.items()}
        means = {site: each.mean(axis=0, dtype=np.float64) for site, each in own.items()}
        expected = {(site, site): expected_similarity_within(means[site], len(own[site])) for site in own}
        expected |= expected_similarities(means)
        for pair, values in pair_similarities(own, seed).items():
            if values.size:
                found[scale, pair] = Similarity(values.size, values.mean(), values.std(), expected[pair])
    return found


def similarities_of_run(config: RunConfig, sites: Mapping[str, SiteData], folder: Path) -> Similarities:
    """Of a run's networks and its training and validation slices, without one slice being trained on."""
    networks = segmentation_networks(config, folder)
    embeddings = embed_images(networks, sites, config.fold)
    return similarities(embeddings, derive_seed(config.seed, config.fold))


def account(found: Similarities) -> list[dict[str, Any]]:
    """As JSON holds them: a line a scale and pair of sites; ``from_means`` is what prototypes of the very same slices tell."""
    return [
        {
            "scale": scale,
            "domain": one,
            "other_domain": other,
            "pairs": own.pairs,
            "mean": round(float(own.mean), 6),
            "deviation": round(float(own.deviation), 6),
            "from_means": round(float(own.expected), 6),
        }
        for (scale, (one, other)), own in found.items()
    ]


def similarity_facts(
    config: RunConfig, sites: Mapping[str, SiteData], folder: Path, told: Mapping[str, Any]
) -> dict[str, Any]:
    """What a finished run's summary says of its representations; nothing where sites have no network in common.

    Args:
        config: of the run.
        sites: its exams.
        folder: with its networks.
        told: what the prototypes that were released tell (:func:`server.released_prototypes.told_by_prototypes`).

    Returns:
        ``similarities``: of :func:`account`; of a federation ``prototypes`` too: ``told``, or what the sites' prototypes would
        have told where none are sent, each line with ``minus_pooled``.
    """
    if strategy_named(config.strategy).sharing is Sharing.NOTHING:
        return {}
    lines = account(similarities_of_run(config, sites, folder))
    if config.mode != "federated":
        return {"similarities": lines}
    words = ("scale", "domain", "other_domain")
    own = dict(told) or {"rounds": {}, "lines": [{w: e[w] for w in words} | {"mean": e["from_means"]} for e in lines]}
    pooled = {tuple(line[word] for word in words): line["mean"] for line in lines}
    places = [tuple(line[word] for word in words) for line in own["lines"]]
    own["lines"] = [
        line | ({"minus_pooled": round(line["mean"] - pooled[place], 6)} if place in pooled else {})
        for line, place in zip(own["lines"], places, strict=True)
    ]
    return {"similarities": lines, "prototypes": own}
