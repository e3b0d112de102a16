"""The pictures and the table of docs/phantoms.md.

python -m simulation.phantom.pictures docs/images/phantoms [--seed 0] [--table-exams 5]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtmd_core.errors import MtmdError

from .difficulty import best_window_dice
from .exam import ANATOMIES, JOINT_NAMES, PhantomExam, make_exam
from .tissue import CONTRASTS

COLOURS = ("#e4572e", "#f3a712", "#3f9ad6", "#6fbf73")
SHAPES = {"ankle": (256, 256, 100), "knee": (256, 256, 110), "shoulder": (320, 260, 100)}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the PNGs and print the table of thresholds in Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulation.phantom.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the PNGs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exams", type=int, default=3, help="exams in each joint's picture (default 3)")
    parser.add_argument("--table-exams", type=int, default=5, help="exams a joint in the table (default 5)")
    arguments = parser.parse_args(argv)
    try:
        write_pictures(arguments.out, arguments.seed, arguments.exams)
    except MtmdError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return error.exit_code
    print(threshold_table(arguments.seed, arguments.table_exams))
    return 0


def write_pictures(out: Path, seed: int, exams: int, shapes: dict[str, tuple[int, int, int]] = SHAPES) -> list[Path]:
    """Write one picture a joint, one of the same children under every scanner and one of histograms."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    first = {}
    for joint in JOINT_NAMES:
        made = [make_exam(joint, seed, index, shape=shapes[joint]) for index in range(exams)]
        first[joint] = made[0]
        written.append(_write_slices(made, out / f"{joint}.png"))
    written.append(_write_contrasts(seed, shapes, out / "contrasts.png"))
    written.append(_write_histograms(first, out / "histograms.png"))
    return written


def threshold_table(seed: int, exams: int, scale: float = 0.25) -> str:
    """Markdown: mean and largest over exams of the Dice that the best threshold and the best window reach."""
    rows = [
        "| joint | structure | best threshold, mean (max) | best window, mean (max) |",
        "|---|---|---|---|",
    ]
    for joint, anatomy in ANATOMIES.items():
        made = [make_exam(joint, seed, index, scale) for index in range(exams)]
        for structure, label in anatomy.labels.items():
            scores = np.array([best_window_dice(exam.image, exam.labels == label) for exam in made])
            (threshold, window), (threshold_max, window_max) = scores.mean(0), scores.max(0)
            rows.append(
                f"| {joint} | {structure} | {threshold:.2f} ({threshold_max:.2f}) | {window:.2f} ({window_max:.2f}) |"
            )
    return "\n".join(rows)


def _write_slices(exams: list[PhantomExam], path: Path) -> Path:
    """One row an exam: three orthogonal slices through the bones' middle, then the first with contours off."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4 * len(exams)), layout="constrained")
    axes = figure.subplots(len(exams), 4, squeeze=False)
    for row, exam in zip(axes, exams, strict=True):
        inside = np.argwhere(exam.labels > 0)
        middle = np.median(inside, axis=0).astype(int)
        for axis, panel in zip((2, 2, 1, 0), row, strict=True):
            _show(panel, exam, axis, int(middle[axis]))
        for panel in row[1:]:
            panel.set_title(" ", fontsize=9)
        for axis, panel in zip((2, 1, 0), row[1:], strict=True):
            _outline(panel, exam, axis, int(middle[axis]))
        row[0].set_title(f"{exam.joint}, {exam.age_years:.1f} years, {exam.laterality}", fontsize=9)
    figure.savefig(path, dpi=75)
    return path


def _write_contrasts(seed: int, shapes: dict[str, tuple[int, int, int]], path: Path) -> Path:
    """The first child of each joint (rows) on each site's scanner (columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots(len(JOINT_NAMES), len(CONTRASTS))
    for row, joint in zip(axes, JOINT_NAMES, strict=True):
        for panel, site in zip(row, CONTRASTS, strict=True):
            exam = make_exam(joint, seed, 0, shape=shapes[joint], site_contrast=site)
            middle = int(np.median(np.argwhere(exam.labels > 0)[:, 2]))
            _show(panel, exam, 2, middle)
            panel.set_title(f"{joint}, scanner of {site}", fontsize=9)
    figure.savefig(path, dpi=75)
    return path


def _write_histograms(exams: dict[str, PhantomExam], path: Path) -> Path:
    """Intensities of each site after normalisation to zero mean and unit variance: bones, and all that is no air."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for panel, (joint, exam) in zip(figure.subplots(1, len(exams)), exams.items(), strict=True):
        image = exam.image.astype(np.float32)
        image = (image - image.mean()) / image.std()
        bins = np.linspace(float(image.min()), float(np.quantile(image, 0.9995)), 70)
        panel.hist(image.ravel(), bins, histtype="step", color="black", label="all voxels", density=True)
        for colour, structure, label in _coloured(joint):
            panel.hist(image[exam.labels == label], bins, histtype="step", color=colour, label=structure, density=True)
        panel.set_ylim(0, 1.6)
        panel.set_title(f"{joint}: share of voxels against normalised intensity", fontsize=9)
        panel.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=75)
    return path


def _show(panel, exam: PhantomExam, axis: int, position: int) -> None:
    aspect = _aspect(exam, axis)
    bright = np.quantile(exam.image, 0.997)
    panel.imshow(
        exam.image.take(position, axis).T, cmap="gray", vmin=0, vmax=bright, origin="lower", aspect=aspect,
        interpolation="bilinear",
    )  # fmt: skip
    panel.set_axis_off()


def _coloured(joint: str) -> list[tuple[str, str, int]]:
    labels = ANATOMIES[joint].labels
    return [(colour, *entry) for colour, entry in zip(COLOURS[: len(labels)], labels.items(), strict=True)]


def _outline(panel, exam: PhantomExam, axis: int, position: int) -> None:
    labels = exam.labels.take(position, axis).T
    for colour, _, label in _coloured(exam.joint):
        if (labels == label).any():
            panel.contour(labels == label, [0.5], colors=[colour], linewidths=1)


def _aspect(exam: PhantomExam, axis: int) -> float:
    """Height of a pixel over its width in the slice that leaves `axis` out."""
    across, up = (h for n, h in enumerate(exam.spacing_mm) if n != axis)
    return up / across


if __name__ == "__main__":
    sys.exit(main())
