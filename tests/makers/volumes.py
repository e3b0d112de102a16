"""Small synthetic exams on disk for tests: NIfTI files, nnU-Net raw folders, DICOM series."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

PATIENT_NAME = "Doe^Jane"
PATIENT_ID = "MRN-0815"
PATIENT_BIRTH_DATE = "20140229"


def ramp(shape: tuple[int, ...] = (5, 6, 4), dtype: type = np.int16) -> np.ndarray:
    """A volume in which no two voxels are equal."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def with_voxel(value: float, dtype: type = np.float32) -> np.ndarray:
    """A ramp with another value in one voxel."""
    volume = ramp(dtype=dtype)
    volume[1, 2, 3] = value
    return volume


def oblique_affine(
    spacing: tuple[float, float, float] = (0.5, 0.7, 3.0), degrees: float = 12.0, axes: str = "RAS"
) -> np.ndarray:
    """A rotation about the patient's first axis times spacing, with stored axes pointing to ``axes``.

    ``spacing`` is that of the stored axes.
    """
    turn = np.radians(degrees)
    rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    for stored, (letter, step) in enumerate(zip(axes, spacing, strict=True)):
        axis, sign = directions[letter]
        affine[:3, stored] = rotation[:, axis] * sign * step
    affine[:3, 3] = (-31.25, 12.5, 7.0)
    return affine


def shifted(millimetres: float) -> np.ndarray:
    """An affine whose volume lies so far along the third axis."""
    affine = np.eye(4)
    affine[2, 3] = millimetres
    return affine


def write_nifti(
    path: Path,
    volume: np.ndarray,
    affine: np.ndarray | None = None,
    qform_code: int = 1,
    sform_code: int = 1,
    header: nib.Nifti1Header | None = None,
) -> Path:
    """Write a volume with both codes as given; the affine is 1 mm RAS unless given."""
    affine = np.eye(4) if affine is None else affine
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(volume, affine, header)
    image.set_qform(affine, code=qform_code)
    image.set_sform(affine, code=sform_code)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_description(folder: Path, structures: tuple[str, ...] = ("tibia", "talus"), **changes: object) -> Path:
    """Write ``dataset.json``; ``changes`` replace fields, None removes one."""
    fields = {
        "name": "ankle",
        "channel_names": {"0": "MR"},
        "labels": {"background": 0} | {name: value for value, name in enumerate(structures, start=1)},
        "file_ending": ".nii.gz",
    }
    fields = {key: value for key, value in (fields | changes).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dataset.json"
    path.write_text(json.dumps(fields))
    return path


def write_case(
    folder: Path,
    case: str,
    image: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    affine: np.ndarray | None = None,
) -> None:
    """Write one case with both files; the label map holds labels 1 and 2 unless given."""
    image = ramp() if image is None else image
    if labels is None:
        labels = np.zeros(image.shape[:3], np.uint8)
        labels[1:3, 2:4, 1] = 1
        labels[3, 3, 2:] = 2
    write_nifti(folder / f"imagesTr/{case}_0000.nii.gz", image, affine)
    write_nifti(folder / f"labelsTr/{case}.nii.gz", labels, affine)


def write_dataset(folder: Path, cases: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """A valid nnU-Net raw folder with structures tibia and talus."""
    write_description(folder)
    for case in cases:
        write_case(folder, case)
    return folder


def write_dicom_series(
    folder: Path,
    volume: np.ndarray,
    spacing: tuple[float, float, float] = (0.5, 0.7, 3.0),
    row: tuple[float, float, float] = (1, 0, 0),
    column: tuple[float, float, float] = (0, 1, 0),
    origin: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    positions: list[float] | None = None,
    shift_per_slice: tuple[float, float, float] = (0, 0, 0),
    fields: dict[str, str] | None = None,
    prefix: str = "IM",
    compressed: bool = False,
) -> list[Path]:
    """Write [X, Y, slices] as one DICOM file a slice, in LPS; file names run against the positions.

    positions: of the slices along row × column, in mm from ``origin``; regular unless given.
    shift_per_slice: added to the position for each slice, as in a tilted stack.
    fields: attributes as 'group|element': value, on top of or instead of the usual ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(row, column)
    count = volume.shape[2]
    positions = [index * spacing[2] for index in range(count)] if positions is None else positions
    paths = []
    for index in range(count):
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume[:, :, index].T[None]))
        image.SetSpacing(spacing)
        place = np.add(origin, normal * positions[index]) + np.multiply(shift_per_slice, index)
        attributes = {
            "0008|0060": "MR",
            "0008|0008": "ORIGINAL\\PRIMARY\\M\\ND",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.9.{index + 1}",
            "0010|0010": PATIENT_NAME,
            "0010|0020": PATIENT_ID,
            "0010|0030": PATIENT_BIRTH_DATE,
            "0020|000d": "1.2.826.0.1.3680043.2.1125.7",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.8",
            "0020|0013": str(index + 1),
            "0020|0032": _decimals(place),
            "0020|0037": _decimals((*row, *column)),
            "0018|0050": f"{spacing[2]:g}",
            "0018|0081": "12.5",
        }
        for key, value in (attributes | (fields or {})).items():
            image.SetMetaData(key, value)
        path = folder / f"{prefix}{count - index:03d}.dcm"
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(compressed)
        writer.SetFileName(str(path))
        writer.Execute(image)
        paths.append(path)
    return paths


def _decimals(values: object) -> str:
    return "\\".join(f"{value:.10g}" for value in values)
