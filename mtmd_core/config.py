"""The configuration of a run: its schema.

One word names one thing from YAML key over dataclass field to argument. What values make sense is said in
:mod:`mtmd_core.config_checks`; how a configuration is composed, saved and read, in :mod:`mtmd_core.config_files`.
"""

from dataclasses import dataclass, field
from typing import Any

from mtmd_core.minimum import MINIMUM

MODES = ("centralised", "federated")
OPTIMISERS = ("adam", "sgd")
DECAYS = ("none", "linear")
SERVER_OPTIMISERS = {
    "fedavg": ("learning_rate",),
    "fedavgm": ("learning_rate", "momentum"),
    "fedadam": ("learning_rate", "beta1", "beta2", "epsilon"),
    "fedadagrad": ("learning_rate", "epsilon"),
}
"""Server optimiser → the words that it knows."""
SITE_WEIGHTS = ("equal", "slices")
UPDATE_ENCODINGS = ("float32", "bfloat16", "int8")
DTYPES = ("float32", "float64")
SLICE_AXES = ("auto", "0", "1", "2")
STRIDES = {"att_unet": 16, "inception_unet": 32, "dense_unet": 32, "efficient_unet": 32}
"""Network → what a slice's size must be a multiple of."""
NETWORKS = tuple(STRIDES)
AUTOENCODER = "autoencoder"
"""Name of the network of label maps behind the anatomical prior."""
AUTOENCODER_STRIDE = 16
"""How many times larger its slices are than its code."""
ORDERS = ("second", "first")
LADDER_VARIANTS = ("int8", "first_order", "own_batch", "noised", "lockstep")
"""What ``experiment=ladder`` changes in one federation each: how updates travel, one word of ``prototypes``, or that sites send
gradients."""
NO_WEIGHTS = "none"
IMAGENET = "imagenet"
WEIGHT_FILES = (".pth", ".safetensors")
EXPERIMENTS = (
    "demo",
    "external",
    "ladder",
    "lockstep",
    "msc_fidelity",
    "phantoms",
    "privacy",
    "study",
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "figures",
)


@dataclass
class NetworkConfig:
    """Which network, how wide, and where its encoder's first weights come from.

    ``width`` is the number of channels at full resolution (32 in the paper) of Att-UNet; the others' are fixed.
    ``encoder_weights`` is ``imagenet``, ``none``, or a file with the state of timm's classifier, .pth or .safetensors.
    """

    name: str = "att_unet"
    width: int = 32
    encoder_weights: str = NO_WEIGHTS


@dataclass
class DataConfig:
    """How exams become slices, and which exams a fold holds back.

    ``slice_axis`` is ``auto`` (coarsest spacing, ties broken by fewest slices) or 0, 1, 2 in canonical orientation. Cut
    exams are read from the cache as they are needed, or once and for all where ``in_memory`` is set.
    """

    slice_size: int = 256
    slice_axis: str = "auto"
    in_memory: bool = False
    cache_dir: str = "${oc.env:XDG_CACHE_HOME,${oc.env:HOME}/.cache}/mtmd/slices"


@dataclass
class TrainingConfig:
    """One optimisation. ``steps`` overrides ``epochs``; the batch is the total over all domains.

    ``learning_rate_decay`` is ``none`` (the paper) or ``linear``: the rate falls to 0 in equal parts over all steps.

    ``optimiser`` is ``adam`` (the paper) or ``sgd`` (plain, no momentum). ``dtype`` is that of parameters and of all that is
    computed: ``float64`` takes twice the time and memory and shows what is rounding.

    ``channels_last``, ``autocast`` (bfloat16) and ``compile`` trade memory layout, precision and a slow start for speed, the last
    on pooled data alone;
    ``deterministic`` makes CUDA repeat itself bit for bit, at some cost (on the CPU it always does).
    """

    batch_size: int = 18
    epochs: int = 6
    steps: int | None = None
    learning_rate: float = 5e-4
    learning_rate_decay: str = "none"
    optimiser: str = "adam"
    dtype: str = "float32"
    augment: bool = True
    autocast: bool = False
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    validate_every_steps: int = 200


@dataclass
class LossConfig:
    """Temperature of Eq. 5 and the weights of the terms beside cross-entropy; the strategy decides which terms there are.

    ``autoencoder_msc_weight`` is λ1 of Eq. 6; ``msc_weight``, or ``ssc_weight`` for the single scale, is λ2 and
    ``prior_weight`` λ3 of Eq. 8.
    """

    temperature: float = 0.1
    autoencoder_msc_weight: float = 0.05
    msc_weight: float = 0.5
    ssc_weight: float = 0.1
    prior_weight: float = 0.1


@dataclass
class AutoencoderConfig:
    """The auto-encoder of label maps behind the anatomical prior. ``model``: a trained one, instead of training one first."""

    width: int = 32
    batch_size: int = 24
    epochs: int = 8
    steps: int | None = None
    learning_rate: float = 1e-4
    learning_rate_decay: str = "none"
    model: str | None = None


