import json

import pytest

from server.model_choice import VALIDATION_DICE, ModelChoice, Overlooked


def scores(**dice: float) -> dict[str, dict[str, float]]:
    return {site: {VALIDATION_DICE: value, "loss": 9.0} for site, value in dice.items()}


def test_the_best_mean_over_sites_wins_and_among_equals_the_later():
    choice = ModelChoice(apart=False)
    better = [
        choice.note(1, scores(ankle=0.5, knee=0.7)),
        choice.note(2, scores(ankle=0.9, knee=0.2)),
        choice.note(3, scores(ankle=0.7, knee=0.6)),
        choice.note(4, scores(ankle=0.75, knee=0.75)),
        choice.note(5, scores(ankle=0.75, knee=0.75)),
    ]
    assert better == [True, False, True, True, True]
    assert choice.best_round("ankle") == choice.best_round("knee") == choice.best_round("unheard") == 5


def test_a_round_that_more_sites_measured_is_better_whatever_its_mean():
    """A mean without the hardest site would win for ever."""
    choice = ModelChoice(apart=False)
    better = [
        choice.note(1, scores(ankle=0.9)),
        choice.note(2, scores(ankle=0.9, knee=0.3)),
        choice.note(3, scores(ankle=0.95)),
        choice.note(4, scores(ankle=0.8, knee=0.5)),
    ]
    assert better == [True, True, False, True]


def test_once_a_site_is_left_out_later_rounds_are_compared_over_the_others():
    choice = ModelChoice(apart=False)
    choice.note(5, scores(ankle=0.5, knee=0.6, shoulder=0.9))
    assert not choice.note(6, scores(ankle=0.6, knee=0.7))
    choice.left_out = {"shoulder"}
    assert not choice.note(7, scores(ankle=0.5, knee=0.5))
    assert choice.note(8, scores(ankle=0.6, knee=0.6))
    assert choice.best_round("ankle") == 8


def test_a_site_that_comes_back_counts_as_if_it_had_never_been_left_out():
    choice = ModelChoice(apart=False)
    choice.note(1, scores(ankle=0.9, knee=0.9, shoulder=0.9))
    choice.left_out = {"shoulder"}
    assert not choice.note(3, scores(ankle=0.8, knee=0.8))
    choice.left_out = ()
    assert not choice.note(5, scores(ankle=0.3, knee=0.3, shoulder=0.3))
    assert choice.best_round("ankle") == 1


@pytest.mark.parametrize("apart", [True, False])
def test_a_choice_goes_on_from_what_it_was(apart):
    choice, again = ModelChoice(apart), ModelChoice(apart)
    choice.note(4, scores(ankle=0.5, knee=0.7))
    again.load(json.loads(json.dumps(choice.state())))
    assert again.best_round("ankle") == again.best_round("knee") == 4
    assert not again.note(5, scores(ankle=0.4, knee=0.7 if not apart else 0.6))
    assert again.note(6, scores(ankle=0.6, knee=0.7))


def test_a_later_round_that_was_no_worse_at_fewer_sites_is_known_until_a_better_one_comes():
    choice = ModelChoice(apart=False)
    choice.note(1, scores(ankle=0.5, knee=0.6, shoulder=0.9))
    choice.note(2, scores(ankle=0.5, knee=0.5, shoulder=0.8))
    choice.note(3, scores(ankle=0.5, knee=0.5))
    assert choice.overlooked is None
    choice.note(4, scores(ankle=0.6, knee=0.5))
    choice.note(5, scores(ankle=0.4, knee=0.5))
    assert choice.overlooked == Overlooked(4, ("ankle", "knee"))
    choice.note(6, scores(ankle=0.7, knee=0.7, shoulder=0.9))
    assert (choice.overlooked, choice.best_round("ankle")) == (None, 6)
    choice.left_out = {"shoulder"}
    choice.pass_over(7, scores(ankle=0.8, knee=0.8))  # whose parameters were not kept
    assert (choice.overlooked, choice.best_round("ankle")) == (Overlooked(7, ("ankle", "knee")), 6)


def test_sites_apart_have_a_best_round_each():
    choice = ModelChoice(apart=True)
    assert choice.note(1, scores(ankle=0.5, knee=0.7))
    assert choice.note(2, scores(ankle=0.6, knee=0.2))
    assert not choice.note(3, scores(ankle=0.59))
    assert choice.note(4, scores(ankle=0.6))
    assert (choice.best_round("ankle"), choice.best_round("knee"), choice.best_round("hip")) == (4, 1, 0)


@pytest.mark.parametrize("apart", [True, False])
def test_what_says_nothing_changes_nothing(apart):
    choice = ModelChoice(apart)
    assert not choice.note(1, {})
    assert not choice.note(1, {"ankle": {"loss": 0.1}})
    assert not choice.note(0, scores(ankle=0.9))
    assert choice.best_round("ankle") == 0
    assert choice.note(2, scores(ankle=0.0) | {"knee": {"loss": 0.1}})  # a score of 0 is a score
    assert choice.best_round("ankle") == 2
