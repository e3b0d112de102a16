from collections import Counter

import pytest

from server.participation import training_sites

SITES = ["ankle", "elbow", "hip", "knee", "shoulder", "wrist", "spine"]


@pytest.mark.parametrize("sites", [3, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_round_has_so_many_and_every_site_has_its_turn_before_any_has_another(sites, count):
    names = SITES[:sites]
    rounds = [training_sites(names, count, round_, seed=4) for round_ in range(1, 3 * sites + 1)]
    turns: Counter = Counter()
    for members in rounds:
        assert len(members) == len(set(members)) == count
        assert members == [site for site in names if site in members]
        turns.update(members)
        assert max(turns.values()) - min(turns[site] for site in names) <= 2
    assert set(turns.values()) == {3 * count}
    first = -(-sites // count)
    assert set().union(*rounds[:first]) == set(names)


def test_it_depends_on_the_seed_and_the_round_alone():
    draws = [[training_sites(SITES, 3, round_, seed) for round_ in range(1, 9)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert training_sites(SITES, 3, 8, 0) == draws[0][7]


@pytest.mark.parametrize("count", [7, 9])
def test_where_all_take_part_nobody_is_drawn(count):
    assert training_sites(SITES, count, 5, 0) == SITES
