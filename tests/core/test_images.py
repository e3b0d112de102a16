"""Images as NIfTI files: orientation, number formats, geometry, and what is refused."""

import gzip
import pickle
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from volumes import oblique_affine, ramp, shifted, with_voxel, write_nifti

from mtmd_core.data.dataset import Case, load_exam, load_image, write_label_map
from mtmd_core.data.orientation import ExamGrid
from mtmd_core.errors import DataError

AXIS_CODES = [
    "".join(signs) for order in permutations(("RL", "AP", "SI")) for signs in product(*order)
]  # the 48 ways to store an upright volume


@pytest.mark.parametrize("axes", AXIS_CODES)
def test_every_stored_order_gives_the_same_canonical_exam_and_finds_back(tmp_path, axes):
    # An object with one bright voxel at a known place in the patient, stored in all 48 upright orders.
    volume = ramp((5, 6, 4))
    affine = oblique_affine(axes=axes)
    case = Case("a", write_nifti(tmp_path / "a.nii", volume, affine), None)

    exam = load_exam(case, ())

    reference = nib.as_closest_canonical(nib.load(case.image_path))
    np.testing.assert_array_equal(exam.image, reference.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(exam.grid.canonical_affine, reference.affine, atol=1e-5)
    expected_mm = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    for letter, step in zip(axes, (0.5, 0.7, 3.0), strict=True):
        assert exam.spacing_mm[expected_mm[letter]] == pytest.approx(step, rel=1e-6)
    np.testing.assert_array_equal(exam.grid.to_stored(exam.image), volume)
    assert min(exam.image.strides) > 0  # torch takes no negative strides


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "order"),
    [
        (np.uint8, None, None, "<"),
        (np.int16, None, None, "<"),
        (np.int16, None, None, ">"),
        (np.float32, None, None, ">"),
        (np.float64, None, None, "<"),
        (np.uint16, 0.5, -10, "<"),
        (np.int16, 2, 100, ">"),
        (np.int32, 1e-3, 0, "<"),
    ],
)
def test_all_number_formats_are_read_as_their_header_says(tmp_path, dtype, slope, intercept, order):
    stored = ramp(dtype=dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    path = write_nifti(tmp_path / "a.nii", stored, header=header)
    if slope is not None:
        data = bytearray(path.read_bytes())
        data[112:120] = np.array([slope, intercept], dtype=np.dtype(np.float32).newbyteorder(order)).tobytes()
        path.write_bytes(data)

    image, _ = load_image(path)

    assert image.dtype == np.float32
    expected = stored.astype(np.float64) * (slope or 1) + (intercept or 0)
    np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_nifti2_and_a_fourth_axis_of_one_are_read_and_written_back(tmp_path):
    volume = ramp((5, 6, 4, 1))
    path = write_nifti(tmp_path / "a.nii.gz", volume, oblique_affine(axes="PSL"), header=nib.Nifti2Header())
    image, grid = load_image(path)
    assert image.shape == grid.shape == (4, 5, 6)
    write_label_map(tmp_path / "out.nii.gz", (image > 60).astype(np.uint8), grid)
    written = nib.load(tmp_path / "out.nii.gz")
    assert isinstance(written, nib.Nifti2Image)
    assert written.shape == (5, 6, 4, 1)
    np.testing.assert_array_equal(written.get_fdata(), volume > 60)


def test_spacing_is_from_the_affine_in_the_unit_of_the_header(tmp_path):
    path = write_nifti(tmp_path / "a.nii", ramp(), oblique_affine((500, 700, 3000)))
    image = nib.load(path)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "microns.nii")
    assert load_image(tmp_path / "microns.nii")[1].spacing_mm == pytest.approx((0.5, 0.7, 3.0))

    data = bytearray(write_nifti(tmp_path / "b.nii", ramp(), oblique_affine(), qform_code=0).read_bytes())
    data[80:92] = np.array([9, 9, 9], dtype="<f4").tobytes()  # pixdim contradicts the sform
    (tmp_path / "b.nii").write_bytes(data)
    assert load_image(tmp_path / "b.nii")[1].spacing_mm == pytest.approx((0.5, 0.7, 3.0))


def with_affine(path, qform=None, sform=None, shape=(5, 6, 4)):
    """Write an image with exactly these matrices, also ones that nibabel would not write."""
    write_nifti(path, ramp(shape), qform, qform_code=int(qform is not None), sform_code=0)
    data = bytearray(path.read_bytes())
    if sform is not None:
        data[254:256] = np.array([1], dtype="<i2").tobytes()
        data[280:328] = sform[:3].astype("<f4").tobytes()
    path.write_bytes(data)
    return path


def sheared(amount):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 1] = amount
    return affine


