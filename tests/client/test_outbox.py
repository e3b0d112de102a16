import json

import numpy as np
import pytest
import torch
from records import arrays_in
from torch.nn import functional as F

from client.ledger import Ledger, verify
from client.outbox import ForbiddenError, Outbox
from mtmd_core.durable import read_json_lines
from mtmd_core.evaluation import SiteScores
from mtmd_core.minimum import LOCAL, MINIMUM, Minimum
from mtmd_core.networks.att_unet import AttUNet
from mtmd_core.parameters import partition, take
from mtmd_core.prototype_arrays import to_arrays
from mtmd_core.prototype_summary import summarise
from mtmd_core.scores import METRICS_2D, METRICS_3D, Scores, SliceScores, summarise_site
from mtmd_core.strategies import Sharing
from mtmd_core.update_encoding import encode_update
from mtmd_core.wire import (
    GRADIENT,
    PROTOCOL,
    SHARED,
    UPDATE,
    Contribution,
    Receipt,
    SiteFacts,
    from_record,
)

RECEIPT = Receipt("abc", 3, "ankle")
NETWORK = AttUNet({"ankle": 3}, width=4)
PARTITION = partition(NETWORK, Sharing.CONVOLUTIONS)
COUNTS = {"steps": 20, "training_slices": 300, "seconds_training": 1.5, "seconds_evaluation": 0.5}
MEANS = {"loss": 0.1, "loss/contrast": -0.2, "gradient_norm/prior": 0.3} | {
    "validation/foreground_mean/dice": 0.9,
    "test/foreground_mean/dice_2d": 0.8,
}
STRUCTURES = {"test/mean/structure_1/dice": 0.9, "test/mean/structure_12/assd_mm": 1.0}
NAMED = [
    "test/mean/talus/dice",
    "test/mean/structure_talus/dice",
    "test/mean/structure_1/talus",
    "test/mean/structure_1/dice/talus",
    "test/foreground_mean/talus",
    "test/foreground_mean/exam_7",
    "validation/mean/structure_1/dice",
    "test/metric_per_case/exam_7/dice",
    "test/exam_7/dice",
    "talus/steps",
    "steps_talus",
    "loss\n",
    "loss/talus",
    "gradient_norm",
    "gradient_norm/exam_7",
    "",
]


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


def noted(ledger: Ledger) -> list[str]:
    if not ledger.path.exists():
        return []
    return [f"{line['record']}/{line['name']}" for line in map(json.loads, ledger.path.read_text().splitlines())]


@pytest.mark.parametrize(
    ("release", "allowed"),
    [("none", COUNTS), ("mean", COUNTS | MEANS), ("structure", COUNTS | MEANS | STRUCTURES)],
)
def test_metrics_leave_at_the_level_that_the_site_allows(ledger, release, allowed):
    content = Outbox(release, ledger).metrics(RECEIPT, COUNTS | MEANS | STRUCTURES | dict.fromkeys(NAMED, 1.0))
    assert set(content) == {"receipt", "metrics"}
    assert dict(content["metrics"]) == allowed
    assert from_record(Receipt, content["receipt"]) == RECEIPT
    assert noted(ledger) == [f"metrics/{name}" for name in allowed]


def test_every_score_can_leave_but_no_name_of_an_exam_or_a_structure():
    """From the scores of an exam to the message: nothing private is in any name."""
    slices = SliceScores(np.arange(2), *np.full((3, 2), 0.5))
    summary = summarise_site({"doe_jane": [Scores(*[0.5] * 6)] * 2}, ("talus", "dice"), {"doe_jane": slices})
    content = Outbox("structure").metrics(RECEIPT, SiteScores(summary).metrics("test"))
    expected = {f"test/foreground_mean/{metric}" for metric in (*METRICS_3D, *METRICS_2D)}
    expected |= {f"test/mean/structure_{n}/{metric}" for n in (1, 2) for metric in METRICS_3D}
    assert set(content["metrics"]) == expected


def test_shared_parameters_leave_as_they_are_and_are_noted_first(ledger):
    shared = take(NETWORK, PARTITION.shared)
    content = Outbox("mean", ledger).trained(RECEIPT, {"loss": 0.1}, Contribution(SHARED, shared), PARTITION)
    assert set(content) == {"receipt", "metrics", "shared"}
    left = arrays_in(content["shared"])
    assert left.keys() == set(PARTITION.shared)
    for name, array in left.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, shared[name])
    assert noted(ledger) == ["metrics/loss", *(f"shared/{name}" for name in PARTITION.shared)]
    assert verify(ledger.path) == 1 + len(PARTITION.shared)


