import numpy as np
import pytest
import torch

from mtmd_core.data.slices import (
    common_slice_axis,
    cut_image,
    cut_labels,
    normalise,
    planes_of_probabilities,
    slice_axis,
    slice_grid,
    stack_planes,
)

GEOMETRIES = {
    "up": ((40, 30, 3), (0.5, 0.5, 3.0), 2, 96),
    "up, unequal spacing": ((30, 25, 3), (0.4, 0.9, 3.0), 2, 96),
    "down": ((100, 80, 3), (0.3, 0.3, 3.0), 2, 48),
    "down, unequal spacing": ((90, 64, 3), (0.3, 0.7, 3.0), 2, 48),
    "up and down": ((90, 20, 3), (0.3, 1.3, 3.0), 2, 64),
    "as it is": ((64, 64, 3), (0.3, 0.3, 3.0), 2, 64),
    "first axis": ((3, 50, 37), (3.0, 0.5, 0.6), 0, 64),
    "second axis": ((50, 3, 37), (0.5, 3.0, 0.6), 1, 64),
}
each_geometry = pytest.mark.parametrize(("shape", "spacing", "axis", "size"), GEOMETRIES.values(), ids=GEOMETRIES)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((256, 256, 100), (0.25, 0.25, 0.5), 2),
        ((5, 6, 7), (3.0, 0.5, 0.5), 0),
        ((9, 5, 7), (0.5, 0.5, 0.5), 1),
        ((9, 7, 7), (0.5, 0.5, 0.5), 1),
        ((100, 9, 8), (0.5, 0.49999, 0.3), 1),
        ((9, 100, 8), (0.49999, 0.5, 0.3), 0),
        ((9, 100, 8), (0.4990, 0.5, 0.3), 1),
    ],
)
def test_the_coarsest_spacing_is_cut_along_and_ties_go_to_fewest_slices_then_the_lowest_axis(shape, spacing, axis):
    assert slice_axis(shape, spacing) == axis


@pytest.mark.parametrize(("asked", "axis"), [([2, 2, 0], 2), ([0, 1], 0), ([2, 1], 1), ([1, 0, 2, 1], 1)])
def test_a_site_is_cut_along_the_axis_that_most_exams_ask_for(asked, axis):
    spacings = [tuple(2.0 if other == each else 1.0 for other in range(3)) for each in asked]
    assert common_slice_axis(((8, 8, 8), spacing) for spacing in spacings) == axis


@pytest.mark.parametrize(
    ("shape", "spacing", "axis", "content", "window"),
    [
        ((40, 20, 5), (1, 1, 3), 2, (64, 32), (0, 16)),
        ((40, 20, 5), (0.5, 1, 3), 2, (64, 64), (0, 0)),
        ((40, 20, 5), (0.25, 1, 3), 2, (32, 64), (16, 0)),
        ((5, 20, 40), (3, 0.5, 0.5), 0, (32, 64), (16, 0)),
        ((20, 5, 30), (1, 3, 1), 1, (43, 64), (10, 0)),
        ((1000, 2, 5), (1, 1, 3), 2, (64, 1), (0, 31)),
    ],
)
def test_slices_keep_the_aspect_ratio_in_millimetres_and_are_centred(shape, spacing, axis, content, window):
    grid = slice_grid(shape, spacing, axis, 64)
    assert grid.content == content
    assert tuple(part.start for part in grid.window) == window


def ramp(shape, axis, along):
    """A volume whose voxels hold their distance, in voxels, from the volume's edge along one axis of the plane."""
    length = [n for other, n in enumerate(shape) if other != axis][along]
    ticks = (np.arange(length, dtype=np.float32) + 0.5).reshape((-1, 1) if along == 0 else (1, -1))
    planes = np.broadcast_to(ticks, [shape[axis], *(n for other, n in enumerate(shape) if other != axis)])
    return np.moveaxis(planes, 0, axis), length


