"""A site whose exams change while a run goes on: another split must never test what was trained on."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from asked import PLAN, PRIOR, shared
from tiny_sites import own_settings, write_sites

from client.site import Site, open_site
from mtmd_core.config import NetworkConfig
from mtmd_core.errors import DataError, SiteError, site_error_of
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import Terms

SECOND = replace(PLAN, round=2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place with ``data/knee``, whose exams a site trained on in round 1, and its ``state``."""
    write_sites(tmp_path / "data", sites={"knee": 2})
    opened(tmp_path).train(PLAN, shared())
    return tmp_path


def opened(place: Path) -> Site:
    """The site in a process of its own."""
    return open_site(own_settings("knee", place / "state", place / "data/knee"))


def copy_exam(place: Path, exam: str, name: str) -> None:
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        own = place / "data/knee" / folder
        shutil.copy(own / f"{exam}{ending}", own / f"{name}{ending}")


def remove_exam(place: Path, exam: str) -> None:
    (place / f"data/knee/imagesTr/{exam}_0000.nii.gz").unlink()
    (place / f"data/knee/labelsTr/{exam}.nii.gz").unlink()


def relabel(place: Path, exam: str) -> None:
    path = place / f"data/knee/labelsTr/{exam}.nii.gz"
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(labels, image.affine, image.header), path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda place: copy_exam(place, "knee_exam_3", "aaa"), "aaa is new"),
        (lambda place: remove_exam(place, "knee_exam_0"), "knee_exam_0 is gone"),
        (lambda place: relabel(place, "knee_exam_2"), "knee_exam_2 has another label map"),
    ],
)
def test_a_run_is_not_gone_on_with_on_other_exams(place: Path, change, told: str) -> None:
    change(place)
    for visit in (
        lambda: opened(place).train(SECOND, shared()),
        lambda: opened(place).evaluate(replace(PLAN, test=True), shared()),
    ):
        with pytest.raises(
            DataError, match=rf"knee did not begin run run with these exams: {told}\..*put them back"
        ) as e:
            visit()
        assert site_error_of(e.value) is SiteError.DATA_UNUSABLE
    assert not (place / "state/results/summary.json").exists()
    receipt, *_ = opened(place).train(replace(PLAN, run="next"), shared())
    assert (receipt.run, receipt.round) == ("next", 1)  # another run begins with what is there


def test_a_site_that_waits_goes_on_once_its_exams_are_back(place: Path) -> None:
    copy_exam(place, "knee_exam_3", "aaa")
    site = opened(place)
    with pytest.raises(DataError, match="aaa is new"):
        site.train(SECOND, shared())
    remove_exam(place, "aaa")
    assert site.train(SECOND, shared())[0].round == 2


def test_a_state_of_an_earlier_version_goes_on_and_is_held_to_its_exams_from_then_on(place: Path) -> None:
    (place / "state/rounds/run/exams.json").unlink()
    site = opened(place)
    site.train(SECOND, shared())
    assert site.learner._began_from == 1
    copy_exam(place, "knee_exam_3", "aaa")
    with pytest.raises(DataError, match="aaa is new"):
        opened(place).train(replace(PLAN, round=3), shared())


def test_segmentation_has_the_exams_of_its_auto_encoder(place: Path) -> None:
    """Whose rounds are a run of their own at the site."""
    autoencoder = build_network(NetworkConfig("autoencoder", 4), {}, seed=0)
    parameters = take(autoencoder, partition(autoencoder, Sharing.CONVOLUTIONS).shared)
    plan = replace(PLAN, run="new", strategy="dsl_mjap")
    prior = replace(PRIOR, run="new-autoencoder")

    def site() -> Site:
        opened_site = opened(place)
        opened_site.strategies = ("dsl_mjap",)
        return opened_site

    site().train(replace(plan, run=prior.run, network="autoencoder", round=2), parameters)
    copy_exam(place, "knee_exam_3", "aaa")
    with pytest.raises(DataError, match="knee did not begin run new-autoencoder with these exams: aaa is new"):
        site().train(plan, shared(), Terms(prior=prior, prior_shared=parameters))
    remove_exam(place, "aaa")
    assert site().train(plan, shared(), Terms(prior=prior, prior_shared=parameters))[0].run == "new"