@dataclass
class ServerOptimiserConfig:
    """What the server makes of the averaged update (Reddi et al. 2021, Algorithms 1 and 2).

    ``name``: ``fedavg`` (gradient descent, at rate 1 the plain average), ``fedavgm`` (with ``momentum``), ``fedadam`` (``beta1``,
    ``beta2``, ``epsilon``) or ``fedadagrad`` (``epsilon``). What is not given is the optimiser's own:
    :data:`server.server_optimiser.DEFAULTS`.
    """

    name: str = "fedavg"
    learning_rate: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None


@dataclass
class FederationConfig:
    """Rounds, local work, aggregation and patience.

    A site trains for ``local_steps`` a round, or for ``local_epochs`` passes over its own slices where these are given; with
    ``proximal_mu`` above 0 its shared parameters are held near those it received (FedProx). ``participation`` is the share of
    sites that train in a round. Sites weigh alike or by their training slices (``site_weights``). ``update_encoding`` says in
    how many bits an update travels (:mod:`mtmd_core.update_encoding`). ``lockstep``: one step a round, sites return gradients,
    the server holds the optimiser of what is shared, so that the federation is centralised training, evaluated as that is.

    Strategies with an anatomical prior federate their auto-encoder first, for ``autoencoder_rounds`` of the same kind.
    Before a received model is evaluated, a site measures its running statistics anew over ``calibration_batches`` batches
    (:mod:`mtmd_core.calibration`; not in lock-step). ``expected_sites`` sites must be there before the first round starts; a
    round closes on ``quorum`` replies (all of them when not given) once ``round_timeout_seconds`` have passed, and a run stops
    that has fewer sites left. A site that was refused ``refusals_before_set_aside`` times in a row is asked no more until it is
    readmitted, one that is revoked until it is admitted again; an update of more than ``outlying_norm_factor`` times the usual
    norm is refused (:mod:`server.update_norms`; no limit when not given).
    """

    rounds: int = 10
    autoencoder_rounds: int = 10
    local_steps: int = 20
    local_epochs: int | None = None
    proximal_mu: float = 0.0
    participation: float = 1.0
    site_weights: str = "equal"
    server_optimiser: ServerOptimiserConfig = field(default_factory=ServerOptimiserConfig)
    update_encoding: str = "float32"
    lockstep: bool = False
    validate_every_rounds: int = 1
    calibration_batches: int = 16
    expected_sites: int | None = None
    site_names: list[str] = field(default_factory=list)
    quorum: int | None = None
    refusals_before_set_aside: int = 3
    outlying_norm_factor: float | None = 20.0
    join_timeout_seconds: float = 3600.0
    round_timeout_seconds: float = 86400.0
    release: str = "structure"
    ledger: bool = False


@dataclass
class PrototypeConfig:
    """What sites tell each other of their embeddings in a federation with a contrastive term; ``configs/prototypes.yaml``."""

    order: str = "second"
    own_batch: bool = False
    by_size: bool = False
    minimum_exams: int = MINIMUM.exams
    minimum_slices: int = MINIMUM.slices
    slices_per_exam: int | None = None
    maximum_age_rounds: int = 5
    full_pass_steps: int = 100
    noise_multiplier: float = 0.0


@dataclass
class PhantomConfig:
    """The phantom joints that are made where no sites are given: exams a joint, and resolution as a share of the paper's."""

    exams: int = 6
    scale: float = 0.2
    seed: int = 0


@dataclass
class StudyConfig:
    """Several runs that belong together: every network with every strategy in every fold, ``jobs`` at a time.

    Among ``strategies``, ``transfer`` stands for a transfer from every site. ``local_steps`` are those a round that
    ``experiment=ladder`` compares, ``variants`` the federations unlike the others in one word that it adds, ``rungs`` those
    that it makes by name beside local, all of them where it is empty. ``folder`` is that of a study, or of one run, whose
    finished runs ``experiment=figures`` draws and ``experiment=external`` scores, with running statistics measured anew over
    ``calibration_batches`` batches of their own training slices where that is not 0.
    """

    networks: list[str] = field(default_factory=lambda: ["att_unet"])
    strategies: list[str] = field(default_factory=lambda: ["individual", "shared", "dsl"])
    folds: list[int] = field(default_factory=lambda: [0])
    local_steps: list[int] = field(default_factory=lambda: [1, 10, 100])
    variants: list[str] = field(default_factory=lambda: list(LADDER_VARIANTS))
    rungs: list[str] = field(default_factory=list)
    jobs: int = 1
    folder: str | None = None
    calibration_batches: int = 0


@dataclass
class RunConfig:
    """Everything that decides a run's result. ``experiment`` names one of several runs that belong together."""

    experiment: str | None = None
    mode: str = "federated"
    strategy: str = "dsl"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    prototypes: PrototypeConfig = field(default_factory=PrototypeConfig)
    sites: Any = None  # site name → data folder; a typed mapping would refuse new keys from the command line
    phantoms: PhantomConfig = field(default_factory=PhantomConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    fold: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
