import gzip
import json
import pickle
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from volumes import oblique_affine, ramp, write_case, write_dataset, write_description, write_nifti

from mtmd_core.data.dataset import Case, load_dataset, load_exam, load_image, load_labels, write_label_map
from mtmd_core.data.orientation import ExamGrid
from mtmd_core.errors import DataError

AXIS_CODES = [
    "".join(signs) for order in permutations(("RL", "AP", "SI")) for signs in product(*order)
]  # the 48 ways to store an upright volume


def test_load_dataset_reads_structures_in_label_order_and_cases_by_name(tmp_path):
    write_dataset(tmp_path, cases=("case_10", "b", "case_2"))
    write_description(tmp_path, labels={"talus": 2, "background": 0, "tibia": 1})
    (tmp_path / "imagesTr/.DS_Store").write_text("")
    (tmp_path / "imagesTr/notes.txt").write_text("")

    dataset = load_dataset(tmp_path)

    assert dataset.name == "ankle"
    assert dataset.structures == ("tibia", "talus")
    assert [case.name for case in dataset.cases] == ["b", "case_10", "case_2"]
    assert dataset.cases[1].image_path == tmp_path / "imagesTr/case_10_0000.nii.gz"
    assert dataset.cases[1].label_path == tmp_path / "labelsTr/case_10.nii.gz"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"labels": {"background": 0, "tibia": 1, "talus": 3}}, r"\[0, 1, 3\], not 0, 1, 2"),
        ({"labels": {"background": 0, "tibia": 1, "talus": 1}}, r"\[0, 1, 1\], not 0, 1, 2"),
        ({"labels": {"background": 0, "bone": [1, 2], "talus": 2}}, "region-based"),
        ({"labels": {"background": 0, "tibia": 1, "ignore": 2}}, "'ignore' is not supported"),
        ({"labels": {"background": 0, "tibia": "1"}}, "not all integers"),
        ({"labels": {"background": 0, "tibia": True}}, "not all integers"),
        ({"labels": {"tibia": 1, "talus": 2}}, "'background' is not label 0"),
        ({"labels": {"background": 0}}, "names 0 structures"),
        ({"labels": None}, "no mapping 'labels'"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "names 2 channels"),
        ({"channel_names": None}, "no mapping 'channel_names'"),
        ({"channel_names": None, "modality": {"0": "MR"}}, "nnU-Net version 1"),
        ({"file_ending": ".mha"}, "'file_ending' is \".mha\""),
        ({"file_ending": None}, "'file_ending' is null"),
        ({"file_ending": ".nii"}, "promises files ending in .nii$|promises files ending in .nii\\."),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path, changes, cause):
    write_dataset(tmp_path)
    write_description(tmp_path, **changes)
    with pytest.raises(DataError, match=cause):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"{'labels': }", "not valid JSON, line 1"), (b"[1]", "holds a list"), (b"\xff\xfe{", "not valid JSON")],
)
def test_a_description_that_is_no_json_object_is_refused(tmp_path, content, cause):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=cause):
        load_dataset(tmp_path)


def test_a_missing_description_shows_an_example_that_would_be_read(tmp_path):
    with pytest.raises(DataError, match="the folder has none") as caught:
        load_dataset(tmp_path)
    message = str(caught.value)
    write_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(message[message.index("{") : message.rindex("}") + 1])
    assert load_dataset(tmp_path).structures == ("NAME",)
    with pytest.raises(DataError, match="the folder does not exist"):
        load_dataset(tmp_path / "nowhere")


def test_files_without_their_partner_are_refused(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / "labelsTr/b.nii.gz").rename(tmp_path / "labelsTr/d.nii.gz")
    with pytest.raises(DataError, match=r"b_0000.nii.gz: the image has no label map. Add labelsTr/b.nii.gz"):
        load_dataset(tmp_path)
    (tmp_path / "imagesTr/b_0000.nii.gz").unlink()
    with pytest.raises(DataError, match=r"d.nii.gz: the label map has no image. Add imagesTr/d_0000.nii.gz"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("a_0001.nii.gz", "it is channel 0001"),
        ("plain.nii.gz", "no channel number. Rename it to plain_0000.nii.gz"),
        ("x_0000.nii", "promises files ending in .nii.gz"),
    ],
)
def test_files_that_do_not_fit_the_naming_are_refused(tmp_path, name, cause):
    write_dataset(tmp_path)
    write_nifti(tmp_path / "imagesTr" / name, ramp())
    with pytest.raises(DataError, match=cause):
        load_dataset(tmp_path)


def test_folders_without_exams_are_refused(tmp_path):
    write_description(tmp_path)
    with pytest.raises(DataError, match="imagesTr: the folder is missing"):
        load_dataset(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(DataError, match="it holds no exam"):
        load_dataset(tmp_path)


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


def shifted(millimetres):
    affine = np.eye(4)
    affine[2, 3] = millimetres
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


def with_voxel(value, dtype=np.float32):
    volume = ramp(dtype=dtype)
    volume[1, 2, 3] = value
    return volume


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


def test_exam_grid_goes_both_ways_on_any_volume():
    grid = ExamGrid.of((5, 6, 4), oblique_affine(axes="IPR"), nib.Nifti1Header())
    canonical = np.arange(4 * 6 * 5).reshape(grid.shape)
    np.testing.assert_array_equal(grid.to_canonical(grid.to_stored(canonical)), canonical)
    assert (grid.axes, grid.flips) == ((2, 1, 0), (False, True, True))


def test_description_file_with_byte_order_mark_is_read(tmp_path):
    write_dataset(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text())), encoding="utf-8-sig")
    assert len(load_dataset(tmp_path).cases) == 3
