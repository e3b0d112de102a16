"""``mtmd-client import``: one DICOM series becomes one case of the site's data."""

from pathlib import Path

import nibabel as nib

from mtmd_core.data.dicom import import_series
from mtmd_core.data.orientation import ExamGrid

EXAMPLE_DESCRIPTION = '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "NAME": 1}, "file_ending": ".nii.gz"}'


def import_case(dicom: Path, case: str, data: Path, label: Path | None) -> int:
    """Import the series in ``dicom`` as ``case``, print what was written and what the dataset still lacks; 0.

    Raises DataError as `import_series` does; nothing is written then.
    """
    image_path = import_series(dicom, case, data, label)
    print(f"wrote {image_path}: {_geometry(image_path)}")
    label_path = Path(data) / "labelsTr" / image_path.name.replace(f"{case}_0000", case, 1)
    if label is not None:
        print(f"wrote {label_path}")
    else:
        print(f"missing {label_path}: draw the structures on that image and save them under this name")
    description_path = Path(data) / "dataset.json"
    if not description_path.exists():
        print(f"missing {description_path}: name the structures in it, such as {EXAMPLE_DESCRIPTION}")
    return 0


def _geometry(path: Path) -> str:
    image = nib.load(path)
    grid = ExamGrid.of(image.shape, image.affine, image.header)
    shape = "×".join(map(str, grid.shape))
    spacing = "×".join(f"{length:.4g}" for length in grid.spacing_mm)
    return f"{shape} voxels of {spacing} mm, left to right × back to front × bottom to top"
