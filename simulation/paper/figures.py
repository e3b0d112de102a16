"""Reads the paper's figures (:mod:`simulation.paper`)."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mtmd_core.config import NO_WEIGHTS

DOMAINS = {"ankle": 4, "knee": 5, "shoulder": 3}
"""The paper's joints and their classes, background included (section 3.1)."""

Figures = dict[str, float | None]
"""Column → figure; None where the paper has none."""


@dataclass(frozen=True)
class Design:
    """A row of Table 1."""

    pretrained: bool
    attention_gates: bool
    batch_size: int
    epochs: int
    learning_rate: float
    parameters: Figures  # strategy → trainable parameters in all; individual: K times those of one network


@cache
def designs() -> dict[str, Design]:
    """Network → its row of Table 1.

    >>> designs()["dense_unet"].parameters["dsl"]
    23600000.0
    """
    return {
        row["network"]: Design(
            pretrained=bool(row["pretrained_encoder"]),
            attention_gates=row["attention_gates"] == "yes",
            batch_size=int(row["batch_size"]),
            epochs=int(row["epochs"]),
            learning_rate=float(row["learning_rate"]),
            parameters={
                "individual": _millions(row["individual"], len(DOMAINS)),
                "shared": _millions(row["shared"]),
                "dsl": _millions(row["dsl"]),
            },
        )
        for row in _rows("table_1.csv")
    }


@cache
def scores_3d() -> dict[tuple[str, str, str], Figures]:
    """(backbone, joint, strategy) → column of Tables 2 and 3 → figure.

    >>> scores_3d()["att_unet", "knee", "dsl_msc_mjap"]["dice_mean"]
    94.3
    """
    return {
        (row["backbone"], row["joint"], row["strategy"]): _figures(row, skip=("table", "backbone", "joint", "strategy"))
        for row in _rows("tables_2_3.csv")
    }


@cache
def scores_2d() -> dict[tuple[str, str], Figures]:
    """(backbone, strategy) → column of Table 4 → figure.

    >>> scores_2d()["efficient_unet", "individual"]["spec_p"]
    0.12
    """
    return {
        (row["backbone"], row["strategy"]): _figures(row, skip=("backbone", "strategy")) for row in _rows("table_4.csv")
    }


@cache
def similarity_limits() -> dict[tuple[str, str, str], Figures]:
    """(strategy, scale, "within" or "between" domains) → what section 5.2 says of Table 5's cosine similarities with Att-UNet:
    ``mean_above``, ``mean_below``, ``std_above``.

    The text names no strategy's single cells; of dsl_ssc it says that s5 alone is disentangled, without a figure.

    >>> similarity_limits()["dsl_msc", "s9", "between"]
    {'mean_above': 0.39, 'mean_below': 0.47, 'std_above': None}
    """
    return {
        (row["strategy"], row["scale"], row["domains"]): _figures(row, skip=("strategy", "scale", "domains"))
        for row in _rows("table_5_limits.csv")
    }


def like_with_like(network: str, encoder_weights: str) -> bool:
    """Whether the paper trained a network from the same kind of encoder: pre-trained, or drawn at random ("none")."""
    return network in designs() and designs()[network].pretrained == (encoder_weights != NO_WEIGHTS)


def _rows(name: str) -> list[dict[str, str]]:
    with (files(__package__) / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _figures(row: dict[str, str], skip: tuple[str, ...]) -> Figures:
    return {column: float(text) if text else None for column, text in row.items() if column not in skip}


def _millions(text: str, networks: int = 1) -> float | None:
    return round(float(text) * 1e6) * float(networks) if text else None
