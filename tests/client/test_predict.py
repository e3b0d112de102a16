"""``mtmd-client predict``: label maps in each exam's own geometry, one bad case among good ones."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from volumes import oblique_affine, write_nifti

from client.command import main
from mtmd_core.config import NetworkConfig
from mtmd_core.models import ModelCard, SiteCard, load_model, save_model
from mtmd_core.networks.build import build_network
from mtmd_core.strategies import LabelSpace
from mtmd_core.tensor_files import save_tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = NetworkConfig(width=4)
    card = ModelCard(
        config, "dsl", 32, {"knee": SiteCard(LabelSpace("knee", 0, 2, 3), ("femur", "patella"), slice_axis=0)}
    )
    path = tmp_path / "model.safetensors"
    network = build_network(config, card.domains, seed=0)
    network.output.domains["knee"].bias.data.zero_()  # an untrained network that finds something
    network.output.domains["knee"].weight.data.mul_(10)
    save_model(path, network, card)
    return path


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    folder = tmp_path / "exams"
    random = np.random.default_rng(0)
    for name, axes in (("a_0000.nii.gz", "PSR"), ("b.nii", "LAS")):
        image = random.normal(100, 20, (20, 26, 6)).astype(np.int16)
        write_nifti(folder / name, image, oblique_affine(axes=axes), qform_code=1, sform_code=2)
    return folder


def predict(tmp_path: Path, model: Path, inputs: Path) -> int:
    words = ["predict", "--site", "knee", "--state", str(tmp_path / "state"), "-m", str(model)]
    return main([*words, "-i", str(inputs), "-o", str(tmp_path / "out")])


def test_label_maps_have_their_exams_own_geometry_bit_for_bit(tmp_path: Path, model: Path, exams: Path) -> None:
    assert predict(tmp_path, model, exams) == 0
    for source, target in (("a_0000.nii.gz", "a.nii.gz"), ("b.nii", "b.nii")):
        image, labels = nib.load(exams / source), nib.load(tmp_path / "out" / target)
        assert labels.shape == image.shape
        assert labels.affine.tobytes() == image.affine.tobytes()
        for field in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim"):
            assert np.array_equal(labels.header[field], image.header[field]), field
        values = np.asanyarray(labels.dataobj)
        assert values.dtype == np.uint8
        assert {0} < set(np.unique(values)) <= {0, 1, 2}


def test_a_mirrored_copy_of_an_exam_gets_the_mirrored_label_map(tmp_path: Path, model: Path, exams: Path) -> None:
    """The network sees canonical slices, however a file stores them."""
    original = nib.load(exams / "b.nii")
    flipped = nib.as_closest_canonical(original)
    write_nifti(exams / "c.nii", np.asanyarray(flipped.dataobj), flipped.affine)
    assert predict(tmp_path, model, exams) == 0
    one, other = (nib.load(tmp_path / "out" / name) for name in ("b.nii", "c.nii"))
    assert np.array_equal(np.asanyarray(nib.as_closest_canonical(one).dataobj), np.asanyarray(other.dataobj))


def test_one_bad_case_does_not_stop_the_others(
    tmp_path: Path, model: Path, exams: Path, capsys: pytest.CaptureFixture
) -> None:
    (exams / "aa_broken.nii.gz").write_bytes((exams / "a_0000.nii.gz").read_bytes()[:200])
    assert predict(tmp_path, model, exams) == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", "b.nii"}
    said = capsys.readouterr().err
    assert "aa_broken.nii.gz: not segmented" in said
    assert "1 of 3 exams" in said


def test_a_disk_or_a_network_that_fails_on_one_exam_does_not_stop_the_others(
    tmp_path: Path, model: Path, exams: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)  # nothing can be written there
    assert predict(tmp_path, model, exams) == 4
    assert (tmp_path / "out" / "b.nii").is_file()
    said = capsys.readouterr().err
    assert "a_0000.nii.gz: not segmented: " in said
    assert "cannot be written (Is a directory)" in said
    assert "1 of 2 exams" in said

    network, card = load_model(model)
    save_model(model, network, replace(card, slice_size=24))  # the network halves a slice four times
    assert predict(tmp_path, model, exams) == 4
    assert "2 of 2 exams" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"--site": "ankle"}, "knows the sites knee"),
        ({"-m": "nowhere.safetensors"}, "there is no model"),
        ({"-i": "nowhere"}, "neither a file nor a folder"),
    ],
)
def test_what_cannot_be_predicted_says_why(
    tmp_path: Path, model: Path, exams: Path, change: dict[str, str], text: str, capsys: pytest.CaptureFixture
) -> None:
    words = {
        "--site": "knee",
        "--state": str(tmp_path / "s"),
        "-m": str(model),
        "-i": str(exams),
        "-o": str(tmp_path / "o"),
    }
    assert main(["predict", *(word for pair in (words | change).items() for word in pair)]) == 2
    assert text in capsys.readouterr().err


def test_a_model_that_was_altered_is_refused(
    tmp_path: Path, model: Path, exams: Path, capsys: pytest.CaptureFixture
) -> None:
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    model.write_bytes(content)
    assert predict(tmp_path, model, exams) == 2
    assert "checksum" in capsys.readouterr().err


def test_a_checkpoint_of_the_server_is_no_model(tmp_path: Path, exams: Path, capsys: pytest.CaptureFixture) -> None:
    chosen = tmp_path / "chosen.safetensors"
    save_tensors(chosen, {"encoder.weight": torch.zeros(2)}, {"round": 3})
    assert predict(tmp_path, chosen, exams) == 2
    assert "Give a site's results/model.safetensors with -m" in capsys.readouterr().err


def test_predictions_never_replace_the_image(tmp_path: Path, model: Path, exams: Path) -> None:
    before = (exams / "b.nii").read_bytes()
    words = ["predict", "--site", "knee", "--state", str(tmp_path / "s"), "-m", str(model), "-i", str(exams / "b.nii")]
    assert main([*words, "-o", str(exams)]) == 2
    assert (exams / "b.nii").read_bytes() == before