@pytest.mark.parametrize(
    ("matrices", "cause"),
    [
        ({}, "neither qform nor sform"),
        ({"sform": sheared(0.3)}, "sheared by 17°"),
        ({"qform": np.eye(4), "sform": shifted(0.5)}, "qform and sform disagree by up to 0.5 mm"),
        ({"qform": np.eye(4), "sform": np.diag([-1.0, 1, 1, 1])}, "qform and sform disagree by up to 8 mm"),
        ({"sform": np.diag([0.0, 1, 1, 1])}, "its voxels are 0×1×1 mm"),
        ({"sform": np.diag([0.0005, 0.0005, 0.003, 1])}, "its voxels are 0.0005×0.0005×0.003 mm"),
        ({"sform": np.diag([90.0, 1, 1, 1])}, "its voxels are 90×1×1 mm"),
        ({"sform": np.diag([np.nan, 1, 1, 1])}, "its voxels are nan×1×1 mm"),
        ({"sform": np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}, "sheared by 90°"),
    ],
)
def test_an_exam_whose_place_is_in_doubt_is_refused(tmp_path, matrices, cause):
    path = with_affine(tmp_path / "a.nii", **matrices)
    with pytest.raises(DataError, match=cause):
        load_image(path)


@pytest.mark.parametrize(
    "matrices",
    [
        {"qform": oblique_affine()},
        {"sform": oblique_affine()},
        {"qform": np.eye(4), "sform": shifted(0.05)},
        {"sform": sheared(0.0005)},
    ],
)
def test_one_matrix_is_enough_and_rounding_is_no_doubt(tmp_path, matrices):
    _, grid = load_image(with_affine(tmp_path / "a.nii", **matrices))
    expected = matrices.get("sform", matrices.get("qform"))
    np.testing.assert_allclose(grid.affine, expected, atol=1e-5)


def test_a_quaternion_that_is_no_rotation_is_refused(tmp_path):
    data = bytearray(write_nifti(tmp_path / "a.nii", ramp(), sform_code=0).read_bytes())
    data[256:268] = np.array([2, 2, 2], dtype="<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(DataError, match="quaternion"):
        load_image(tmp_path / "a.nii")


def rgb(shape=(5, 6, 4)):
    return np.zeros(shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("volume", "cause"),
    [
        (rgb(), r"colour \(RGB\)"),
        (ramp(dtype=np.complex64), "its voxels are complex64"),
        (ramp((5, 6, 4, 2)), r"it is 4D \(5×6×4×2\), not one volume"),
        (ramp((5, 6)), r"it is 2D \(5×6\), not one volume"),
        (ramp((5, 6, 1)), r"single layer \(5×6×1 voxels\)"),
        (with_voxel(np.nan), "1 of 120 voxels are NaN or infinite"),
        (with_voxel(-np.inf), "1 of 120 voxels are NaN or infinite"),
        (with_voxel(1e300, np.float64), "1 of 120 voxels are NaN or infinite"),
        (np.full((5, 6, 4), 7, np.int16), "all its voxels are 7"),
    ],
)
def test_an_image_that_is_not_one_finite_grey_volume_is_refused(tmp_path, volume, cause):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
    with pytest.raises(DataError, match=cause):
        load_image(path)


@pytest.mark.parametrize(
    ("name", "damage", "cause"),
    [
        ("a.nii.gz", lambda data: gzip.compress(data)[:-30], "cut short: the compressed data end too early"),
        ("a.nii.gz", lambda data: gzip.compress(data[:-7]), "cut short: 585 of 592 bytes"),
        ("a.nii", lambda data: data[:-7], "cut short: 585 of 592 bytes"),
        ("a.nii.gz", lambda data: data, "not compressed with gzip"),
        ("a.nii.gz", lambda data: flipped(gzip.compress(data), 60), "damaged"),
        ("a.nii", lambda data: b"", "the file is empty"),
        ("a.nii", lambda data: b"hello" * 100, "not a NIfTI file"),
        ("a.nii", lambda data: data[:344] + b"ni1\0" + data[348:], "not a NIfTI file"),
        ("a.nii", lambda data: data[:70] + b"\x63\x00" + data[72:], "NIfTI header is damaged"),
        (
            "a.nii",
            lambda data: data[:42] + b"\xff\xff" + data[44:],
            "header claims the shape|header is damaged",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, damage, cause):
    data = write_nifti(tmp_path / "whole.nii", ramp()).read_bytes()
    (tmp_path / name).write_bytes(damage(data))
    with pytest.raises(DataError, match=cause):
        load_image(tmp_path / name)


def flipped(data, index):
    return data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="the file does not exist"):
        load_image(tmp_path / "a.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_image(tmp_path / "folder.nii.gz")


def test_errors_name_file_problem_and_remedy_and_survive_a_process_border(tmp_path):
    path = write_nifti(tmp_path / "a.nii", ramp((5, 6, 4, 2)))
    with pytest.raises(DataError) as caught:
        load_image(path)
    assert str(caught.value) == (
        f"{path}: it is 4D (5×6×4×2), not one volume. Export one 3D volume an exam: a single echo, phase or time point."
    )
    assert caught.value.exit_code == 4
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_exam_grid_goes_both_ways_on_any_volume():
    grid = ExamGrid.of((5, 6, 4), oblique_affine(axes="IPR"), nib.Nifti1Header())
    canonical = np.arange(4 * 6 * 5).reshape(grid.shape)
    np.testing.assert_array_equal(grid.to_canonical(grid.to_stored(canonical)), canonical)
    assert (grid.axes, grid.flips) == ((2, 1, 0), (False, True, True))
