import re

import pytest
import torch
from torch import nn

from mtmd_core.errors import ConfigurationError
from mtmd_core.seeds import derive_seed, generator
from mtmd_core.sites import RESERVED, check_site_name
from mtmd_core.strategies import (
    EVERY_SITE,
    STRATEGIES,
    Contrast,
    LabelSpace,
    Sharing,
    Strategy,
    label_spaces,
    strategy_named,
)


def test_strategies_are_those_of_the_papers_table_2():
    assert set(STRATEGIES) == {
        "individual", "shared", "shared_mjap", "dsl", "dsl_mjap", "dsl_ssc", "dsl_msc", "dsl_msc_mjap",
    }  # fmt: skip
    for name, strategy in STRATEGIES.items():
        assert strategy.prior == name.endswith("_mjap")
        assert (strategy.sharing is Sharing.CONVOLUTIONS) == name.startswith("dsl")
        assert strategy.source is None
    assert strategy_named("transfer_left_knee") == Strategy(Sharing.NOTHING, source="left_knee")
    contrasts = {name: (strategy.contrast, strategy.autoencoder_contrast) for name, strategy in STRATEGIES.items()}
    none, single, multi = Contrast
    assert contrasts.pop("dsl_ssc") == (single, none)
    assert contrasts.pop("dsl_msc") == (multi, none)
    assert contrasts.pop("dsl_msc_mjap") == (multi, multi)
    assert set(contrasts.values()) == {(none, none)}  # dsl_mjap's auto-encoder has λ1 = 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("shared_msc", "only dsl trains one network that tells domains apart"),
        ("individual_ssc", "only dsl"),
        ("transfer_knee_msc_mjap", "only dsl"),
        ("individual_mjap", "learnt over all sites"),
        ("dsl_mjap_msc", "did you mean 'dsl_m"),
        ("dsl_msc_ssc", "did you mean 'dsl_"),
        ("dls", "not known; did you mean 'dsl'"),
        ("transfer_", "did you mean 'transfer_SITE'"),
    ],
)
def test_impossible_strategies_say_why(name, reason):
    with pytest.raises(ConfigurationError, match=reason):
        strategy_named(name)


@pytest.mark.parametrize("sharing", [Sharing.CONVOLUTIONS, Sharing.NOTHING])
def test_sites_keep_their_own_label_space(sharing):
    spaces = label_spaces(sharing, {"knee": 4, "ankle": 3})
    assert spaces == {"ankle": LabelSpace("ankle", 0, 3, 4), "knee": LabelSpace("knee", 0, 4, 5)}


def test_shared_numbers_the_union_in_the_order_of_site_names():
    """The paper's joints: 3 + 4 + 2 structures and one background."""
    spaces = label_spaces(Sharing.EVERYTHING, {"shoulder": 2, "ankle": 3, "knee": 4})
    assert {space.domain for space in spaces.values()} == {EVERY_SITE}
    assert {space.classes for space in spaces.values()} == {10}
    classes = [
        space.offset + n for site in sorted(spaces) for space in [spaces[site]] for n in range(1, space.structures + 1)
    ]
    assert classes == list(range(1, 10))


def test_a_union_that_a_label_map_cannot_hold_is_refused():
    assert label_spaces(Sharing.EVERYTHING, {"a": 200, "b": 55})["b"].classes == 256
    with pytest.raises(ConfigurationError, match="257 classes"):
        label_spaces(Sharing.EVERYTHING, {"a": 200, "b": 56})


@pytest.mark.parametrize("name", ["a", "knee_2", "a" * 40])
def test_names_that_a_site_can_have(name):
    assert check_site_name(name) == name
    nn.ModuleDict({name: nn.Identity()})  # PyTorch agrees


@pytest.mark.parametrize(
    "name", ["", "2a", "Knee", "a-b", "a.b", "a/b", "..", "a" * 41, "a\n", "é", "keys", "training"]
)
def test_names_that_a_site_cannot_have(name):
    with pytest.raises(ConfigurationError, match="cannot name a site"):
        check_site_name(name)


def test_seeds_are_functions_of_their_words_alone():
    assert derive_seed(0, "batches", "ankle", 3) == 1677700288491170984
    words = [(0, 1), (1, 0), (0, "1", ""), ("01",), (0, 1, 2), ("0", "12")]
    assert len({derive_seed(*each) for each in words}) == len(words)
    assert all(0 <= derive_seed(n) < 2**63 for n in range(100))
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def test_reserved_words_are_all_that_pytorch_keeps() -> None:
    kept = {word for word in {*dir(nn.ModuleDict()), "training"} if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", word)}
    assert kept <= RESERVED
