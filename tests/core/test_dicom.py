import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from volumes import (
    PATIENT_BIRTH_DATE,
    PATIENT_ID,
    PATIENT_NAME,
    ramp,
    write_dataset,
    write_description,
    write_dicom_series,
    write_nifti,
)

from mtmd_core.data.dataset import load_dataset, load_exam, load_image
from mtmd_core.data.dicom import import_series
from mtmd_core.errors import DataError

VOLUME = ramp((8, 6, 4))
SLOPE = b"\x28\x00\x53\x10\x02\x00\x00\x00"  # rescale slope (0028,1053) and its length, little endian
OBLIQUE = {"row": (0.8, 0.6, 0.0), "column": (0.0, 0.0, -1.0)}  # coronal, turned by 37°


def refused(folder: Path, tmp_path: Path, **arguments: object) -> str:
    """The message of a refused import, which wrote nothing and quotes no patient field."""
    target = tmp_path / "data"
    before = sorted(target.rglob("*"))
    with pytest.raises(DataError) as caught:
        import_series(folder, "case", target, **arguments)
    assert sorted(target.rglob("*")) == before
    message = str(caught.value)
    for private in (PATIENT_NAME, "Doe", PATIENT_ID, PATIENT_BIRTH_DATE, "1.2.826"):
        assert private not in message
    return message


def patch(files: list[Path], old: bytes, new: bytes) -> None:
    """Replace bytes of DICOM files that the writer would not write."""
    assert len(old) == len(new)
    for path in files:
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("orientation", [{}, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_lie_where_itks_series_reader_puts_them(tmp_path, orientation, compressed):
    write_dicom_series(tmp_path / "series", VOLUME, compressed=compressed, **orientation)

    path = import_series(tmp_path / "series", "case", tmp_path / "data")

    assert path == tmp_path / "data/imagesTr/case_0000.nii.gz"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    expected, written = reader.Execute(), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))
    for name in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(written, name)(), getattr(expected, name)(), atol=1e-5)


def test_geometry_equals_a_hand_computed_one(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME, spacing=(0.5, 0.7, 3.0), origin=(-10, 20, 30))
    image = nib.load(import_series(tmp_path / "series", "case", tmp_path / "data"))
    expected = [[-0.5, 0, 0, 10], [0, -0.7, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]  # LPS → RAS
    np.testing.assert_allclose(image.affine, expected, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), expected, atol=1e-6)
    assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), VOLUME)


