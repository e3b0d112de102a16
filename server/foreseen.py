"""What a coordinator asks for and hospitals will refuse, said before they do."""

from collections.abc import Iterator

from mtmd_core.config import RunConfig
from mtmd_core.federation_checks import share_of_batch
from mtmd_core.minimum import MINIMUM
from mtmd_core.round_slices import Rounds
from mtmd_core.strategies import Sharing, strategy_named


def updates_of_few_slices(config: RunConfig) -> Iterator[str]:
    """A line for each training of a run that sites refuse by default, for updates of it are made of few slices.

    Nothing is said where rounds are counted in epochs, whose steps sites alone know.

    Raises:
        ConfigurationError: if a batch cannot be split between the sites.
    """
    federation, strategy = config.federation, strategy_named(config.strategy)
    sites = federation.expected_sites or len(federation.site_names)
    if strategy.sharing is Sharing.NOTHING or federation.local_epochs is not None or sites == 0:
        return
    trainings = [("training", config.training, federation.rounds)]
    if strategy.prior:
        trainings.insert(0, ("autoencoder", config.autoencoder, federation.autoencoder_rounds))
    for part, own, count in trainings:
        share = share_of_batch(own.batch_size, sites, f"{part}.batch_size")
        rounds = Rounds(count, own.learning_rate, own.learning_rate_decay, federation.proximal_mu)
        behind, round_ = rounds.fewest_behind(1, federation.local_steps, share)
        if behind < MINIMUM.slices:
            yield (
                f"sites will refuse to train, unless their limits.min_round_slices is less than the usual {MINIMUM.slices}: "
                f"federation.local_steps={federation.local_steps} of {share} slices, each as far as "
                f"{part}.learning_rate_decay={own.learning_rate_decay} and federation.proximal_mu={federation.proximal_mu:g} let "
                f"it count, come to {behind:.4g} slices in round {round_} of {count}; give more of federation.local_steps or "
                f"{part}.batch_size"
            )
