"""Coarse lattices, and their interpolation to slices."""

import numpy as np

from simulation.phantom.lattice import Lattice, SliceSampler, cubic_weights


def test_cubic_interpolation_reproduces_quadratics() -> None:
    axes = np.arange(9.0), np.arange(8.0), np.arange(7.0)

    def quadratic(i, j, k):
        return 0.3 * i * i - i * j + 0.5 * j * j + 2 * k - 0.25 * k * k

    k, j, i = np.meshgrid(*reversed(axes), indexing="ij")
    lattice = Lattice(np.zeros(3), 1.0, quadratic(i, j, k).astype(np.float32))
    positions = (np.array([1.0, 2.25, 6.9]), np.array([1.5, 4.75]), np.array([1.3, 4.6]))
    sampler = SliceSampler(lattice, positions)
    for n in sampler.slices:
        expected = quadratic(positions[0][None, :], positions[1][:, None], positions[2][n])
        np.testing.assert_allclose(sampler.sample(n), expected, atol=1e-5)
    first, weights = cubic_weights(np.array([2.5]))
    assert first == [1]
    np.testing.assert_allclose(weights, [[-1 / 16, 9 / 16, 9 / 16, -1 / 16]])


def test_a_sampler_is_silent_where_its_lattice_does_not_reach() -> None:
    lattice = Lattice(np.array([0.0, 0.0, 0.0]), 1.0, np.ones((6, 6, 6), np.float32))
    sampler = SliceSampler(lattice, (np.arange(-5.0, 10.0), np.arange(0.0, 3.0), np.arange(-9.0, 9.0)))
    assert sampler.window == (slice(1, 3), slice(6, 9))
    assert sampler.slices == range(10, 13)
    assert SliceSampler(lattice, (np.arange(50.0, 60.0), np.arange(3.0), np.arange(3.0))).slices == range(0)


def test_beyond_its_lattice_a_sampler_of_all_takes_the_borders_value() -> None:
    i = np.arange(6.0)
    lattice = Lattice(np.zeros(3), 1.0, np.broadcast_to(i, (6, 6, 6)).astype(np.float32))
    inside, beyond = np.array([1.0, 2.5, 3.9]), np.array([-5.0, 1.0, 2.5, 3.9, 50.0])
    sampler = SliceSampler.of_all(lattice, (beyond, inside, np.array([-9.0, 2.0])))
    assert (sampler.window, sampler.slices) == ((slice(0, 3), slice(0, 5)), range(2))
    np.testing.assert_allclose(sampler.sample(0)[0], [1, 1, 2.5, 3.9, 4], atol=1e-4)
    same = SliceSampler(lattice, (inside, inside, np.array([2.0]))).sample(0)
    assert np.array_equal(sampler.sample(1)[:, 1:4], same)  # where the lattice reaches, not a bit differs
