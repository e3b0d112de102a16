"""Exams in nnU-Net raw folders: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``.

Everything that cannot be used is a `DataError` with file, problem and remedy. Functions that read files take
``report``, which receives each defect: the default raises the first, `validation.check_dataset` collects all.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from .label_values import rounded, values_outside
from .nifti import load_volume, write_nifti
from .orientation import ExamGrid
from .problem import Problem, Report, refuse

FILE_ENDINGS = (".nii.gz", ".nii")
MAX_STRUCTURES = 255


@dataclass(frozen=True)
class Case:
    """One exam's files; a case to predict has no label map."""

    name: str
    image_path: Path
    label_path: Path | None


@dataclass(frozen=True)
class Dataset:
    """A site's exams, sorted by name. Label value i + 1 is ``structures[i]``; 0 is background."""

    name: str
    folder: Path
    structures: tuple[str, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, eq=False)
class Exam:
    """One exam in canonical orientation (closest to RAS).

    image: float32 [X, Y, Z], in the units of the file's rescaled values.
    labels: uint8 [X, Y, Z] or None.
    spacing_mm: distances between voxel centres along X, Y, Z.
    grid: the way back to the file's own geometry.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    grid: ExamGrid


@dataclass(frozen=True)
class Description:
    """What ``dataset.json`` says."""

    name: str
    structures: tuple[str, ...]
    file_ending: str
    exam_count: int | None


def load_dataset(folder: Path) -> Dataset:
    """The dataset in an nnU-Net raw folder. Opens no image.

    Raises DataError, with a remedy, for a bad ``dataset.json`` (`load_description`), for images without label
    map and label maps without image, for further channels, and for a folder without exams.
    """
    description = load_description(folder)
    cases = pair_files(folder, description.file_ending)
    return Dataset(description.name, Path(folder), description.structures, cases)


def load_description(folder: Path) -> Description:
    """``dataset.json`` of an nnU-Net (version 2) raw folder: one channel, consecutive labels, NIfTI files."""
    path = Path(folder) / "dataset.json"
    fields = _load_json(path)
    if "modality" in fields and "channel_names" not in fields:
        refuse(
            Problem(
                path,
                "it is in the format of nnU-Net version 1 ('modality', labels as number: name)",
                'Write "channel_names": {"0": "MR"} and "labels": {"background": 0, "NAME": 1, ...}',
            )
        )
    channels = fields.get("channel_names")
    if not isinstance(channels, dict) or len(channels) != 1:
        given = f"{len(channels)} channels" if isinstance(channels, dict) else "no mapping 'channel_names'"
        refuse(Problem(path, f"one image channel is expected, it names {given}", 'Write "channel_names": {"0": "MR"}'))
    file_ending = fields.get("file_ending")
    if file_ending not in FILE_ENDINGS:
        refuse(
            Problem(
                path,
                f"'file_ending' is {json.dumps(file_ending)}",
                f"Convert the exams to NIfTI and write one of {', '.join(map(json.dumps, FILE_ENDINGS))}",
            )
        )
    name = fields.get("name")
    count = fields.get("numTraining")
    return Description(
        name=name if isinstance(name, str) and name else Path(folder).resolve().name,
        structures=_structures(path, fields.get("labels")),
        file_ending=file_ending,
        exam_count=count if isinstance(count, int) else None,
    )


def pair_files(folder: Path, file_ending: str, report: Report = refuse) -> tuple[Case, ...]:
    """The folder's cases that have both files, sorted by name; everything else is reported.

    Hidden files, and files that are no NIfTI images by their name, are passed over.
    """
    images_folder, labels_folder = Path(folder) / "imagesTr", Path(folder) / "labelsTr"
    images: dict[str, Path] = {}
    for stem, path in _nifti_files(images_folder, file_ending, report).items():
        case, separator, channel = stem.rpartition("_")
        if not (separator and case and len(channel) == 4 and channel.isdecimal()):
            report(Problem(path, "its name has no channel number", f"Rename it to {stem}_0000{file_ending}"))
        elif channel != "0000":
            report(Problem(path, f"it is channel {channel} of its exam, only 0000 is used", "Move it elsewhere"))
        else:
            images[case] = path
    labels = _nifti_files(labels_folder, file_ending, report)
    for case in sorted(images.keys() - labels.keys()):
        wanted = f"labelsTr/{case}{file_ending}"
        report(Problem(images[case], "the image has no label map", f"Add {wanted} or move the image out of imagesTr"))
    for case in sorted(labels.keys() - images.keys()):
        wanted = f"imagesTr/{case}_0000{file_ending}"
        report(Problem(labels[case], "the label map has no image", f"Add {wanted} or move the label map elsewhere"))
    cases = tuple(Case(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys()))
    if not cases and images_folder.is_dir() and labels_folder.is_dir():
        expected = f"imagesTr/CASE_0000{file_ending} with labelsTr/CASE{file_ending}"
        report(Problem(Path(folder), "it holds no exam", f"Add exams as {expected}"))
    return cases


def load_exam(case: Case, structures: tuple[str, ...]) -> Exam:
    """Read one exam, each of its files once.

    Raises DataError as `load_image` and `load_labels` do.
    """
    image, grid = load_image(case.image_path)
    labels = None if case.label_path is None else load_labels(case.label_path, len(structures), grid)
    return Exam(case.name, image, labels, grid.spacing_mm, grid)


def load_image(path: Path, report: Report = refuse) -> tuple[np.ndarray, ExamGrid]:
    """Read a 3D image as float32 [X, Y, Z] in canonical order, rescaled as its header says, with its grid.

    Raises DataError for what is not one finite greyscale volume in a known place: unreadable or truncated
    files, RGB, complex or 4D data (a last axis of 1 is dropped), unknown or sheared orientation, disagreeing
    qform and sform, NaN or infinite voxels, a constant image, fewer than 2 voxels along an axis, spacing
    outside `orientation.SPACING_RANGE_MM`.
    """
    values, grid = load_volume(path, report)
    with np.errstate(over="ignore"):  # too large for float32: found as infinite below
        image = grid.to_canonical(values).astype(np.float32, order="K")
    report_voxels(path, image, report)
    return image, grid


def load_labels(path: Path, structure_count: int, image_grid: ExamGrid | None, report: Report = refuse) -> np.ndarray:
    """Read a label map as uint8 [X, Y, Z] in the canonical order of its image.

    A label map that stores the image's grid in another axis order or direction is brought to the image's. Values that are a label
    but for 1e-4, as a slope in the header leaves them, are that label.
    Without ``image_grid`` (an image that cannot be read) the label map is checked alone.
    Raises DataError as `load_image` does, for values that are no label, and for grids other than the image's.
    """
    values, grid = load_volume(path, report)
    return labels_on_grid(path, values, grid, structure_count, image_grid, report)


def labels_on_grid(
    path: Path,
    values: np.ndarray,
    grid: ExamGrid,
    structure_count: int,
    image_grid: ExamGrid | None,
    report: Report = refuse,
) -> np.ndarray:
    """Label values stored on ``grid`` as uint8 [X, Y, Z] in the canonical order of ``image_grid``.

    path: named in errors, which are `load_labels`'s.
    """
    if image_grid is not None:
        grid = _matched_grid(path, grid, image_grid, report)
    values = rounded(values)
    if wrong := values_outside(values, structure_count):
        refuse(
            Problem(
                path,
                f"its values {wrong} are no labels of this dataset, which has 0 to {structure_count}",
                "Correct the label map, or name all structures in dataset.json",
            )
        )
    return grid.to_canonical(values).astype(np.uint8, order="K")


def write_label_map(path: Path, labels_canonical: np.ndarray, grid: ExamGrid) -> None:
    """Write labels [X, Y, Z] (integers 0 to 255) as uint8 NIfTI in the exam's own geometry.

    Shape, qform, sform, both codes and the voxel sizes are those of the exam's file, bit for bit; texts and
    extensions of its header, which may name a patient, are not copied. The file appears only when complete.
    """
    if labels_canonical.shape != grid.shape:
        raise ValueError(f"labels of shape {labels_canonical.shape} given, the exam has {grid.shape}")
    if not np.issubdtype(labels_canonical.dtype, np.integer) or values_outside(labels_canonical, MAX_STRUCTURES):
        raise ValueError(f"labels are integers from 0 to 255, given are {labels_canonical.dtype} values beyond")
    header = grid.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    for text in ("descrip", "aux_file", "intent_name", "db_name"):
        if text in header:  # NIfTI-2 has no db_name
            header[text] = b""
    for number in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[number] = 0
    header.extensions.clear()
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    stored = grid.to_stored(labels_canonical.astype(np.uint8))
    write_nifti(path, kind(stored, header.get_best_affine(), header))


def report_voxels(path: Path, image: np.ndarray, report: Report = refuse) -> None:
    """Report values [X, Y, Z] that are not finite, and images that are constant."""
    low, high = image.min(), image.max()  # NaN and infinity come through
    if not (np.isfinite(low) and np.isfinite(high)):
        count = image.size - int(np.isfinite(image).sum())
        remedy = "Export the image again without masking, or fill these voxels"
        report(Problem(path, f"{count} of {image.size} voxels are NaN or infinite", remedy))
    elif low == high:
        report(Problem(path, f"all its voxels are {low:g}", "Look at the image and export it again"))


def _load_json(path: Path) -> dict:
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        where = "the folder has none" if path.parent.is_dir() else "the folder does not exist"
        example = '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "NAME": 1}, "file_ending": ".nii.gz"}'
        refuse(Problem(path, where, f"Give an nnU-Net raw folder, with a dataset.json like {example}"))
    except OSError as error:
        refuse(Problem(path, f"it cannot be read ({error.strerror})", "Check the file and its rights"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        where = f", line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        refuse(Problem(path, f"it is not valid JSON{where}", "Correct it in a text editor"))
    if not isinstance(fields, dict):
        refuse(Problem(path, f"a JSON object is expected, it holds a {type(fields).__name__}", "Write {...}"))
    return fields


def _structures(path: Path, labels: object) -> tuple[str, ...]:
    """The structures' names in the order of their label values."""
    remedy = 'Write "labels": {"background": 0, "NAME": 1, "NAME": 2, ...} without a gap'
    if not isinstance(labels, dict):
        refuse(Problem(path, "it has no mapping 'labels'", remedy))
    if any(isinstance(value, list) for value in labels.values()):
        refuse(Problem(path, "region-based labels (lists of values) are not supported", remedy))
    if "ignore" in labels:
        refuse(Problem(path, "the label 'ignore' is not supported", "Label every voxel and remove 'ignore'"))
    if not all(type(value) is int for value in labels.values()):
        refuse(Problem(path, "its labels' values are not all integers", remedy))
    if labels.get("background") != 0:
        refuse(Problem(path, "'background' is not label 0", remedy))
    if sorted(labels.values()) != list(range(len(labels))):
        refuse(Problem(path, f"its labels are {sorted(labels.values())}, not 0, 1, 2, ...", remedy))
    if not 2 <= len(labels) <= MAX_STRUCTURES + 1:
        count = len(labels) - 1
        refuse(Problem(path, f"it names {count} structures, from 1 to {MAX_STRUCTURES} are supported", remedy))
    return tuple(sorted((name for name in labels if name != "background"), key=labels.__getitem__))


def _nifti_files(folder: Path, file_ending: str, report: Report) -> dict[str, Path]:
    """NIfTI files of a folder by name without ending, sorted."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except FileNotFoundError:
        report(Problem(folder, "the folder is missing", "Give an nnU-Net raw folder with imagesTr and labelsTr"))
        return {}
    except OSError as error:
        report(Problem(folder, f"it cannot be read ({error.strerror})", "Check the folder and its rights"))
        return {}
    files = {}
    for path in paths:
        ending = next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)
        if ending == file_ending:
            files[path.name.removesuffix(ending)] = path
        elif ending:
            remedy = "Convert the file, or correct 'file_ending'"
            report(Problem(path, f"dataset.json promises files ending in {file_ending}", remedy))
    return files


def _matched_grid(path: Path, grid: ExamGrid, image_grid: ExamGrid, report: Report) -> ExamGrid:
    """A label map's grid, its canonical order the image's; reported if it is another grid."""
    grid = grid.lying_as(image_grid)
    if difference := grid.difference_from(image_grid):
        problem = f"the label map is not on its image's grid: {difference}"
        report(Problem(path, problem, "Draw or resample (nearest neighbour) the label map on this very image"))
    return grid