def test_no_patient_field_reaches_the_file(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    path = import_series(tmp_path / "series", "case", tmp_path / "data")
    packed = path.read_bytes()
    content = gzip.decompress(packed)
    for private in (b"Doe", PATIENT_ID.encode(), PATIENT_BIRTH_DATE.encode(), b"1.2.826"):
        assert private not in content
    header = nib.load(path).header
    assert all(header[text].item() == b"" for text in ("descrip", "db_name", "aux_file", "intent_name"))
    assert not header.extensions
    assert packed[3:8] == bytes(5)  # gzip: neither name nor time


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    # As some MR scanners store them. The writer knows slopes for CT only, and whole ones: the rest is patched in.
    rescale = {"0008|0060": "CT", "0028|1052": "-10", "0028|1053": "2"}
    files = write_dicom_series(tmp_path / "series", VOLUME * 2 - 10, fields=rescale)
    patch(files, b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.4")
    patch(files, b"\x02\x00\x00\x00CT", b"\x02\x00\x00\x00MR")
    patch(files[3:], SLOPE + b"2 ", SLOPE + b".5")

    image = nib.load(import_series(tmp_path / "series", "case", tmp_path / "data"))

    assert image.get_data_dtype() == np.float32
    slopes = np.array([2, 2, 2, 0.5])
    np.testing.assert_array_equal(image.get_fdata(), VOLUME * slopes - 10)


def test_files_beside_the_series_are_passed_over(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    for name in ("DICOMDIR", "README.TXT", ".DS_Store", "preview.jpg"):
        (tmp_path / "series" / name).write_text("no DICOM")
    (tmp_path / "series/viewer").mkdir()
    assert import_series(tmp_path / "series", "case", tmp_path / "data").is_file()


def test_a_folder_that_holds_no_series_is_refused(tmp_path):
    (tmp_path / "outer/inner").mkdir(parents=True)
    assert "holds no DICOM file, only folders: inner" in refused(tmp_path / "outer", tmp_path)
    assert "the folder does not exist" in refused(tmp_path / "nowhere", tmp_path)
    files = write_dicom_series(tmp_path / "series", VOLUME)
    assert "it is a file" in refused(files[0], tmp_path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    files = write_dicom_series(tmp_path / "series", VOLUME)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-1])
    assert f"{files[1]}: it is cut short or damaged" in refused(tmp_path / "series", tmp_path)
    files[1].write_bytes(whole[:50])
    assert f"{files[1]}: it is cut short or damaged" in refused(tmp_path / "series", tmp_path)
    files[1].write_bytes(whole)
    (tmp_path / "series/IM9").write_bytes(b"something else")
    assert "IM9: it is not a readable DICOM file" in refused(tmp_path / "series", tmp_path)


def test_compressed_files_that_cannot_be_read_are_refused(tmp_path):
    files = write_dicom_series(tmp_path / "series", VOLUME, compressed=True)
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: len(whole) // 2])
    message = refused(tmp_path / "series", tmp_path)
    assert f"{files[2]}: its compressed pixels cannot be read (transfer syntax 1.2.840.10008.1.2.4.90)" in message
    assert "Export it uncompressed" in message


def test_several_series_are_refused_with_their_counts(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    write_dicom_series(
        tmp_path / "series",
        VOLUME[:, :, :3],
        prefix="T2_",
        fields={"0020|000e": "1.2.826.0.1.3680043.2.1125.99"},
    )
    message = refused(tmp_path / "series", tmp_path)
    assert "it holds 2 series (4 files such as IM001.dcm, 3 files such as T2_001.dcm)" in message
    assert "Give each series a folder of its own" in message


def test_several_echoes_are_refused(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    write_dicom_series(tmp_path / "series", VOLUME, prefix="E2_", fields={"0018|0081": "25"})
    assert "it mixes 2 echo times (12.5, 25 ms)" in refused(tmp_path / "series", tmp_path)


def test_echo_numbers_are_enough_to_tell_echoes_apart(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME, fields={"0018|0086": "1"})
    write_dicom_series(tmp_path / "series", VOLUME, prefix="E2_", fields={"0018|0086": "2"})
    assert "it mixes 2 echoes" in refused(tmp_path / "series", tmp_path)


def test_several_phases_are_refused_with_what_tells_them_apart(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    write_dicom_series(
        tmp_path / "series",
        VOLUME,
        prefix="P2_",
        fields={"0008|0018": "1.2.826.0.1.3680043.2.1125.77", "0020|0100": "2"},
    )
    message = refused(tmp_path / "series", tmp_path)
    assert "several images share a slice position: 8 files at 4 positions" in message
    assert "differ in temporal position" in message


def test_a_slice_that_is_there_twice_is_refused(tmp_path):
    files = write_dicom_series(tmp_path / "series", VOLUME)
    (tmp_path / "series/copy.dcm").write_bytes(files[0].read_bytes())
    assert "IM004.dcm and copy.dcm are the same image" in refused(tmp_path / "series", tmp_path)


@pytest.mark.parametrize(
    ("positions", "cause"),
    [
        ([0, 3, 6, 12], "3 mm, but 6 mm between IM002.dcm and IM001.dcm, as if 1 slice were missing there"),
        ([0, 3, 12, 15], "3 mm, but 9 mm between IM003.dcm and IM002.dcm, as if 2 slices were missing there"),
        ([0, 3, 6, 10], "3 mm, but 4 mm between IM002.dcm and IM001.dcm. Export"),
        ([0, 3, 6.05, 9], "unevenly spaced: 2.95 mm, but 3.05 mm"),
    ],
)
def test_missing_and_uneven_slices_are_refused(tmp_path, positions, cause):
    write_dicom_series(tmp_path / "series", VOLUME, positions=positions)
    assert cause in refused(tmp_path / "series", tmp_path)


def test_rounded_positions_are_no_unevenness(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME, positions=[0, 0.63, 1.25, 1.88])
    _, grid = load_image(import_series(tmp_path / "series", "case", tmp_path / "data"))
    assert grid.spacing_mm == pytest.approx((0.5, 0.7, 1.88 / 3), rel=1e-6)


@pytest.mark.parametrize(("count", "cause"), [(1, "it has 1 slice,"), (2, "it has 2 slices,")])
def test_too_few_slices_are_refused(tmp_path, count, cause):
    write_dicom_series(tmp_path / "series", VOLUME[:, :, :count])
    assert cause in refused(tmp_path / "series", tmp_path)


def test_a_tilted_stack_is_refused(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME, shift_per_slice=(0, 0.3, 0))
    assert "stacked 5.7° off their normal" in refused(tmp_path / "series", tmp_path)


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"volume": VOLUME[:, :5]}, "it mixes image sizes: IM001.dcm against X001.dcm"),
        ({"spacing": (0.5, 0.8, 3.0)}, "it mixes pixel spacings"),
        ({"column": (0, 0, 1)}, "it mixes orientations"),
    ],
)
def test_mixed_planes_are_refused(tmp_path, other, cause):
    write_dicom_series(tmp_path / "series", VOLUME)
    write_dicom_series(tmp_path / "series", **({"volume": VOLUME} | other), prefix="X", positions=[12, 15, 18, 21])
    assert cause in refused(tmp_path / "series", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (b"1\\0\\0\\0\\1\\0", b"1\\0\\0\\1\\0\\0", "its rows and columns are not at right angles"),
        (b"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0", "its rows and columns are not at right angles"),
        (b"1\\0\\0\\0\\1\\0", b"1\\0\\0\\0\\1/0", "it has no valid orientation (0020,0037)"),
        (b"-10\\20\\", b"-10\\2x\\", "it has no valid position (0020,0032)"),
        (b"\x20\x00\x32\x00", b"\x20\x00\x31\x00", "it has no valid position (0020,0032)"),
        (b"\x20\x00\x37\x00", b"\x20\x00\x39\x00", "it has no valid orientation (0020,0037)"),
        (b".7\\.5", b".7/.5", "it has no valid pixel spacing (0028,0030)"),
        (b".7\\.5", b".7\\ 0", "its pixel spacing is 0×0.7 mm"),
    ],
)
def test_slices_without_a_place_are_refused(tmp_path, old, new, cause):
    files = write_dicom_series(tmp_path / "series", VOLUME)
    patch(files, old, new)
    assert cause in refused(tmp_path / "series", tmp_path)


