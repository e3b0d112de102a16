"""NIfTI files of one greyscale volume in a known place in the patient: read strictly, written atomically."""

import gzip
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import DataError
from .orientation import (
    CORNER_TOLERANCE_VOXELS,
    SHEAR_TOLERANCE,
    SPACING_RANGE_MM,
    ExamGrid,
    corner_distance,
    largest_cosine,
    millimetres_per_unit,
)
from .problem import Problem, Report, refuse

_COPY_AGAIN = "Copy or export the file again from its source"


def load_volume(path: Path, report: Report = refuse) -> tuple[np.ndarray, ExamGrid]:
    """Read a NIfTI volume's values, rescaled and in stored order, and its grid."""
    path = Path(path)
    data, kind = _load_nifti_bytes(path)
    try:
        with nib.imageglobals.LoggingOutputSuppressor():
            image = kind.from_bytes(data)
    except (
        nib.spatialimages.HeaderDataError,
        nib.filebasedimages.ImageFileError,
        ValueError,
        OSError,
    ) as error:
        raise DataError(Problem(path, "its NIfTI header is damaged", _COPY_AGAIN)) from error
    grid = _grid(path, image.header, report)
    needed = int(image.dataobj.offset) + image.header.get_data_dtype().itemsize * _size(image.shape)
    if len(data) < needed:
        refuse(Problem(path, f"it is cut short: {len(data)} of {needed} bytes", _COPY_AGAIN))
    return np.asanyarray(image.dataobj), grid


def load_grid(path: Path) -> ExamGrid:
    """Read a NIfTI volume's grid from its header alone.

    Raises DataError as `load_volume` does.
    """
    try:
        with nib.imageglobals.LoggingOutputSuppressor():
            header = nib.load(path).header
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, EOFError, zlib.error):
        return load_volume(path)[1]  # which says what is wrong
    return _grid(Path(path), header, refuse)


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write an image as ``.nii`` or ``.nii.gz``; the file appears under its name only when it is complete."""
    path = Path(path)
    data = image.to_bytes()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)  # neither name nor time: same exam, same bytes
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            Problem(path, f"it cannot be written ({error.strerror})", "Check free space and rights of the folder")
        ) from error


def _load_nifti_bytes(path: Path) -> tuple[bytes, type[nib.Nifti1Image]]:
    """A NIfTI file's uncompressed content and nibabel's class for it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        refuse(Problem(path, "the file does not exist", "Check the path"))
    except OSError as error:
        refuse(Problem(path, f"it cannot be read ({error.strerror})", "Check the file and its rights"))
    if not data:
        refuse(Problem(path, "the file is empty", _COPY_AGAIN))
    if path.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except EOFError:
            refuse(Problem(path, "it is cut short: the compressed data end too early", _COPY_AGAIN))
        except (gzip.BadGzipFile, zlib.error):
            refuse(Problem(path, "it is damaged, or not compressed with gzip", _COPY_AGAIN))
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        magic_at, magic = (344, b"n+1\0") if kind is nib.Nifti1Image else (4, b"n+2\0")
        if kind.header_class.may_contain_header(data) and data[magic_at : magic_at + 4] == magic:
            return data, kind
    raise DataError(Problem(path, "it is not a NIfTI file (.nii, .nii.gz)", "Export the exam as NIfTI"))


def _grid(path: Path, header: nib.Nifti1Header, report: Report) -> ExamGrid:
    """The grid of a file of one greyscale volume whose place in the patient is known."""
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    if dtype.names:
        remedy = "Export a greyscale image; a label map drawn in colours must hold label numbers"
        refuse(Problem(path, "it is a colour (RGB) image", remedy))
    if dtype.kind not in "iuf":
        refuse(Problem(path, f"its voxels are {dtype.name}", "Export the magnitude as integers or floats"))
    spatial = shape[:3]
    if len(shape) < 3 or _size(shape[3:]) != 1:
        remedy = "Export one 3D volume an exam: a single echo, phase or time point"
        refuse(Problem(path, f"it is {len(shape)}D ({'×'.join(map(str, shape))}), not one volume", remedy))
    if min(spatial) < 1:
        refuse(Problem(path, f"its header claims the shape {shape}", _COPY_AGAIN))
    if min(spatial) < 2:
        remedy = "Give the whole volume, of at least 2 voxels along each axis"
        report(Problem(path, f"it is a single layer ({'×'.join(map(str, spatial))} voxels)", remedy))
    affine = _affine(path, header, report)
    return ExamGrid.of(shape, affine, header)


def _affine(path: Path, header: nib.Nifti1Header, report: Report) -> np.ndarray:
    """The header's voxel → RAS affine, float64 [4, 4].

    NIfTI readers differ in which of two disagreeing matrices they believe, and turning axes undoes no shear:
    a label map drawn in one programme would lie elsewhere in another. Both are refused rather than guessed.
    """
    try:
        sform, _ = header.get_sform(coded=True)
        qform, _ = header.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError):
        refuse(Problem(path, "the quaternion of its qform is not a rotation", _COPY_AGAIN))
    if sform is None and qform is None:
        remedy = "Convert the exam again from its DICOM series, or set the sform once you know left from right"
        report(Problem(path, "its orientation is unknown: neither qform nor sform is set", remedy))
    affine = header.get_best_affine()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    spacing_mm = spacing * millimetres_per_unit(header)
    low, high = SPACING_RANGE_MM
    if not (np.isfinite(affine).all() and ((spacing_mm >= low) & (spacing_mm <= high)).all()):
        given = "×".join(f"{length:g}" for length in spacing_mm)
        remedy = "Correct qform, sform and units, or convert the exam again"
        refuse(Problem(path, f"its voxels are {given} mm, expected are {low:g} to {high:g} mm", remedy))
    if largest_cosine(affine) > SHEAR_TOLERANCE:
        degrees = np.degrees(np.arcsin(min(largest_cosine(affine), 1.0)))
        remedy = "Resample it to a grid with right angles (a tilted CT gantry or an affine registration does this)"
        report(Problem(path, f"its grid is sheared by {degrees:.2g}°", remedy))
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        refuse(Problem(path, "two axes of its grid coincide", "Convert the exam again from its source"))
    if sform is not None and qform is not None:
        apart = corner_distance(sform, qform, header.get_data_shape())
        if apart > CORNER_TOLERANCE_VOXELS * spacing.min():
            apart *= millimetres_per_unit(header)
            remedy = "Decide which one is right and set the other to it"
            report(Problem(path, f"its qform and sform disagree by up to {apart:.3g} mm", remedy))
    return affine


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