@pytest.mark.parametrize("record", [SHARED, UPDATE, GRADIENT])
@pytest.mark.parametrize("name", PARTITION.private)
def test_a_private_parameter_stops_the_whole_reply(name, record, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    arrays = take(NETWORK, (*PARTITION.shared, name))
    with pytest.raises(ForbiddenError, match=f"'{name}' is private and must not leave"):
        Outbox("structure", ledger).trained(RECEIPT, COUNTS, Contribution(record, arrays), PARTITION)
    assert noted(ledger) == []


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_an_encoded_update_leaves_and_is_noted_by_its_values(ledger, encoding):
    update = take(NETWORK, PARTITION.shared)
    sent = encode_update(update, encoding)
    content = Outbox("none", ledger).trained(RECEIPT, {}, Contribution(UPDATE, sent), PARTITION)
    assert set(content) == {"receipt", "metrics", "update"}
    left = arrays_in(content["update"])
    assert left.keys() == sent.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, sent[name])
    lines = {line["name"]: line for line in map(json.loads, ledger.path.read_text().splitlines())}
    assert lines.keys() == sent.keys()
    name = next(name for name in update if update[name].ndim > 1)
    assert (lines[name]["dtype"], lines[name]["bytes"]) == (encoding, sent[name].nbytes)
    if encoding == "bfloat16":
        assert lines[name]["norm"] == pytest.approx(np.linalg.norm(update[name]), rel=1e-2)


def test_scales_of_a_private_parameter_are_private():
    name = PARTITION.private[0]
    with pytest.raises(ForbiddenError, match=f"'{name}' is private"):
        Outbox("none").trained(RECEIPT, {}, Contribution(UPDATE, {f"{name}/scale": np.ones(1)}), PARTITION)


def test_a_name_that_the_network_does_not_have_is_forbidden_too():
    with pytest.raises(ForbiddenError, match="'extra'"):
        Outbox("structure").trained(RECEIPT, {}, Contribution(SHARED, {"extra": np.zeros(1)}), PARTITION)


def test_where_nothing_is_shared_no_parameter_leaves():
    alone = partition(NETWORK, Sharing.NOTHING)
    assert arrays_in(Outbox("none").trained(RECEIPT, {}, Contribution(SHARED, {}), alone)["shared"]) == {}
    with pytest.raises(ForbiddenError):
        Outbox("none").trained(RECEIPT, {}, Contribution(SHARED, take(NETWORK, PARTITION.shared[:1])), alone)


def test_facts_are_a_name_and_a_number(ledger):
    content = Outbox("none", ledger).facts(SiteFacts("ankle", 3))
    assert dict(content["facts"]) == {"site": "ankle", "structures": 3, "protocol": PROTOCOL}
    assert noted(ledger) == ["facts/site", "facts/structures", "facts/protocol"]


def prototypes(count: int = 60) -> dict[str, np.ndarray]:
    random = torch.Generator().manual_seed(0)
    scales = [F.normalize(1 + torch.randn(count, size, generator=random), dim=1) for size in (4, 16)]
    return to_arrays([summarise(scale, torch.arange(count) % 4, minimum=LOCAL) for scale in scales])


def test_prototypes_leave_as_they_are_and_are_noted_first(ledger):
    content = Outbox("mean", ledger).trained(RECEIPT, {}, Contribution("shared", {}), PARTITION, prototypes())
    assert set(content) == {"receipt", "metrics", "shared", "prototypes"}
    left = arrays_in(content["prototypes"])
    assert left.keys() == prototypes().keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, prototypes()[name])
    assert noted(ledger) == [f"prototypes/{name}" for name in prototypes()]
    assert "prototypes" not in Outbox("mean").trained(RECEIPT, {}, Contribution("shared", {}), PARTITION)


@pytest.mark.parametrize(
    ("arrays", "minimum", "reason"),
    [
        (prototypes(49), MINIMUM, "4 exams with 49 slices must not leave; 3 and 50 are the least"),
        (prototypes(), Minimum(5, 50), "4 exams with 60 slices must not leave; 5 and 50"),
        (prototypes(), Minimum(3, 61), "3 and 61 are the least"),
        (prototypes() | {"counts": np.float32([np.nan, 4, 60])}, MINIMUM, "must not leave"),
        (prototypes() | {"s1/embeddings": np.zeros((60, 4), np.float32)}, MINIMUM, "unknown s1/embeddings"),
        (prototypes() | {"s2/mean": np.zeros((60, 16), np.float32)}, MINIMUM, "is not"),
        ({}, MINIMUM, "missing counts"),
    ],
)
def test_what_tells_too_much_of_few_children_does_not_leave(arrays, minimum, reason, ledger):
    with pytest.raises(ForbiddenError, match=reason):
        Outbox("structure", ledger, minimum).trained(RECEIPT, COUNTS, Contribution("shared", {}), PARTITION, arrays)
    assert noted(ledger) == []


def test_the_word_of_a_failure_is_noted_and_leaves_from_a_full_disk_too(ledger, caplog):
    outbox = Outbox("none", ledger)
    outbox.note_failure("plan_refused", "run_1", 3)
    (line,) = read_json_lines(ledger.path)
    assert (line["record"], line["run"], line["round"], line["value"]) == ("failure", "run_1", 3, "plan_refused")
    ledger.path.unlink()
    ledger.path.mkdir()  # as good as a disk that takes nothing
    outbox.note_failure("disk", "", 0)
    assert "without a line in the ledger" in caplog.text