def test_multi_frame_and_colour_files_are_refused(tmp_path):
    (tmp_path / "frames").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(ramp((5, 6, 8), np.uint8)), str(tmp_path / "frames/a.dcm"))
    assert "it is a multi-frame file (5 frames)" in refused(tmp_path / "frames", tmp_path)
    (tmp_path / "colour").mkdir()
    colour = sitk.GetImageFromArray(ramp((1, 6, 8, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour/a.dcm"))
    assert "it is a colour image (RGB)" in refused(tmp_path / "colour", tmp_path)


def test_inverted_grey_values_are_refused(tmp_path):
    files = write_dicom_series(tmp_path / "series", VOLUME)
    patch(files, b"MONOCHROME2", b"MONOCHROME1")
    assert "its grey values are inverted" in refused(tmp_path / "series", tmp_path)


def test_a_constant_series_is_refused(tmp_path):
    write_dicom_series(tmp_path / "series", np.full((8, 6, 4), 7, np.int16))
    assert "all its voxels are 7" in refused(tmp_path / "series", tmp_path)


def test_an_existing_case_is_never_overwritten(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    image_path = import_series(tmp_path / "series", "case", tmp_path / "data")
    before = image_path.read_bytes()
    assert f"{image_path}: the case exists already" in refused(tmp_path / "series", tmp_path)
    assert image_path.read_bytes() == before
    image_path.unlink()
    write_nifti(tmp_path / "data/labelsTr/case.nii", ramp())  # a label map drawn before, in the other ending
    assert "labelsTr/case.nii: the case exists already" in refused(tmp_path / "series", tmp_path)


@pytest.mark.parametrize("case", ["", "../escape", "a/b", "-rf", "a b", ".hidden", "Zoë"])
def test_names_that_cannot_be_a_case_are_refused(tmp_path, case):
    write_dicom_series(tmp_path / "series", VOLUME)
    with pytest.raises(DataError, match="cannot name a case"):
        import_series(tmp_path / "series", case, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def drawn_labels(folder: Path, path: Path, reorder: str | None = None) -> Path:
    """A label map of the series in ``folder`` as a drawing programme saves it: label 1 where the image > 100."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    labels = sitk.Cast(reader.Execute() > 100, sitk.sitkUInt8)
    sitk.WriteImage(sitk.DICOMOrient(labels, reorder) if reorder else labels, str(path))
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
@pytest.mark.parametrize("reorder", [None, "RAS", "SPL"])
@pytest.mark.parametrize("orientation", [{}, OBLIQUE], ids=["axial", "oblique"])
def test_label_maps_of_drawing_programmes_lie_on_their_image(tmp_path, ending, reorder, orientation):
    write_dicom_series(tmp_path / "series", VOLUME, **orientation)
    label = drawn_labels(tmp_path / "series", tmp_path / f"drawn{ending}", reorder)
    write_description(tmp_path / "data", structures=("tibia",))

    import_series(tmp_path / "series", "case", tmp_path / "data", label)

    dataset = load_dataset(tmp_path / "data")
    exam = load_exam(dataset.cases[0], dataset.structures)
    np.testing.assert_array_equal(exam.labels, exam.image > 100)
    assert 0 < exam.labels.sum() < exam.labels.size
    # In the file too: programmes that ignore the affine see both in one order.
    image, labels = (nib.load(path) for path in (dataset.cases[0].image_path, dataset.cases[0].label_path))
    assert image.affine.tobytes() == labels.affine.tobytes()
    assert labels.get_data_dtype() == np.uint8


def test_label_maps_that_do_not_fit_the_series_are_refused(tmp_path):
    folder = tmp_path / "series"
    write_dicom_series(folder, VOLUME)
    whole = sitk.ReadImage(str(drawn_labels(folder, tmp_path / "whole.nrrd")))
    cropped, moved = tmp_path / "cropped.nrrd", tmp_path / "moved.nii.gz"
    sitk.WriteImage(whole[1:], str(cropped))
    assert "not on its image's grid: 7×6×4 voxels against 8×6×4" in refused(folder, tmp_path, label_path=cropped)
    whole.SetOrigin((-10, 20, 33))
    sitk.WriteImage(whole, str(moved))
    assert "up to 3 mm apart" in refused(folder, tmp_path, label_path=moved)
    layered = tmp_path / "layers.seg.nrrd"
    sitk.WriteImage(sitk.Compose(whole, whole), str(layered))
    assert "it is not one 3D label map" in refused(folder, tmp_path, label_path=layered)
    (tmp_path / "bad.nrrd").write_bytes(b"NRRD0004\n")
    assert "no NRRD volume" in refused(folder, tmp_path, label_path=tmp_path / "bad.nrrd")
    assert "Save it as" in refused(folder, tmp_path, label_path=tmp_path / "labels.mha")
    assert "does not exist" in refused(folder, tmp_path, label_path=tmp_path / "missing.nrrd")
    assert "does not exist" in refused(folder, tmp_path, label_path=tmp_path / "missing.nii")


def test_labels_that_the_dataset_does_not_name_are_refused(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    label = drawn_labels(tmp_path / "series", tmp_path / "drawn.nrrd")
    image = sitk.ReadImage(str(label)) * 3
    sitk.WriteImage(image, str(label))
    write_description(tmp_path / "data")
    message = refused(tmp_path / "series", tmp_path, label_path=label)
    assert "its values 3 are no labels of this dataset, which has 0 to 2" in message


def test_the_file_ending_of_the_dataset_is_kept_and_a_bad_description_refused(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    write_description(tmp_path / "plain", file_ending=".nii")
    path = import_series(tmp_path / "series", "case", tmp_path / "plain")
    assert path.name == "case_0000.nii"
    assert path.read_bytes()[:4] == (348).to_bytes(4, "little")
    write_description(tmp_path / "data", channel_names=None)
    assert "channel_names" in refused(tmp_path / "series", tmp_path)


def test_nothing_is_left_behind_where_writing_fails(tmp_path):
    write_dicom_series(tmp_path / "series", VOLUME)
    label = drawn_labels(tmp_path / "series", tmp_path / "drawn.nii")
    write_dataset(tmp_path / "data", cases=("a",))
    for path in (tmp_path / "data/labelsTr").iterdir():
        path.unlink()
    (tmp_path / "data/labelsTr").rmdir()
    (tmp_path / "data/labelsTr").write_text("a file where a folder belongs")
    assert "labelsTr: it cannot be made" in refused(tmp_path / "series", tmp_path, label_path=label)
