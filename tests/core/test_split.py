import pytest

from mtmd_core.data.split import leave_one_out
from mtmd_core.errors import ConfigurationError, DataError

EXAMS = ["A1", "A2", "A3", "A4"]


def test_folds_test_and_validate_each_exam_once_and_lose_none():
    splits = [leave_one_out(EXAMS, fold) for fold in range(4)]
    assert [split.test for split in splits] == [(name,) for name in EXAMS]
    assert sorted(split.validation[0] for split in splits) == EXAMS
    for split in splits:
        assert sorted(split.test + split.validation + split.train) == EXAMS
    assert splits[3].as_dict() == {"test": ["A4"], "validation": ["A1"], "train": ["A2", "A3"]}


@pytest.mark.parametrize("fold", [-1, 4])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(ConfigurationError, match="folds 0 to 3"):
        leave_one_out(EXAMS, fold)


def test_two_exams_are_too_few():
    with pytest.raises(DataError, match="at least 3"):
        leave_one_out(EXAMS[:2], 0)
