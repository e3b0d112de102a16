"""Exams that take no time to make: noise, and a bright ball for each structure."""

import json
from pathlib import Path

import nibabel
import numpy as np

SITES = {"ankle": 3, "knee": 2, "shoulder": 1}
"""Site → number of structures."""
EXAMS, SHAPE, SPACING_MM = 5, (20, 24, 18), (1.0, 1.0, 2.5)
"""Five exams of 18 slices: three to train on, and so as many exams and slices as prototypes must be of."""


def write_exams(folder: Path, site: str, structures: int) -> Path:
    """Write one site's exams as an nnU-Net raw folder, the same ones each time; the folder."""
    names = {"background": 0} | {f"{site} {label}": label for label in range(1, structures + 1)}
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    description = {"name": site, "channel_names": {"0": "MR"}, "labels": names, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    random = np.random.default_rng(structures)
    for exam in range(EXAMS):
        image, labels = _balls(random, structures)
        _write(folder / f"imagesTr/exam{exam}_0000.nii.gz", image)
        _write(folder / f"labelsTr/exam{exam}.nii.gz", labels)
    return folder


def _balls(random: np.random.Generator, structures: int) -> tuple[np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    labels = np.zeros(SHAPE, np.uint8)
    for label in range(1, structures + 1):
        centre = np.multiply(SHAPE, [0.5, label / (structures + 1), 0.5]) + random.uniform(-1, 1, 3)
        labels[(((grid - centre) / [4, 3, 6]) ** 2).sum(axis=-1) <= 1] = label
    return (random.normal(100, 10, SHAPE) + 60 * labels).astype(np.int16), labels


def _write(path: Path, volume: np.ndarray) -> None:
    image = nibabel.Nifti1Image(volume, np.diag([*SPACING_MM, 1.0]))
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, path)
