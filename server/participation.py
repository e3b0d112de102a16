"""Which sites train in which round."""

from collections.abc import Sequence

import numpy as np

from mtmd_core.seeds import derive_seed


def training_sites(sites: Sequence[str], count: int, round_: int, seed: int) -> list[str]:
    """The sites that train in a round, in the order of ``sites``.

    Sites are drawn without replacement until each has had its turn, then anew: with few sites, independent draws (McMahan et
    al. 2017, Algorithm 1) would leave some out for long. A function of its arguments alone, so that a run that goes on draws
    what it would have drawn.

    Args:
        sites: all of them.
        count: how many train in a round.
        round_: counted from 1.
        seed: of the run.

    >>> [training_sites(["ankle", "knee", "shoulder"], 2, round_, seed=0) for round_ in (1, 2, 3)]
    [['ankle', 'knee'], ['ankle', 'shoulder'], ['knee', 'shoulder']]
    """
    if count >= len(sites):
        return list(sites)
    waiting: list[str] = []
    shuffles = 0
    drawn: list[str] = []
    for _ in range(round_):
        drawn, waiting = waiting[:count], waiting[count:]
        if len(drawn) < count:
            order = np.random.default_rng(derive_seed(seed, "participation", shuffles)).permutation(len(sites))
            shuffles += 1
            fresh = [sites[index] for index in order]
            missing = count - len(drawn)
            more = [site for site in fresh if site not in drawn][:missing]
            waiting = [site for site in fresh if site not in more]
            drawn += more
    return [site for site in sites if site in drawn]