@each_geometry
@pytest.mark.parametrize("along", [0, 1])
def test_a_ramp_keeps_its_place_there_and_back(shape, spacing, axis, size, along):
    """Pixel i of n covers the i-th n-th of the plane; values at the very edges have no neighbour and may differ."""
    volume, length = ramp(shape, axis, along)
    grid = slice_grid(shape, spacing, axis, size)
    slices = cut_image(volume, grid)
    assert slices.shape == (3, size, size)
    assert slices.dtype == np.float32
    content = slices[(slice(None), *grid.window)]
    pixels = grid.content[along]
    expected = (np.arange(pixels) + 0.5) * length / pixels
    stays(content, expected, along, length / pixels)
    back = planes_of_probabilities(torch.from_numpy(slices)[:, None], grid).numpy()[:, 0]
    assert back.shape == (3, *grid.plane)
    stays(back, np.arange(length) + 0.5, along, length / pixels)


def stays(planes, expected, along, voxels_per_pixel):
    """Anti-aliasing weighs whole pixels, which moves single values by a few hundredths, but none in the mean."""
    margin = int(np.ceil(max(voxels_per_pixel, 1 / voxels_per_pixel))) + 2
    errors = np.moveaxis(planes, 1 + along, 2)[:, :, margin:-margin] - expected[margin:-margin]
    assert abs(errors).max() <= 0.08 * max(voxels_per_pixel, 1)
    assert abs(errors.mean()) <= 0.005


@each_geometry
def test_a_box_keeps_its_place_there_and_back(shape, spacing, axis, size):
    grid = slice_grid(shape, spacing, axis, size)
    rows, columns = grid.plane
    planes = np.zeros((3, rows, columns), np.uint8)
    planes[:, rows // 5 : rows // 2, columns // 3 : columns // 3 * 2] = 1
    volume = stack_planes(planes, grid)
    assert volume.shape == shape

    slices = cut_labels(volume, grid)
    assert slices.dtype == np.uint8
    probabilities = torch.nn.functional.one_hot(torch.from_numpy(slices).long(), 2).movedim(3, 1).float()
    back = planes_of_probabilities(probabilities, grid).argmax(dim=1).numpy()
    for along in (1, 2):
        found, true = (np.argwhere(each)[:, along] for each in (back, planes))
        voxels_per_pixel = grid.plane[along - 1] / grid.content[along - 1]
        if voxels_per_pixel <= 1:
            assert np.array_equal(np.unique(found), np.unique(true))
        else:  # a slice cannot say more than half a pixel, nor the plane more than half a voxel
            assert abs(found.min() - true.min()) <= voxels_per_pixel / 2 + 0.5
            assert abs(found.max() - true.max()) <= voxels_per_pixel / 2 + 0.5
            assert abs(found.mean() - true.mean()) <= voxels_per_pixel / 2
    if max(np.divide(grid.plane, grid.content)) <= 1:
        assert np.array_equal(stack_planes(back.astype(np.uint8), grid), volume)


def test_padding_is_the_exams_minimum_and_background():
    image = np.random.default_rng(0).normal(5, 1, (20, 10, 3)).astype(np.float32)
    grid = slice_grid(image.shape, (1, 1, 3), 2, 32)
    slices, labels = cut_image(image, grid), cut_labels(np.ones(image.shape, np.uint8), grid)
    assert grid.content == (32, 16)
    outside = np.ones((32, 32), bool)
    outside[grid.window] = False
    assert (slices[:, outside] == image.min()).all()
    assert (labels[:, outside] == 0).all()
    assert (labels[:, ~outside] == 1).all()


def test_anti_aliasing_averages_what_a_pixel_covers():
    """A checkerboard of 0 and 1 becomes grey, not one of its colours."""
    board = (np.indices((64, 64, 2)).sum(axis=0) % 2).astype(np.float32)
    slices = cut_image(board, slice_grid(board.shape, (1, 1, 3), 2, 16))
    np.testing.assert_allclose(slices, 0.5, atol=0.05)


def test_an_exam_has_mean_0_and_variance_1_whatever_its_units():
    image = (1e4 + 3 * np.random.default_rng(0).standard_normal((64, 64, 32))).astype(np.float32)
    result = normalise(image)
    assert result.dtype == np.float32
    assert result.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert result.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cut", [cut_image, cut_labels])
def test_a_volume_of_another_shape_is_refused(cut):
    with pytest.raises(ValueError, match=r"\(4, 5, 6\).*\(5, 4, 6\)"):
        cut(np.zeros((4, 5, 6), np.float32), slice_grid((5, 4, 6), (1, 1, 1), 2, 16))
