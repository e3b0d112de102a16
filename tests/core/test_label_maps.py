"""Label maps: read onto their images, and written in their exams' own geometry."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from volumes import oblique_affine, ramp, shifted, with_voxel, write_case, write_nifti

from mtmd_core.data.dataset import Case, load_exam, load_image, load_labels, write_label_map
from mtmd_core.errors import DataError


def image_grid(path, affine=None, shape=(5, 6, 4)):
    return load_image(write_nifti(path / "image.nii", ramp(shape), affine))[1]


@pytest.mark.parametrize(
    ("labels", "affine", "cause"),
    [
        (np.zeros((5, 6, 5), np.uint8), None, "5×6×5 voxels against 5×6×4"),
        (np.zeros((5, 6, 4), np.uint8), np.diag([1, 1, 1.002, 1]), "1×1×1.002 mm against 1×1×1 mm"),
        (np.zeros((5, 6, 4), np.uint8), shifted(1.0), "up to 1 mm apart"),
        (np.zeros((5, 6, 4), np.uint8), np.diag([-1, 1, 1, 1]), "up to 4 mm apart"),
        (with_voxel(3, np.uint8) % 4, None, "its values 3 are no labels of this dataset, which has 0 to 2"),
        (with_voxel(-1, np.int16) % 2 - 1, None, "its values -1 are no labels"),
        (with_voxel(0.5) % 2, None, "its values 0.5 are no labels"),
        (with_voxel(1.0002, np.float64) % 2, None, r"its values 1\.0002 are no labels"),
        (with_voxel(1.99985, np.float32) % 2, None, r"its values 1\.99985 are no labels"),
        (np.where(ramp() == 0, np.inf, 0.0), None, "its values inf are no labels"),
        (with_voxel(np.nan) % 2, None, "its values nan are no labels"),
        (ramp(dtype=np.uint8), None, "its values 3, 4, 5, 6, 7, ... are no labels"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(tmp_path, labels, affine, cause):
    grid = image_grid(tmp_path)
    path = write_nifti(tmp_path / "labels.nii.gz", labels, affine)
    with pytest.raises(DataError, match=cause):
        load_labels(path, 2, grid)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_of_every_number_format_become_uint8(tmp_path, dtype):
    expected = ramp() % 3
    path = write_nifti(tmp_path / "labels.nii.gz", expected.astype(dtype))
    labels = load_labels(path, 2, image_grid(tmp_path))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("slope", [0.9999999, 1.0000001, 0.99999])
def test_labels_that_only_a_slope_parts_from_integers_are_those(tmp_path, slope):
    expected = ramp() % 4
    path = write_nifti(tmp_path / "labels.nii", expected.astype(np.int16))
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([slope, 0], dtype="<f4").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(load_labels(path, 3, image_grid(tmp_path)), expected)


def test_values_next_to_a_label_are_rounded_to_it_and_not_cut_off(tmp_path):
    values = ramp().astype(np.float64) % 2 + np.where(ramp() % 3 == 0, -5e-5, 5e-5)
    path = write_nifti(tmp_path / "labels.nii", values)
    np.testing.assert_array_equal(load_labels(path, 1, image_grid(tmp_path)), ramp() % 2)


def test_a_label_map_stored_in_another_order_lies_on_its_image(tmp_path):
    # The drawing programme turned and flipped axes: each label must still lie on its own bright voxel.
    volume = ramp((5, 6, 4))
    image_path = write_nifti(tmp_path / "image.nii", volume, oblique_affine(axes="LAS"))
    turned = nib.load(image_path).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt("SPL"))
    )
    labels = (turned.get_fdata() > 60).astype(np.uint8)
    label_path = tmp_path / "labels.nii"
    nib.save(nib.Nifti1Image(labels, turned.affine), label_path)

    exam = load_exam(Case("a", image_path, label_path), ("tibia",))

    assert exam.labels.shape != labels.shape
    np.testing.assert_array_equal(exam.labels, exam.image > 60)


def test_at_45_degrees_rounding_does_not_part_a_label_map_from_its_image(tmp_path):
    volume = ramp((5, 6, 4))
    image_path = write_nifti(tmp_path / "image.nii", volume, oblique_affine((1, 1, 1), 45 - 1e-5), qform_code=0)
    label_path = write_nifti(
        tmp_path / "labels.nii",
        (volume > 60).astype(np.uint8),
        oblique_affine((1, 1, 1), 45 + 1e-5),
        qform_code=0,
    )
    exam = load_exam(Case("a", image_path, label_path), ("tibia",))
    np.testing.assert_array_equal(exam.labels, exam.image > 60)


@pytest.mark.parametrize("degrees", [45.0, -45.0, 135.0])
@pytest.mark.parametrize("axes", ["RAS", "RSA", "LPI", "SAR", "IRP", "ASL"])
def test_at_45_degrees_a_label_map_in_another_order_lies_on_its_image(tmp_path, axes, degrees):
    """Which of two axes is closest to which is a matter of the last bit, which every order rounds in its own way."""
    volume = ramp((5, 6, 4))
    image_path = write_nifti(tmp_path / "image.nii", volume, oblique_affine((1, 1, 1), degrees))
    image = nib.load(image_path)
    start = nib.orientations.axcodes2ornt("RAS")
    for seed in range(8):
        turned = image.as_reoriented(nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes)))
        affine = turned.affine * (1 + 1e-7 * np.random.default_rng(seed).standard_normal((4, 4)))
        affine[3] = (0, 0, 0, 1)
        label_path = write_nifti(
            tmp_path / "labels.nii", (turned.get_fdata() > 60).astype(np.uint8), affine, qform_code=0
        )
        exam = load_exam(Case("a", image_path, label_path), ("tibia",))
        np.testing.assert_array_equal(exam.labels, exam.image > 60)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLP", "PIR"])
@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 2), (3, 0), (0, 4)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_written_label_maps_have_their_exams_geometry_bit_for_bit(tmp_path, axes, qform_code, sform_code, order):
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"Doe^Jane"
    header["db_name"] = b"MRN-0815"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 2014"))
    source = write_nifti(
        tmp_path / "a.nii.gz",
        ramp(),
        oblique_affine((0.3, 0.3001, 2.2), axes=axes),
        qform_code,
        sform_code,
        header,
    )
    image, grid = load_image(source)

    write_label_map(tmp_path / "out.nii.gz", (image > 60).astype(np.int64) * 2, grid)

    before, after = (nib.load(tmp_path / name) for name in ("a.nii.gz", "out.nii.gz"))
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), (ramp() > 60) * 2)
    geometry = [
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
    ]
    geometry += ["qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"]
    for field in geometry:
        assert before.header[field].tobytes() == after.header[field].tobytes(), field
    assert before.affine.tobytes() == after.affine.tobytes()
    content = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert not any(private in content for private in (b"Doe", b"MRN", b"born"))
    raw = np.frombuffer(content, np.dtype(np.float32).newbyteorder(order), 2, 112)
    assert tuple(raw) == (1, 0)  # no scaling
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "out.nii.gz"]


def test_the_same_label_map_is_written_as_the_same_bytes(tmp_path):
    _, grid = load_image(write_nifti(tmp_path / "a.nii.gz", ramp()))
    for name in ("one.nii.gz", "two.nii.gz"):
        write_label_map(tmp_path / name, ramp() % 2, grid)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_write_label_map_refuses_what_is_no_label_map_of_the_exam(tmp_path):
    _, grid = load_image(write_nifti(tmp_path / "a.nii", ramp(), oblique_affine(axes="SRA")))
    target = tmp_path / "out.nii"
    with pytest.raises(ValueError, match="labels of shape"):
        write_label_map(target, np.zeros((5, 6, 4), np.uint8), grid)  # stored, not canonical
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        write_label_map(target, np.zeros(grid.shape, np.float32), grid)
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        write_label_map(target, np.full(grid.shape, 256), grid)
    with pytest.raises(DataError, match="cannot be written"):
        write_label_map(tmp_path / "nowhere/out.nii", np.zeros(grid.shape, np.uint8), grid)
    assert not target.exists()


def test_an_exam_to_predict_needs_no_label_map(tmp_path):
    write_case(tmp_path, "a")
    exam = load_exam(Case("a", tmp_path / "imagesTr/a_0000.nii.gz", None), ("tibia", "talus"))
    assert exam.labels is None
    assert exam.spacing_mm == (1, 1, 1)
