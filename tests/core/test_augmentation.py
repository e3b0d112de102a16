import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mtmd_core.data.augmentation import draw_geometry, move
from mtmd_core.seeds import generator

IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def example(count: int = 3, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, size, size, generator=random)
    return images, torch.randint(0, 5, (count, size, size), generator=random, dtype=torch.uint8)


def augment(images: torch.Tensor, labels: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return move(images, labels, draw_geometry(len(images), random))


def geometry(x: tuple[float, float, float], y: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([x, y]).expand(3, 2, 3)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_the_identity_changes_nothing(size):
    images, labels = example(size=size)
    moved, moved_labels = move(images, labels, IDENTITY.expand(3, 2, 3))
    torch.testing.assert_close(moved, images, rtol=0, atol=1e-6 * size)
    assert torch.equal(moved_labels, labels)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (geometry((-1, 0, 0), (0, 1, 0)), lambda t: t.flip(-1)),
        (geometry((1, 0, 0), (0, -1, 0)), lambda t: t.flip(-2)),
        (geometry((0, -1, 0), (1, 0, 0)), lambda t: t.rot90(1, (-2, -1))),
    ],
    ids=["left and right", "up and down", "a quarter turn"],
)
def test_geometry_by_hand(maps, expected):
    images, labels = example()
    moved, moved_labels = move(images, labels, maps)
    torch.testing.assert_close(moved, expected(images), rtol=0, atol=1e-4)
    assert torch.equal(moved_labels, expected(labels))


def test_a_shift_by_hand_fills_with_the_images_own_minimum_and_background():
    """A quarter of the extent, which is 2 in coordinates: 8 of 32 columns."""
    images, labels = example()
    moved, moved_labels = move(images, labels, geometry((1, 0, 0.5), (0, 1, 0)))
    torch.testing.assert_close(moved[..., :24], images[..., 8:], rtol=0, atol=1e-4)
    assert torch.equal(moved_labels[..., :24], labels[..., 8:])
    for image, original in zip(moved, images, strict=True):
        torch.testing.assert_close(image[..., 24:], original.min().expand(1, 32, 8))
    assert not moved_labels[..., 24:].any()


def test_images_are_what_scipy_interpolates():
    images, labels = example()
    maps = draw_geometry(3, generator(5))
    moved, _ = move(images, labels, maps)
    centres = (2 * np.arange(32) + 1) / 32 - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    for image, original, affine in zip(moved.numpy(), images.numpy(), maps.double().numpy(), strict=True):
        column, row = np.einsum("ij,jhw->ihw", affine, np.stack([x, y, np.ones_like(x)]))
        places = np.stack([((row + 1) * 32 - 1) / 2, ((column + 1) * 32 - 1) / 2])
        floor = original.min()
        expected = map_coordinates(original[0].astype(np.float64), places, order=1, mode="grid-constant", cval=floor)
        np.testing.assert_allclose(image[0], expected, atol=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_those_of_the_nearest_pixel(seed):
    """Positions in float64, rounded; only where one lies between two pixels may rounding decide otherwise."""
    _, labels = example(8)
    maps = draw_geometry(8, generator(seed))
    _, moved = move(torch.zeros(8, 1, 32, 32), labels, maps)
    assert moved.dtype == torch.uint8
    centres = (2 * np.arange(32) + 1) / 32 - 1
    points = np.stack([*np.meshgrid(centres, centres), np.ones((32, 32))])  # x, y, 1
    for label, found, affine in zip(labels.numpy(), moved.numpy(), maps.double().numpy(), strict=True):
        column, row = ((np.einsum("ij,jhw->ihw", affine, points) + 1) * 32 - 1) / 2
        inside = (column > -0.5) & (column < 31.5) & (row > -0.5) & (row < 31.5)
        nearest = label[np.clip(np.rint(row), 0, 31).astype(int), np.clip(np.rint(column), 0, 31).astype(int)]
        sure = (np.abs(column % 1 - 0.5) > 1e-4) & (np.abs(row % 1 - 0.5) > 1e-4)
        assert sure.mean() > 0.99
        assert np.array_equal(found[sure], np.where(inside, nearest, 0)[sure])


def test_labels_and_images_move_alike():
    """An image that equals its labels: wherever interpolation leaves no doubt, the two agree."""
    labels = torch.zeros(16, 64, 64, dtype=torch.uint8)
    labels[:, 10:40, 25:45] = 1
    moved, moved_labels = augment(labels[:, None].float(), labels, generator(1))
    sure = (moved[:, 0] - 0.5).abs() > 0.499
    assert sure.float().mean() > 0.9
    assert torch.equal(moved_labels[sure], (moved[:, 0][sure] > 0.5).to(torch.uint8))
    assert len({tuple(label.flatten().tolist()) for label in moved_labels}) == 16  # each by its own draw


def test_draws_stay_within_their_bounds_and_fill_them():
    maps = draw_geometry(20000, generator(0))
    flips = torch.stack([maps[:, 0, 0].sign(), maps[:, 1, 1].sign()], dim=1)  # turns are too small to change a sign
    turns = maps[:, :, :2] * flips[:, None, :]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2).expand(20000, 2, 2))
    degrees = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    shift = maps[:, :, 2] / 2  # fractions of the extent
    for drawn, bound in ((degrees, 22.5), (shift[:, 0], 0.1), (shift[:, 1], 0.1)):
        assert bound * 0.99 < drawn.max() <= bound * (1 + 1e-5)
        assert -bound * (1 + 1e-5) <= drawn.min() < -bound * 0.99
        assert abs(float(drawn.mean())) < bound / math.sqrt(3 * 20000) * 5
        assert float(drawn.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)  # of a uniform draw
    both = ((flips[:, 0] < 0) & (flips[:, 1] < 0)).float().mean()
    for share, expected in (
        ((flips[:, 0] < 0).float().mean(), 0.5),
        ((flips[:, 1] < 0).float().mean(), 0.5),
        (both, 0.25),
    ):
        assert float(share) == pytest.approx(expected, abs=0.02)


def test_a_seed_gives_the_same_whatever_else_draws():
    images, labels = example()
    kept = images.clone(), labels.clone()
    first = augment(images, labels, generator(1))
    torch.rand(7)
    second = augment(images, labels, generator(1))
    other = augment(images, labels, generator(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    assert (first[0].shape, first[0].dtype, first[1].shape, first[1].dtype) == (
        images.shape,
        images.dtype,
        labels.shape,
        labels.dtype,
    )
