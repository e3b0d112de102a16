"""Phantom joints: geometry, signal and orientation."""

import json
from functools import cache
from importlib import resources
from itertools import combinations, pairwise

import nibabel as nib
import numpy as np
import pytest
from joint_labels import LABELS
from scipy import special

from mtmd_core.errors import ConfigurationError
from simulation.phantom import JOINT_NAMES, PhantomExam, make_exam
from simulation.phantom.acquisition import (
    PROTOCOLS,
    ghost,
    paint_thick_slice,
    plan_acquisition,
    rician,
    supersampling,
)
from simulation.phantom.anatomy import band, ring
from simulation.phantom.atlas import load_atlas
from simulation.phantom.child import Child, Pose, make_child, smallest_gap_mm
from simulation.phantom.difficulty import best_window_dice
from simulation.phantom.exam import ANATOMIES
from simulation.phantom.geometry import Scene, build_scene, tube_distance
from simulation.phantom.lattice import Grid, SliceSampler
from simulation.phantom.tissue import CONTRASTS, SlicePainter, occupancy

SMALL = (48, 48, 24)


@cache
def small_exam(joint: str, index: int = 0) -> PhantomExam:
    return make_exam(joint, seed=0, index=index, shape=SMALL)


@cache
def small_scene(joint: str, index: int = 0) -> tuple[Scene, Grid]:
    """A child's scene on a grid of about 3 mm, without going through an exam."""
    child = make_child(ANATOMIES[joint], np.random.default_rng([7, index]))
    acquisition = plan_acquisition(joint, child, 1.0, SMALL, np.random.default_rng([8, index]))
    grid = acquisition.grid
    rng = np.random.default_rng([9, index])
    return build_scene(child, acquisition.frame, grid.extent_mm(), min(grid.spacing_mm), rng), grid


def centre_ras(exam: PhantomExam, label: int) -> np.ndarray:
    return nib.affines.apply_affine(exam.affine, np.argwhere(exam.labels == label).mean(0))


# ---------------------------------------------------------------- geometry


def test_distance_to_a_tapered_tube() -> None:
    tube = ((0.0, 0.0, 0.0, 2.0), (10.0, 0.0, 0.0, 4.0), (10.0, 0.0, 20.0, 4.0))
    points = np.array([(5, 6, 0), (-4, 3, 0), (10, 0, 10), (10, 5, 10), (0, 0, 0)], np.float32).T
    np.testing.assert_allclose(tube_distance(tube, points[:, :, None])[:, 0], [3, 3, -4, 1, -2], atol=1e-6)


def test_rings_and_bands_lie_where_asked() -> None:
    arc = ring((1, 2, 3), (4, 0, 0), (0, 2, 0), (0, 180), 0.5, 2)
    np.testing.assert_allclose(arc, [(5, 2, 3, 0.5), (1, 4, 3, 0.5), (-3, 2, 3, 0.5)], atol=1e-9)
    copies = band(((0, 0, 0, 1), (0, 0, 9, 1)), (3, 0, 0), 3)
    assert [copy[1] for copy in copies] == [(-3, 0, 9, 1), (0, 0, 9, 1), (3, 0, 9, 1)]


def test_a_pose_can_be_undone() -> None:
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn about z
    pose = Pose(turn, np.array([1.0, 0, 0]), np.array([0.0, 0, 5]))
    np.testing.assert_allclose(pose.apply(np.array([[2.0, 0, 0]])), [[1, 1, 5]])
    np.testing.assert_allclose(pose.undo(np.array([[1.0, 1, 5]])), [[2, 0, 0]])


@pytest.mark.parametrize("joint", JOINT_NAMES)
def test_the_measured_gap_is_the_atlas_s_and_goes_negative_when_bones_are_pushed_together(joint: str) -> None:
    bones = load_atlas(joint)
    rest = {bone.name: () for bone in bones}
    text = (resources.files("simulation.phantom") / "atlas.json").read_text()
    recorded = min(json.loads(text)["joints"][joint]["smallest_gap_mm"].values())
    assert smallest_gap_mm(bones, rest) == pytest.approx(recorded, abs=0.5)
    away = bones[1].bounds_mm()[0] - bones[0].bounds_mm()[0]
    assert smallest_gap_mm(bones, rest | {bones[0].name: (Pose(np.eye(3), np.zeros(3), away),)}) < -1


