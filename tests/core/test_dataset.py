"""nnU-Net raw folders: their description, and which files belong together."""

import json

import pytest
from volumes import ramp, write_dataset, write_description, write_nifti

from mtmd_core.data.dataset import load_dataset
from mtmd_core.errors import DataError


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


def test_description_file_with_byte_order_mark_is_read(tmp_path):
    write_dataset(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text())), encoding="utf-8-sig")
    assert len(load_dataset(tmp_path).cases) == 3
