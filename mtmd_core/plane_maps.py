"""Maps of embeddings in the plane: t-SNE after principal components (the paper, section 3.5 and Figure 8).

Several maps are made by several processes, which import this module: it is quick to import, without PyTorch and scikit-learn.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PRINCIPAL_COMPONENTS = 50
"""What longer embeddings are reduced to before t-SNE."""
PERPLEXITY, LEARNING_RATE = 30.0, 200.0
"""Of t-SNE. scikit-learn's learning rate, as the paper's presumably is: others would call it 800."""
ANGLE = 0.8
"""Of the Barnes-Hut tree: how large a group of far points may look to be taken for one. scikit-learn's documentation calls
0.2 to 0.8 equally good; 3000 points take 7.7 instead of 11 seconds, and end within 1 % of the same divergence."""
FEWEST_FOR_A_MAP = 4
"""Embeddings; of fewer, a perplexity of 1 is more than a third."""

_WORTH_PROCESSES = 3000  # points of all maps; fewer take less time than a process takes to start


class PlaneMap(NamedTuple):
    """Places in the plane, [n, 2], and the perplexity that they were made with."""

    places: NDArray[np.float64]
    perplexity: float


def plane_maps(embeddings: Sequence[NDArray], seed: int, processes: int = 1) -> list[PlaneMap]:
    """:func:`plane_map` of each, several at a time; the same maps however many processes make them.

    Args:
        embeddings: of each map, [n, E].
        seed: of every map.
        processes: one map and one thread each: t-SNE's own threads wait for each other in each of its thousand steps.

    Raises:
        ValueError: for fewer than four embeddings of one map.
    """
    workers = min(processes, len(embeddings))
    if workers < 2 or sum(map(len, embeddings)) < _WORTH_PROCESSES:
        return [plane_map(each, seed) for each in embeddings]
    # Spawned, for a fork in the middle of PyTorch's threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(_map, state=_for_numpy(seed)), embeddings))


def plane_map(embeddings: NDArray, seed: int) -> PlaneMap:
    """t-SNE (van der Maaten and Hinton 2008), after principal components where embeddings have more than 50 numbers.

    Perplexity is 30, and a third of the other points where those are fewer than 90: it is the number of neighbours that a
    point is to have, and must leave some that are none.

    Args:
        embeddings: [n, E], of all domains together.
        seed: of the map.

    Raises:
        ValueError: for fewer than four embeddings.
    """
    return _map(embeddings, _for_numpy(seed))


def _map(embeddings: NDArray, state: int) -> PlaneMap:
    """The map of a seed of scikit-learn's."""
    from sklearn.decomposition import PCA  # slow to import, and needed for pictures alone
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count, length = embeddings.shape
    if count < FEWEST_FOR_A_MAP:
        raise ValueError(f"{count} embeddings make no map; expected {FEWEST_FOR_A_MAP} or more.")
    points, perplexity = np.asarray(embeddings, np.float64), min(PERPLEXITY, (count - 1) / 3)
    if np.ptp(points, axis=0).max() < np.finfo(np.float32).eps:  # all the same: no neighbour is nearer than another
        return PlaneMap(np.zeros((count, 2)), perplexity)
    with threadpool_limits(1):  # threads that wait for each other cost more than they save on so few points
        if length > PRINCIPAL_COMPONENTS:
            points = PCA(min(PRINCIPAL_COMPONENTS, count), svd_solver="full").fit_transform(points)
        tsne = TSNE(
            perplexity=perplexity,
            learning_rate=LEARNING_RATE,
            init="pca",
            angle=ANGLE,
            random_state=state,
        )
        places = tsne.fit_transform(points)
    return PlaneMap(places.astype(np.float64), perplexity)


def _for_numpy(seed: int) -> int:
    """A seed of the 32 bits that scikit-learn takes."""
    from .seeds import derive_seed  # imports PyTorch, which a process that only makes maps can do without

    return derive_seed(seed, "t-SNE") % 2**32
