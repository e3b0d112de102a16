"""One volume from the files of one DICOM series, its place taken from the slices themselves.

Errors name files and technical attributes, never a patient's fields or an identifier.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from ..errors import DataError
from .orientation import LPS_TO_RAS, SHEAR_TOLERANCE, SPACING_RANGE_MM, SPACING_TOLERANCE
from .problem import Problem, refuse

MIN_SLICES = 3
# Scanners round positions, some to 0.01 mm; a missing slice changes a gap by 100 %.
GAP_TOLERANCE = 0.01
POSITION_ROUNDING_MM = 0.02

_SERIES, _IMAGE_TYPE, _INSTANCE = "0020|000e", "0008|0008", "0008|0018"
_POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
_FRAMES, _SAMPLES, _PHOTOMETRIC = "0028|0008", "0028|0002", "0028|0004"
_ECHO_TIME, _ECHO_NUMBER = "0018|0081", "0018|0086"
# What tells apart two images of one place, in the order in which it is looked at.
_PHASES = {
    _IMAGE_TYPE: "image type (such as magnitude and phase)",
    "0020|0100": "temporal position",
    "0018|1060": "trigger time",
    "0018|0082": "inversion time",
    "0018|1314": "flip angle",
    "0018|9087": "diffusion b-value",
    "0020|0012": "acquisition number",
    "0008|0032": "acquisition time",
}
# Files that lie beside DICOM files on hospital discs and in exports.
_BYSTANDERS = {
    ".txt",
    ".xml",
    ".json",
    ".html",
    ".htm",
    ".pdf",
    ".csv",
    ".log",
    ".md",
    ".ini",
    ".inf",
    ".exe",
}
_BYSTANDERS |= {".jpg", ".jpeg", ".png", ".gif", ".db", ".zip", ".nii", ".gz", ".nrrd", ".mha"}
_COMPRESSED = re.compile(r"1\.2\.840\.10008\.1\.2\.(4\.\d+|5)")
_OWN_IMAGES = "Give the scanner's own greyscale images, not derived ones or screenshots"


@dataclass(frozen=True, eq=False)
class _Slice:
    """One file: its place in DICOM's patient system (LPS, mm), and its attributes by 'group|element'."""

    path: Path
    fields: dict[str, str]
    size: tuple[int, int]
    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing_mm: tuple[float, float]


def load_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The volume of the one DICOM series in a folder: rescaled values [X, Y, slices], voxel → RAS affine.

    X runs along the scanner's rows, Y down its columns; slices are sorted by position, not by name or number.

    Raises DataError for a folder with several series, several echoes or phases, multi-frame or colour files,
    mixed sizes, spacings or orientations, fewer than 3, missing, uneven or tilted slices, and for files that
    cannot be read; only files whose ending says that they are no DICOM are passed over.
    """
    headers = {path: _load_fields(path) for path in _dicom_files(Path(folder))}
    _check_one_series(folder, headers)
    slices = [_slice(path, *header) for path, header in headers.items()]
    _check_one_frame(folder, slices)
    normal = np.cross(slices[0].row, slices[0].column)
    slices = sorted(slices, key=lambda item: (float(item.position @ normal), item.path.name))
    _check_one_volume(folder, slices, normal)
    gap_mm = _even_gap(folder, slices, normal)
    affine = np.eye(4)
    across, down = slices[0].spacing_mm
    affine[:3, :3] = np.column_stack((slices[0].row * across, slices[0].column * down, normal * gap_mm))
    affine[:3, 3] = slices[0].position
    volume = np.stack([_load_pixels(item.path) for item in slices], axis=-1)
    if volume.dtype.kind == "f" or volume.dtype.itemsize > 4:  # slices with slopes of their own, promoted
        volume = volume.astype(np.float32)
    return volume, LPS_TO_RAS @ affine


def _dicom_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "the folder does not exist"
        refuse(Problem(folder, what, "Give the folder that holds the series' files"))
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file() and not _is_bystander(path)]
    if not files:
        inside = [path.name for path in entries if path.is_dir()]
        hint = f", only folders: {_some(inside)}" if inside else ""
        refuse(Problem(folder, f"it holds no DICOM file{hint}", "Give the folder that holds the series' files"))
    return files


def _is_bystander(path: Path) -> bool:
    return path.suffix.lower() in _BYSTANDERS or path.name.upper() == "DICOMDIR"


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _load_fields(path: Path) -> tuple[dict[str, str], tuple[int, ...]]:
    """A file's public attributes and its size [X, Y, frames]."""
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(_unreadable(path)) from error
    return {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}, reader.GetSize()


