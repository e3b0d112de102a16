"""``experiment=privacy``: what differential privacy of prototypes costs, in ε and in the gradient that they give."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from client.privacy import DELTA, epsilon
from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.domain_mixture import mix
from mtmd_core.durable import write_csv
from mtmd_core.embedding_pass import embed_slices
from mtmd_core.noised_prototypes import noised_prototypes, sensitivity
from mtmd_core.prototypes import Prototype
from mtmd_core.seeds import generator

from ..progress import RunDisplay
from .msc_fidelity import Trial, agreement, full_gradients, prototype_gradients

MULTIPLIERS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Noise multipliers; 0 is the mechanism without its noise, released by nobody."""
NEARLY_NOTHING = 1e-9


def run_privacy(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Train a network as ``msc_fidelity`` does, noise the sites' prototypes at its middle and its end, and write ``privacy.csv``.

    One row a stage and noise multiplier: ``deviation`` of the noise on every number of a site's moments; ``epsilon`` of one
    release and ``epsilon_of_rounds`` of ``rounds`` of them at δ; ``cosine`` with the gradient of Eq. 5 over all slices, lowest
    over scales and sites, and ``norm_error``, the highest. A site's own prototype stays at the site and has no noise.
    """
    trial, records = Trial(config, sites), []
    rounds, share = config.federation.rounds, trial.recipe.share
    with RunDisplay(trial.steps, console) as display:
        display.stage("training")
        for stage, end in (("middle", trial.steps // 2), ("end", trial.steps)):
            trial.train(end, display)
            embeddings, own = trial.fresh()
            truth = full_gradients(embeddings, share, trial.temperature)
            for multiplier in MULTIPLIERS:
                noised = _noised(trial, multiplier, config.seed)
                mixtures = {domain: mix(noised | {domain: own[domain]}, trial.temperature) for domain in own}
                estimate = prototype_gradients(embeddings, mixtures, share, trial.temperature)
                scales = len(next(iter(own.values())))
                found = [agreement(embeddings, estimate, truth, scale, share) for scale in range(scales)]
                fewest = min(each[0].exams for each in own.values())
                records.append(
                    {
                        "stage": stage,
                        "noise_multiplier": multiplier,
                        "exams": fewest,
                        "deviation": round(multiplier * sensitivity(fewest, scales), 6),
                        "delta": DELTA,
                        "epsilon": _epsilon(multiplier, 1),
                        "rounds": rounds,
                        "epsilon_of_rounds": _epsilon(multiplier, rounds),
                        "cosine": round(min(each["cosine"] for each in found), 4),
                        "norm_error": round(max(each["norm_error"] for each in found), 4),
                    }
                )
    write_csv(folder / "privacy.csv", records)
    _print(records, console)
    return {"experiment": "privacy", "rows": records}


def _noised(trial: Trial, multiplier: float, seed: int) -> dict[str, list[Prototype]]:
    made = {}
    for domain, (source,) in trial.pool.sources.items():
        scales, places = embed_slices(trial.network, domain, source, trial.recipe, each_by_itself=True)
        exams = torch.tensor([exam for exam, _ in places])
        random = generator(seed, "privacy", domain)
        made[domain] = noised_prototypes(scales, exams, multiplier or NEARLY_NOTHING, random, trial.temperature)
    return made


def _epsilon(multiplier: float, releases: int) -> float | None:
    return round(epsilon(((multiplier, releases),), DELTA), 3) if multiplier else None


def _print(records: Sequence[Mapping], console: Console) -> None:
    rounds = records[0]["rounds"]
    table = Table(
        "stage", "noise multiplier", "deviation", "ε, one release", f"ε, {rounds} rounds", "cosine", "norm error"
    )
    for row in records:
        cells = ["∞" if row[word] is None else f"{row[word]:.3g}" for word in ("epsilon", "epsilon_of_rounds")]
        table.add_row(
            row["stage"], f"{row['noise_multiplier']:g}", f"{row['deviation']:.2g}", *cells,
            f"{row['cosine']:.3f}", f"{row['norm_error']:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"δ = {DELTA:g}; cosine with the gradient of Eq. 5 over all slices, lowest over scales and sites")
