"""Three tiny sites with three label spaces, and the words of a run over them that takes a second."""

from pathlib import Path

import numpy as np
from volumes import write_case, write_description

from client.settings import SiteSettings, load_settings

SITES = {"ankle": 3, "knee": 2, "shoulder": 1}
"""Site → number of structures."""
RUN = (
    "network.width=4",
    "data.slice_size=16",
    "training.batch_size=6",
    "federation.rounds=3",
    "federation.local_steps=2",
    "federation.calibration_batches=4",
    "training.steps=6",
    "training.validate_every_steps=3",
    "threads=1",
)
SMALL_ROUNDS = {"min_round_slices": 1}
"""What a site of such a run must allow."""
WHOLE_METHOD = (
    "strategy=dsl_msc_mjap",
    "data.slice_size=32",
    "training.batch_size=18",  # a pass over all slices for prototypes takes batches of a site's share
    "autoencoder.width=4",
    "autoencoder.batch_size=6",
)
"""Words that make it a run of all that the paper adds: auto-encoder, prototypes, prior."""


def write_sites(folder: Path, exams: int = 4, sites: dict[str, int] | None = None, slices: int = 6) -> dict[str, Path]:
    """Write sites with exams of 20×24×``slices`` voxels: a noisy background and a bright ball for each structure."""
    folders = {}
    for place, (site, structures) in enumerate((sites or SITES).items()):
        folders[site] = folder / site
        names = tuple(f"{site}_bone_{label}" for label in range(1, structures + 1))
        write_description(folders[site], structures=names)
        random = np.random.default_rng(place)
        for exam in range(exams):
            image, labels = _ball_exam(random, structures, slices)
            write_case(folders[site], f"{site}_exam_{exam}", image, labels, np.diag([1.0, 1.0, 2.5, 1.0]))
    return folders


def own_settings(site: str, state: Path, data: Path, **given: object) -> SiteSettings:
    """A site's settings as they ship, but for what is given and rounds that may be as small as in tests."""
    limits = SMALL_ROUNDS | given.pop("limits", {})
    return load_settings(site, {"state": state, "data": data, "threads": 1, "limits": limits, **given})


def run_words(folders: dict[str, Path], *more: str) -> list[str]:
    """The words of a run over the sites, as on the command line."""
    sites = ", ".join(f"{site}: '{folder}'" for site, folder in folders.items())
    return [*RUN, f"sites={{{sites}}}", *more]


def ladder_words(folders: dict[str, Path], *more: str) -> list[str]:
    """As :func:`run_words`, without what the rungs of a ladder choose for themselves."""
    own = ("federation.rounds=", "federation.local_steps=")
    return [word for word in run_words(folders, *more) if not word.startswith(own)]


def _ball_exam(random: np.random.Generator, structures: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(24), np.arange(slices), indexing="ij"), axis=-1)
    labels = np.zeros((20, 24, slices), np.uint8)
    for label in range(1, structures + 1):
        centre = np.array([10, 24 * label / (structures + 1), slices / 2]) + random.uniform(-1, 1, 3)
        labels[(((grid - centre) / [4, 3, slices / 3]) ** 2).sum(axis=-1) <= 1] = label
    image = random.normal(100, 10, labels.shape) + 60 * labels
    return image.astype(np.int16), labels
