"""The trainings that a run is made of: the auto-encoder of label maps where the strategy has a prior, then segmentation."""

from dataclasses import dataclass

from mtmd_core.config import AUTOENCODER, NetworkConfig, RunConfig
from mtmd_core.learning_rate import decayed
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import Contrast, strategy_named
from mtmd_core.wire import ContrastPlan


@dataclass(frozen=True)
class Phase:
    """One training: which network, how many rounds, and its contrastive term, if it has one.

    ``part`` names the phase among the run's files and, behind the run's name, to the sites; it is empty for segmentation.
    """

    part: str
    network: NetworkConfig
    rounds: int
    batch_size: int
    batch_word: str
    learning_rate: float
    learning_rate_decay: str
    seed: int
    contrast: ContrastPlan | None

    @property
    def rounds_word(self) -> str:
        """The word of the configuration that says how many rounds there are."""
        return f"federation.{self.part}_rounds" if self.part else "federation.rounds"

    def rate_in_lockstep(self, round_: int) -> float:
        """The learning rate of a round that is one step of training, counted from 1."""
        return decayed(self.learning_rate, self.learning_rate_decay, round_ - 1, self.rounds)

    def run(self, name: str) -> str:
        """What the sites know this training by: each phase is a run of its own to them, with its own rounds and memory."""
        return f"{name}-{self.part}" if self.part else name


def segmentation_phase(config: RunConfig) -> Phase:
    """Eq. 8."""
    contrast = strategy_named(config.strategy).contrast
    weight = config.loss.ssc_weight if contrast is Contrast.SINGLE_SCALE else config.loss.msc_weight
    return Phase(
        part="",
        network=config.network,
        rounds=config.federation.rounds,
        batch_size=config.training.batch_size,
        batch_word="training.batch_size",
        learning_rate=config.training.learning_rate,
        learning_rate_decay=config.training.learning_rate_decay,
        seed=config.seed,
        contrast=_contrast_plan(config, contrast, weight),
    )


def autoencoder_phase(config: RunConfig) -> Phase | None:
    """Eq. 6, with the seeds of a centralised run; None where the strategy has no prior."""
    strategy = strategy_named(config.strategy)
    if not strategy.prior:
        return None
    own = config.autoencoder
    return Phase(
        part=AUTOENCODER,
        network=NetworkConfig(AUTOENCODER, own.width),
        rounds=config.federation.autoencoder_rounds,
        batch_size=own.batch_size,
        batch_word="autoencoder.batch_size",
        learning_rate=own.learning_rate,
        learning_rate_decay=own.learning_rate_decay,
        seed=derive_seed(config.seed, AUTOENCODER),
        contrast=_contrast_plan(config, strategy.autoencoder_contrast, config.loss.autoencoder_msc_weight),
    )


def _contrast_plan(config: RunConfig, contrast: Contrast, weight: float) -> ContrastPlan | None:
    if contrast is Contrast.NONE:
        return None
    words = config.prototypes
    return ContrastPlan(
        weight=weight,
        temperature=config.loss.temperature,
        single_scale=contrast is Contrast.SINGLE_SCALE,
        first_order=words.order == "first",
        own_batch=words.own_batch,
        by_size=words.by_size,
        minimum_exams=words.minimum_exams,
        minimum_slices=words.minimum_slices,
        slices_per_exam=words.slices_per_exam or 0,
        full_pass_steps=words.full_pass_steps,
        noise_multiplier=float(words.noise_multiplier),
    )
