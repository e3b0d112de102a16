"""What a coordinator could ask of a tiny site."""

from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import ContrastPlan, PriorPlan, RoundPlan

PLAN = RoundPlan(
    run="run",
    round=1,
    strategy="dsl",
    network="att_unet",
    width=4,
    encoder_weights="none",
    slice_size=16,
    slice_axis="auto",
    fold=0,
    seed=0,
    local_steps=1,
    share=2,
    learning_rate=1e-3,
    augment=True,
    autocast=False,
    calibration_batches=1,
    validate=False,
    test=False,
    best_round=0,
    label_offset=0,
    label_classes=0,
)
CONTRAST = ContrastPlan(0.5, 0.1, False, False, False, False, 3, 50, 0, 100, 0.0)
PRIOR = PriorPlan(0.1, "run-autoencoder", 2, 4, 2, 0)


def shared() -> dict:
    """The shared parameters that come with it."""
    network = build_network(NetworkConfig(width=4), {}, seed=0)
    return take(network, partition(network, Sharing.CONVOLUTIONS).shared)