def _load_pixels(path: Path) -> np.ndarray:
    """Rescaled values [X, Y]."""
    try:
        pixels = sitk.GetArrayFromImage(_reader(path).Execute())
    except RuntimeError as error:
        raise DataError(_unreadable(path)) from error
    return pixels.reshape(pixels.shape[-2:]).T  # [1, Y, X] → [X, Y]


def _unreadable(path: Path) -> Problem:
    """Why a file cannot be read, as far as its first bytes tell."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        return Problem(path, f"it cannot be read ({error.strerror})", "Check the file and its rights")
    if start[128:132] != b"DICM" and path.suffix.lower() not in {".dcm", ".ima", ".dicom"}:
        return Problem(path, "it is not a readable DICOM file", "Move all but the series out of the folder")
    at = start.find(b"\x02\x00\x10\x00UI") + 8  # transfer syntax: always explicit, little endian
    length = int.from_bytes(start[at - 2 : at], "little")
    syntax = start[at : at + length].strip(b" \0").decode("ascii", "replace") if at >= 8 else ""
    if _COMPRESSED.fullmatch(syntax):
        problem = f"its compressed pixels cannot be read (transfer syntax {syntax}), or it is cut short"
        return Problem(path, problem, "Export it uncompressed (Explicit VR Little Endian)")
    return Problem(path, "it is cut short or damaged", "Copy or export the series again")


def _slice(path: Path, fields: dict[str, str], size: tuple[int, ...]) -> _Slice:
    """One plane of grey values with a known place."""
    frames = max(int(_number(fields.get(_FRAMES)) or 1), *size[2:])
    if frames > 1:
        remedy = "Export the series as classic DICOM, one file a slice"
        refuse(Problem(path, f"it is a multi-frame file ({frames} frames)", remedy))
    photometric = fields.get(_PHOTOMETRIC, "MONOCHROME2")
    if fields.get(_SAMPLES, "1") != "1" or not photometric.startswith("MONOCHROME"):
        refuse(Problem(path, f"it is a colour image ({photometric})", _OWN_IMAGES))
    if photometric != "MONOCHROME2":
        refuse(Problem(path, f"its grey values are inverted ({photometric})", _OWN_IMAGES))
    row, column = np.split(_numbers(path, fields, _ORIENTATION, "orientation", 6), 2)
    position = _numbers(path, fields, _POSITION, "position", 3)
    down, across = _numbers(path, fields, _PIXEL_SPACING, "pixel spacing", 2)  # DICOM: between rows first
    lengths = np.linalg.norm([row, column], axis=1)
    if abs(row @ column) > SHEAR_TOLERANCE or np.abs(lengths - 1).max() > SHEAR_TOLERANCE:
        refuse(Problem(path, "its rows and columns are not at right angles", "Export the series again"))
    low, high = SPACING_RANGE_MM
    if not (low <= min(down, across) and max(down, across) <= high):
        refuse(Problem(path, f"its pixel spacing is {across:g}×{down:g} mm", "Export the series again"))
    # Decimals are rounded: make the directions exactly orthonormal.
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return _Slice(path, fields, size[:2], position, row, column, (across, down))


def _numbers(path: Path, fields: dict[str, str], key: str, name: str, count: int) -> np.ndarray:
    try:
        values = np.array([float(text) for text in fields[key].split("\\")])
    except (KeyError, ValueError):
        values = np.array([])
    if values.shape != (count,) or not np.isfinite(values).all():
        refuse(Problem(path, f"it has no valid {name} ({key.replace('|', ',')})", _OWN_IMAGES))
    return values


def _check_one_series(folder: Path, headers: dict[Path, tuple[dict[str, str], tuple[int, ...]]]) -> None:
    series = {path: fields.get(_SERIES, "") for path, (fields, _) in headers.items()}
    counts = Counter(series.values())
    if len(counts) > 1:
        example = {uid: path.name for path, uid in reversed(series.items())}
        listed = _some([f"{count} files such as {example[uid]}" for uid, count in counts.most_common()])
        remedy = "Give each series a folder of its own and name that folder"
        refuse(Problem(folder, f"it holds {len(counts)} series ({listed})", remedy))


def _check_one_frame(folder: Path, slices: Sequence[_Slice]) -> None:
    """Size, pixel spacing and orientation are the first slice's everywhere."""
    first = slices[0]
    for other in slices[1:]:
        mixed = None
        if other.size != first.size:
            mixed = "image sizes"
        elif not np.allclose(other.spacing_mm, first.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            mixed = "pixel spacings"
        elif max(np.abs(other.row - first.row).max(), np.abs(other.column - first.column).max()) > SHEAR_TOLERANCE:
            mixed = "orientations"
        if mixed:
            remedy = "Remove localisers and other planes from the folder, or export the series again"
            refuse(Problem(folder, f"it mixes {mixed}: {first.path.name} against {other.path.name}", remedy))


def _check_one_volume(folder: Path, slices: Sequence[_Slice], normal: np.ndarray) -> None:
    """One echo, and one image at each position; ``slices`` are sorted along ``normal``."""
    remedy = "Export one {} only, as a series in a folder of its own"
    echo_times = sorted({time for item in slices if (time := _number(item.fields.get(_ECHO_TIME))) is not None})
    if echo_times and not np.allclose(echo_times, echo_times[0], rtol=1e-3):
        listed = _some([f"{time:g}" for time in echo_times])
        refuse(Problem(folder, f"it mixes {len(echo_times)} echo times ({listed} ms)", remedy.format("echo")))
    echoes = {item.fields[_ECHO_NUMBER] for item in slices if item.fields.get(_ECHO_NUMBER)}
    if len(echoes) > 1:
        refuse(Problem(folder, f"it mixes {len(echoes)} echoes", remedy.format("echo")))
    same = np.flatnonzero(np.diff([item.position @ normal for item in slices]) < POSITION_ROUNDING_MM / 2)
    if len(same) == 0:
        return
    one, two = slices[same[0]], slices[same[0] + 1]
    names = f"{one.path.name} and {two.path.name}"
    if one.fields.get(_INSTANCE, "one") == two.fields.get(_INSTANCE, "two"):
        refuse(Problem(folder, f"{names} are the same image", "Remove the copies"))
    differing = [name for key, name in _PHASES.items() if one.fields.get(key) != two.fields.get(key)]
    cause = f", which differ in {differing[0]}" if differing else ""
    positions = len(slices) - len(same)
    counts = f"{len(slices)} files at {positions} position{'s' if positions > 1 else ''}"
    problem = f"several images share a slice position: {counts}, such as {names}{cause}"
    refuse(Problem(folder, problem, remedy.format("phase")))


def _even_gap(folder: Path, slices: Sequence[_Slice], normal: np.ndarray) -> float:
    """Distance in mm between neighbouring slices of one straight, even stack."""
    if len(slices) < MIN_SLICES:
        count = "1 slice" if len(slices) == 1 else f"{len(slices)} slices"
        refuse(Problem(folder, f"it has {count}, a volume needs {MIN_SLICES} or more", "Give the whole series"))
    gaps = np.diff([item.position @ normal for item in slices])
    step, widest = float(gaps.min()), int(np.argmax(gaps))
    if gaps[widest] - step > max(GAP_TOLERANCE * step, POSITION_ROUNDING_MM):
        between = f"{slices[widest].path.name} and {slices[widest + 1].path.name}"
        problem = f"its slices are unevenly spaced: {step:.4g} mm, but {gaps[widest]:.4g} mm between {between}"
        missing = round(gaps[widest] / step) - 1
        if missing > 0 and abs(gaps[widest] / step - missing - 1) < 0.05:
            problem += f", as if {missing} slice{'s' if missing > 1 else ''} were missing there"
        refuse(Problem(folder, problem, "Export the complete series; resample it if it was acquired so"))
    path = slices[-1].position - slices[0].position
    length = float(path @ normal)
    drift = float(np.linalg.norm(path - length * normal))
    if drift > max(SHEAR_TOLERANCE * length, POSITION_ROUNDING_MM):
        degrees = np.degrees(np.arctan2(drift, length))
        problem = f"its slices are stacked {degrees:.2g}° off their normal (tilted gantry or sheared export)"
        refuse(Problem(folder, problem, "Resample the series to a grid with right angles"))
    gap_mm = length / (len(slices) - 1)
    if gap_mm > SPACING_RANGE_MM[1]:
        refuse(Problem(folder, f"its slices are {gap_mm:.4g} mm apart", "Export the series again"))
    return gap_mm


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _some(items: Sequence[str], limit: int = 4) -> str:
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")