@pytest.mark.parametrize("joint", JOINT_NAMES)
@pytest.mark.parametrize("index", [0, 1])
def test_bones_never_overlap(joint: str, index: int) -> None:
    scene, grid = small_scene(joint, index)
    outlines = {}
    for bone in scene.bones:
        sampler = SliceSampler(bone.distance, grid.axes())
        volume = np.full(grid.shape[::-1], 99, np.float32)
        for k in sampler.slices:
            volume[k][sampler.window] = sampler.sample(k)
        assert (volume < 0).any(), f"{bone.name} is not in the field of view"
        outlines[bone.name] = volume
    for one, other in combinations(outlines, 2):
        assert not ((outlines[one] < 0) & (outlines[other] < 0)).any(), f"{one} and {other} overlap"


def test_children_grow_and_their_growth_plates_close() -> None:
    rng = np.random.default_rng(3)
    children = sorted((make_child(ANATOMIES["shoulder"], rng) for _ in range(60)), key=lambda child: child.age_years)
    assert children[0].age_years >= 5
    assert children[-1].age_years <= 17
    assert {child.side for child in children} == {"left", "right"}
    young, old = children[:15], children[-15:]

    def mean(group: list[Child], of) -> float:
        return float(np.mean([of(child) for child in group]))

    assert mean(young, lambda child: child.scale) < 0.85 * mean(old, lambda child: child.scale)
    for smaller, larger in pairwise(children):
        assert smaller.physis_mm(17.0) >= larger.physis_mm(17.0)
        assert smaller.rim_mm() >= larger.rim_mm()
    assert children[0].physis_mm(17.0) > 2 * children[-1].physis_mm(17.0)


# ---------------------------------------------------------------- signal


