"""The paper's figures as data: samples read off its pages, and that the tables are whole."""

import pytest

from simulation.paper.figures import designs, like_with_like, scores_2d, scores_3d, similarity_limits

PRETRAINED = ("inception_unet", "dense_unet", "efficient_unet")


def test_table_1() -> None:
    assert list(designs()) == ["autoencoder", "att_unet", *PRETRAINED]
    inception = designs()["inception_unet"]
    assert (inception.batch_size, inception.epochs, inception.learning_rate) == (18, 6, 5e-4)
    assert inception.parameters == {"individual": 3 * 48.1e6, "shared": 48.1e6, "dsl": 48.3e6}
    assert designs()["autoencoder"].parameters["individual"] is None
    assert [name for name, design in designs().items() if design.pretrained] == list(PRETRAINED)
    assert [name for name, design in designs().items() if not design.attention_gates] == ["autoencoder"]


@pytest.mark.parametrize(
    ("row", "figures"),
    [
        (("att_unet", "ankle", "individual"), (88.2, 1.9, 88.1, 5.4, 99.8, 0.1, 17.9, 10.8, 1.9, 1.1, 14.1, 4.6)),
        (
            ("att_unet", "shoulder", "transfer_knee"),
            (83.3, 10.1, 80.5, 12.5, 99.9, 0.1, 24.0, 14.3, 2.1, 2.4, 13.7, 13.2),
        ),
        (("dense_unet", "knee", "shared_mjap"), (95.1, 1.6, 94.9, 2.4, 99.9, 0.1, 4.6, 1.8, 0.5, 0.2, 4.5, 3.2)),
        (
            ("efficient_unet", "shoulder", "dsl_msc_mjap"),
            (87.9, 3.8, 87.4, 4.8, 99.9, 0.1, 15.6, 5.5, 1.0, 0.5, 7.3, 5.0),
        ),
    ],
)
def test_rows_of_tables_2_and_3(row: tuple[str, str, str], figures: tuple[float, ...]) -> None:
    assert tuple(scores_3d()[row].values()) == figures


def test_tables_2_and_3_are_whole() -> None:
    """Ten of Att-UNet's eleven strategies, a transfer from the joint itself being none, and three of the others'."""
    counts: dict[tuple[str, str], int] = {}
    for backbone, joint, strategy in scores_3d():
        assert strategy != f"transfer_{joint}"
        counts[backbone, joint] = counts.get((backbone, joint), 0) + 1
    joints = ("ankle", "knee", "shoulder")
    assert counts == {(backbone, joint): 3 for backbone in PRETRAINED for joint in joints} | {
        ("att_unet", joint): 10 for joint in joints
    }
    assert all(value is not None for figures in scores_3d().values() for value in figures.values())


def test_table_4() -> None:
    assert len(scores_2d()) == 11 + 3 * 3
    assert tuple(scores_2d()["att_unet", "shared"].values()) == (
        *(83.6, 14.3, 15.0, 3.2e-55),
        *(83.3, 15.1, 15.9, 1.8e-71),
        *(99.9, 0.1, 0.1, 1.9e-14),
    )
    without_p = [row for row, figures in scores_2d().items() if figures["dice_p"] is None]
    assert without_p == [(backbone, "dsl_msc_mjap") for backbone in ("att_unet", *PRETRAINED)]


@pytest.mark.parametrize(
    ("network", "weights", "alike"),
    [
        ("att_unet", "none", True),
        ("att_unet", "imagenet", False),
        ("dense_unet", "none", False),
        ("dense_unet", "imagenet", True),
        ("another_net", "none", False),
    ],
)
def test_like_is_shown_with_like(network: str, weights: str, alike: bool) -> None:
    assert like_with_like(network, weights) is alike


def test_what_the_paper_says_of_table_5() -> None:
    limits = similarity_limits()
    assert {key[0] for key in limits} == {"shared", "dsl_msc"}
    assert {key[1] for key in limits} == {"s1", "s5", "s9"}
    assert {tuple(limits["shared", scale, "between"].values()) for scale in ("s1", "s5", "s9")} == {(0.58, None, 0.06)}
    assert ("shared", "s1", "within") not in limits
    assert {tuple(limits["dsl_msc", scale, "within"].values()) for scale in ("s1", "s5", "s9")} == {(0.98, None, None)}
