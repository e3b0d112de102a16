"""One DICOM series becomes one case of an nnU-Net raw folder: its voxels and geometry, nothing else."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from ..errors import DataError
from .dataset import FILE_ENDINGS, MAX_STRUCTURES, labels_on_grid, load_description, report_voxels
from .dicom_series import load_series
from .nifti import load_volume, write_nifti
from .orientation import LPS_TO_RAS, ExamGrid
from .problem import Problem, refuse

LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd")


def import_series(dicom_folder: Path, case: str, data_folder: Path, label_path: Path | None = None) -> Path:
    """Write one DICOM series as ``imagesTr/CASE_0000.nii.gz``, and its label map as ``labelsTr/CASE.nii.gz``.

    The label map (NIfTI or NRRD, as ITK-SNAP and 3D Slicer write them) must be on the series' grid; another
    order or direction of axes is brought to it. A folder without ``dataset.json`` is accepted, a wrong one is
    not. Returns the image's path.

    Raises DataError, and writes nothing, for anything but one complete series of one volume (`load_series`),
    for a label map that does not fit it, and for a case that exists.
    """
    dicom_folder, data_folder = Path(dicom_folder), Path(data_folder)
    structure_count, file_ending = MAX_STRUCTURES, FILE_ENDINGS[0]
    if (data_folder / "dataset.json").exists():
        description = load_description(data_folder)
        structure_count, file_ending = len(description.structures), description.file_ending
    image_path, target_label_path = _target_paths(case, data_folder, file_ending)
    volume, affine = load_series(dicom_folder)
    report_voxels(dicom_folder, volume)
    image = _nifti(volume, affine)
    outputs = {image_path: image}
    if label_path is not None:
        grid = ExamGrid.of(image.shape, image.affine, image.header)
        labels = _load_drawn_labels(Path(label_path), structure_count, grid)
        outputs[target_label_path] = _nifti(grid.to_stored(labels), affine)
    _write_all(outputs)
    return image_path


def _load_drawn_labels(path: Path, structure_count: int, image_grid: ExamGrid) -> np.ndarray:
    """A label map from a drawing programme as uint8 [X, Y, Z] in the image's canonical order."""
    if not path.name.lower().endswith(LABEL_ENDINGS):
        refuse(Problem(path, "it is no label map that can be read", f"Save it as {', '.join(LABEL_ENDINGS)}"))
    if path.name.lower().endswith(".nrrd"):
        values, affine = _load_nrrd(path)
        grid = ExamGrid.of(values.shape, affine, image_grid.header)
    else:
        values, grid = load_volume(path)
    return labels_on_grid(path, values, grid, structure_count, image_grid)


def _load_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values [X, Y, Z] and voxel → RAS affine of an NRRD volume."""
    if not path.is_file():
        refuse(Problem(path, "the file does not exist", "Check the path"))
    try:
        image = sitk.ReadImage(str(path), imageIO="NrrdImageIO")
    except RuntimeError as error:
        raise DataError(Problem(path, "it is damaged or no NRRD volume", "Save the label map again")) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        problem = "it is not one 3D label map (segments that overlap take several layers)"
        remedy = "In 3D Slicer, export the segmentation as one label map, with the series as reference"
        refuse(Problem(path, problem, remedy))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def _target_paths(case: str, data_folder: Path, file_ending: str) -> tuple[Path, Path]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", case):
        remedy = "Use letters, digits, '_', '-' and '.', and no patient's name"
        refuse(Problem(data_folder, f"{case!r} cannot name a case", remedy))
    for ending in FILE_ENDINGS:
        for path in (data_folder / f"imagesTr/{case}_0000{ending}", data_folder / f"labelsTr/{case}{ending}"):
            if path.exists():
                remedy = "Choose another name for the case, or remove the old files yourself"
                refuse(Problem(path, "the case exists already and is never overwritten", remedy))
    image_path = data_folder / "imagesTr" / f"{case}_0000{file_ending}"
    return image_path, data_folder / "labelsTr" / f"{case}{file_ending}"


def _write_all(outputs: dict[Path, nib.Nifti1Image]) -> None:
    """Write all files or none."""
    written = []
    try:
        for path, image in outputs.items():
            _make_folder(path.parent)
            write_nifti(path, image)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink()
        raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            Problem(folder, f"it cannot be made ({error.strerror})", "Check the path and its rights")
        ) from error


def _nifti(volume: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """A NIfTI image in scanner coordinates; every text of its header is empty."""
    image = nib.Nifti1Image(volume, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image