def test_occupancy_of_a_flat_face() -> None:
    distance = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(occupancy(distance, 2.0), [1, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("joint", JOINT_NAMES)
def test_partial_volume_agrees_with_painting_at_three_times_the_resolution(joint: str) -> None:
    """Shares of tissue computed from distances against 27 sub-voxels a voxel, averaged: no noise, no bias."""
    scene, _ = small_scene(joint)
    grid = Grid((64, 64, 6), (1.5, 1.5, 1.5))
    contrast = CONTRASTS[joint]
    direct = SlicePainter(scene, grid.axes(), contrast, 1.5)
    fine = SlicePainter(scene, grid.refined((3, 3, 3)).axes(), contrast, 0.5)
    values = [0, *LABELS[joint].values()]
    for k in (1, 4):
        signal, labels = direct.paint(k)
        averaged, voted = paint_thick_slice(fine, k, (3, 3, 3), values)
        span = np.ptp(averaged)
        assert np.abs(signal - averaged).mean() < 0.02 * span
        assert np.corrcoef(signal.ravel(), averaged.ravel())[0, 1] > 0.985
        assert (labels != voted).mean() < 0.01
        assert (labels > 0).any()


def test_thick_slices_average_signal_and_vote_on_labels() -> None:
    class Painted:
        """Two sub-slices of 2×4 voxels."""

        signals = (np.arange(8.0).reshape(2, 4), np.full((2, 4), 10.0))
        labels = (np.array([[1, 1, 0, 2], [1, 0, 0, 2]]), np.array([[0, 1, 0, 2], [1, 0, 0, 0]]))

        def paint(self, k: int) -> tuple[np.ndarray, np.ndarray]:
            return self.signals[k], self.labels[k]

    signal, labels = paint_thick_slice(Painted(), 0, (2, 2, 2), [0, 1, 2])
    np.testing.assert_allclose(signal, [[(0 + 1 + 4 + 5 + 40) / 8, (2 + 3 + 6 + 7 + 40) / 8]])
    np.testing.assert_array_equal(labels, [[1, 0]])


def test_voxels_are_cut_until_nearly_cubic() -> None:
    assert supersampling((0.6, 0.6, 0.7)) == (1, 1, 1)
    assert supersampling((0.28, 0.28, 0.8)) == (1, 1, 2)
    assert supersampling((2.5, 2.5, 2.5)) == (2, 2, 2)


def test_noise_is_rician() -> None:
    rng = np.random.default_rng(0)
    air = rician(np.zeros((400, 400), np.float32), 0.1, rng)
    assert air.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    bright = rician(np.full((400, 400), 2.0, np.float32), 0.1, rng)
    assert bright.std() == pytest.approx(0.1, rel=0.02)
    assert np.square(bright).mean() == pytest.approx(4 + 2 * 0.01, rel=1e-3)


def test_ghosts_are_copies_along_the_phase_axis() -> None:
    line = np.zeros((64, 3), np.float32)
    line[20, 1] = 1
    moved = ghost(line, shift=9, strength=0.5)
    assert moved[20, 1] == pytest.approx(special.j0(0.5), abs=1e-5)
    assert moved[29, 1] == pytest.approx(special.j1(0.5), abs=1e-5)
    assert moved[11, 1] == pytest.approx(special.j1(0.5), abs=1e-5)
    np.testing.assert_allclose(moved[:, [0, 2]], 0, atol=1e-7)
    np.testing.assert_allclose(ghost(line, shift=9, strength=0.0), line, atol=1e-6)


def test_the_distal_fibula_is_seen_in_the_ankle_and_is_background() -> None:
    scene, grid = small_scene("ankle")
    fibula, talus = (next(b for b in scene.bones if b.name == name) for name in ("fibula_distal", "talus"))
    painter = SlicePainter(scene, grid.axes(), CONTRASTS["ankle"], min(grid.spacing_mm))
    marrow = {}
    for bone in (fibula, talus):
        sampler, signals = SliceSampler(bone.distance, grid.axes()), []
        for k in sampler.slices:
            signal, labels = painter.paint(k)
            deep = sampler.sample(k) < -3.5
            signals.append(signal[sampler.window][deep])
            assert set(labels[sampler.window][deep]) <= {bone.label}
        marrow[bone.name] = np.concatenate(signals).mean()
    assert fibula.label == 0
    assert marrow["fibula_distal"] == pytest.approx(marrow["talus"], rel=0.3)


# ---------------------------------------------------------------- exams


@pytest.mark.parametrize("joint", JOINT_NAMES)
def test_labels_are_the_paper_s(joint: str) -> None:
    exam = small_exam(joint)
    assert ANATOMIES[joint].labels == LABELS[joint]
    assert set(np.unique(exam.labels)) == {0, *LABELS[joint].values()}
    assert exam.image.shape == exam.labels.shape == SMALL
    assert (exam.image.dtype, exam.labels.dtype) == (np.int16, np.uint8)
    assert exam.image.min() >= 0


@pytest.mark.parametrize("joint", JOINT_NAMES)
def test_no_bone_is_found_by_a_threshold(joint: str) -> None:
    for index in (0, 1):
        exam = small_exam(joint, index)
        for structure, label in LABELS[joint].items():
            threshold, window = best_window_dice(exam.image, exam.labels == label)
            assert threshold <= window < 0.6, f"{structure} of {joint} {index}"


def test_best_threshold_and_window_against_trying_them_all() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 30, (6, 7, 8)).astype(np.int16)
    structure = (image > 9) & (image < 17) & (rng.random(image.shape) < 0.8)

    def dice(kept: np.ndarray) -> float:
        return 2 * (kept & structure).sum() / (kept.sum() + structure.sum())

    threshold = max(max(dice(image >= t), dice(image < t)) for t in range(31))
    window = max(dice((image >= a) & (image < b)) for a in range(30) for b in range(a + 1, 31))
    assert best_window_dice(image, structure) == pytest.approx((threshold, window))
    with pytest.raises(ValueError, match="no voxel"):
        best_window_dice(image, np.zeros_like(structure))


@pytest.mark.parametrize("joint", JOINT_NAMES)
def test_neighbours_lie_as_in_a_body_on_both_sides(joint: str) -> None:
    """RAS: x to the patient's right, y to the front, z up; lateral is away from the body's middle."""
    sides = {}
    for index in range(8):
        exam = small_exam(joint, index)
        sides[exam.laterality] = exam
        if len(sides) == 2:
            break
    assert set(sides) == {"left", "right"}
    for side, exam in sides.items():
        lateral = -1 if side == "left" else 1
        at = {name: centre_ras(exam, label) for name, label in LABELS[joint].items()}
        if joint == "ankle":
            assert at["tibia"][2] > at["talus"][2] > at["calcaneus"][2]
            assert at["talus"][1] > at["calcaneus"][1] + 5
        elif joint == "knee":
            assert at["femur"][2] > at["tibia"][2]
            assert at["patella"][1] > at["femur"][1] + 15
            assert lateral * (at["fibula"][0] - at["tibia"][0]) > 5
        else:
            assert lateral * (at["humerus"][0] - at["scapula"][0]) > 10


@pytest.mark.parametrize(("joint", "codes"), [("ankle", "PSR"), ("knee", "PSR"), ("shoulder", "LAS")])
def test_orientation_and_field_of_view_are_a_scanner_s(joint: str, codes: str) -> None:
    exam, protocol = small_exam(joint), PROTOCOLS[joint]
    assert "".join(nib.aff2axcodes(exam.affine)) == codes
    np.testing.assert_allclose(np.linalg.norm(exam.affine[:3, :3], axis=0), exam.spacing_mm)
    extent = np.multiply(exam.spacing_mm, exam.image.shape)
    finest = np.multiply(protocol.matrix, (protocol.finest_mm[0],) * 2 + (protocol.finest_mm[1],))
    coarsest = np.multiply(protocol.matrix, (protocol.coarsest_mm[0],) * 2 + (protocol.coarsest_mm[1],))
    assert (extent >= finest - 1e-6).all()
    assert (extent <= coarsest + 1e-6).all()


def test_scale_changes_the_matrix_and_not_the_field_of_view() -> None:
    rng_seed = 5
    child = make_child(ANATOMIES["ankle"], np.random.default_rng(1))
    half, quarter = (
        plan_acquisition("ankle", child, scale, None, np.random.default_rng(rng_seed)) for scale in (0.5, 0.25)
    )
    assert half.grid.shape == (280, 288, 65)
    assert quarter.grid.shape == (140, 144, 32)
    np.testing.assert_allclose(half.grid.extent_mm(), quarter.grid.extent_mm())
    centre = [nib.affines.apply_affine(a.affine, (np.array(a.grid.shape) - 1) / 2) for a in (half, quarter)]
    np.testing.assert_allclose(centre[0], centre[1], atol=1e-9)


def test_the_smallest_matrix_can_be_made_of_every_child() -> None:
    """Spare cells of the soft tissue's lattice reach further than those of finer ones there."""
    assert make_exam("knee", 0, 4, 0.05).labels.max() == 4


def test_another_site_s_contrast_keeps_the_geometry_and_turns_the_contrast_round() -> None:
    own = small_exam("ankle")
    other = make_exam("ankle", seed=0, index=0, shape=SMALL, site_contrast="shoulder")
    np.testing.assert_array_equal(own.labels, other.labels)
    np.testing.assert_array_equal(own.affine, other.affine)
    assert other.contrast == "shoulder"
    bone, soft = own.labels == 1, (own.labels == 0) & (own.image > np.quantile(own.image, 0.7))

    def standardised(image: np.ndarray) -> np.ndarray:
        return (image - image.mean()) / image.std()

    own_z, other_z = standardised(own.image), standardised(other.image)
    assert own_z[bone].mean() > other_z[bone].mean() + 0.3
    assert np.corrcoef(own.image[bone | soft], other.image[bone | soft])[0, 1] < 0.8


def test_exams_differ_by_index_and_seed_and_not_by_anything_else() -> None:
    again = make_exam("shoulder", seed=0, index=0, shape=SMALL)
    np.testing.assert_array_equal(again.image, small_exam("shoulder").image)
    assert not np.array_equal(small_exam("shoulder", 1).image, again.image)
    assert not np.array_equal(make_exam("shoulder", seed=1, index=0, shape=SMALL).image, again.image)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"joint": "hip"}, "hip"),
        ({"site_contrast": "elbow"}, "elbow"),
        ({"seed": -1}, "-1"),
        ({"scale": 1.5}, "1.5"),
        ({"shape": (4, 64, 64)}, "4, 64"),
    ],
)
def test_unusable_arguments_are_named(changed: dict, named: str) -> None:
    arguments = {"joint": "knee", "seed": 0, "index": 0} | changed
    with pytest.raises(ConfigurationError, match=named):
        make_exam(**arguments)
