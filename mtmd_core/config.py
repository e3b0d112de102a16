"""The configuration of a run: its schema, its composition from YAML and overrides, and its checks.

One word names one thing from YAML key over dataclass field to argument. YAML lives in the ``configs`` package and is
composed by Hydra; a word that the schema does not know is an error that names the nearest one that it does.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.prototypes import MINIMUM
from mtmd_core.sites import check_site_name
from mtmd_core.strategies import FEDERATED_STRATEGIES, TRANSFERS, Sharing, strategy_named
from mtmd_core.words import DEVICES, RELEASES, nearest

MODES = ("centralised", "federated")
OPTIMISERS = ("adam", "sgd")
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
ORDERS = ("second", "first")
NO_WEIGHTS = "none"
IMAGENET = "imagenet"
WEIGHT_FILES = (".pth", ".safetensors")
EXPERIMENTS = ("demo", "lockstep", "msc_fidelity", "phantoms", "study", "table1", "table2", "table3", "table4")


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

    ``optimiser`` is ``adam`` (the paper) or ``sgd`` (plain, no momentum). ``dtype`` is that of parameters and of all that is
    computed: ``float64`` takes twice the time and memory and shows what is rounding.

    ``channels_last``, ``autocast`` (bfloat16) and ``compile`` trade memory layout, precision and a slow start for speed;
    ``deterministic`` makes CUDA repeat itself bit for bit, at some cost (on the CPU it always does).
    """

    batch_size: int = 18
    epochs: int = 6
    steps: int | None = None
    learning_rate: float = 5e-4
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
    the server holds the optimiser of what is shared, so that the federation is centralised training.

    Strategies with an anatomical prior federate their auto-encoder first, for ``autoencoder_rounds`` of the same kind.
    Before a received model is evaluated, a site measures its running statistics anew over ``calibration_batches`` batches
    (:mod:`mtmd_core.calibration`). ``expected_sites`` sites must be there before the first round starts; a round closes on
    ``quorum`` replies (all of them when not given) once ``round_timeout_seconds`` have passed.
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


@dataclass
class PhantomConfig:
    """The phantom joints that are made where no sites are given: exams a joint, and resolution as a share of the paper's."""

    exams: int = 6
    scale: float = 0.2
    seed: int = 0


@dataclass
class StudyConfig:
    """Several runs that belong together: every network with every strategy in every fold, ``jobs`` at a time.

    Among ``strategies``, ``transfer`` stands for a transfer from every site.
    """

    networks: list[str] = field(default_factory=lambda: ["att_unet"])
    strategies: list[str] = field(default_factory=lambda: ["individual", "shared", "dsl"])
    folds: list[int] = field(default_factory=lambda: [0])
    jobs: int = 1


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


ConfigStore.instance().store(name="run_schema", node=RunConfig)


def compose(config_name: str, overrides: Sequence[str]) -> RunConfig:
    """Compose ``configs/<config_name>.yaml`` with overrides such as ``federation.rounds=20``.

    Raises:
        ConfigurationError: for a word, a choice or a value that the schema does not know; the text names the nearest
            right one.
    """
    _check_words(overrides)
    try:
        with _own_hydra():
            composed = hydra_compose(config_name, overrides=list(overrides))
        return checked(OmegaConf.to_object(composed))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_readable(error, overrides)) from None


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra, whose state is global, for one composition, even while it runs the command that asks for it."""
    around = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = around


def checked(config: RunConfig) -> RunConfig:
    """Return ``config`` if its values make sense together.

    Raises:
        ConfigurationError: naming the word, what was given and what is possible.
    """
    _one_of("mode", config.mode, MODES)
    strategy_named(config.strategy)
    _one_of("network.name", config.network.name, NETWORKS)
    _one_of("training.optimiser", config.training.optimiser, OPTIMISERS)
    _one_of("training.dtype", config.training.dtype, DTYPES)
    _one_of("device", config.device, DEVICES)
    _one_of("data.slice_axis", config.data.slice_axis, SLICE_AXES)
    _one_of("federation.release", config.federation.release, RELEASES)
    _one_of("prototypes.order", config.prototypes.order, ORDERS)
    _one_of("federation.site_weights", config.federation.site_weights, SITE_WEIGHTS)
    _one_of("federation.update_encoding", config.federation.update_encoding, UPDATE_ENCODINGS)
    for word, value, least in (
        ("network.width", config.network.width, 4),
        ("data.slice_size", config.data.slice_size, 16),
        ("training.batch_size", config.training.batch_size, 1),
        ("training.epochs", config.training.epochs, 1),
        ("training.steps", config.training.steps, 1),
        ("training.validate_every_steps", config.training.validate_every_steps, 1),
        ("federation.rounds", config.federation.rounds, 1),
        ("federation.autoencoder_rounds", config.federation.autoencoder_rounds, 1),
        ("prototypes.minimum_exams", config.prototypes.minimum_exams, MINIMUM.exams),
        ("prototypes.minimum_slices", config.prototypes.minimum_slices, MINIMUM.slices),
        ("prototypes.slices_per_exam", config.prototypes.slices_per_exam, 1),
        ("prototypes.maximum_age_rounds", config.prototypes.maximum_age_rounds, 1),
        ("prototypes.full_pass_steps", config.prototypes.full_pass_steps, 1),
        ("federation.local_steps", config.federation.local_steps, 1),
        ("federation.local_epochs", config.federation.local_epochs, 1),
        ("federation.calibration_batches", config.federation.calibration_batches, 0),
        ("federation.validate_every_rounds", config.federation.validate_every_rounds, 1),
        ("federation.expected_sites", config.federation.expected_sites, 1),
        ("federation.quorum", config.federation.quorum, 1),
        ("autoencoder.width", config.autoencoder.width, 4),
        ("autoencoder.batch_size", config.autoencoder.batch_size, 1),
        ("autoencoder.epochs", config.autoencoder.epochs, 1),
        ("autoencoder.steps", config.autoencoder.steps, 1),
        ("study.jobs", config.study.jobs, 1),
        ("phantoms.exams", config.phantoms.exams, 3),
        ("phantoms.seed", config.phantoms.seed, 0),
        ("fold", config.fold, 0),
        ("seed", config.seed, 0),
        ("threads", config.threads, 1),
    ):
        if value is not None and value < least:
            raise ConfigurationError(f"{word} is {value}; it must be at least {least}.")
    for word in ("join_timeout_seconds", "round_timeout_seconds"):
        if not 0 < getattr(config.federation, word) < math.inf:
            raise ConfigurationError(
                f"federation.{word} is {getattr(config.federation, word)}; it must be a finite number of seconds above 0."
            )
    if config.network.width % 2:
        raise ConfigurationError(
            f"network.width is {config.network.width}; attention gates halve it, so it must be even: "
            f"try {config.network.width + 1}."
        )
    for word, rate in (
        ("training.learning_rate", config.training.learning_rate),
        ("autoencoder.learning_rate", config.autoencoder.learning_rate),
    ):
        if not 0 < rate < 1:
            raise ConfigurationError(f"{word} is {rate}; it must lie between 0 and 1 (the paper: 5e-4 or 1e-4).")
    if config.training.autocast and config.training.dtype != DTYPES[0]:
        raise ConfigurationError(
            f"training.autocast computes in bfloat16, training.dtype={config.training.dtype} asks for more: leave one out."
        )
    _check_loss(config.loss)
    _check_study(config.study)
    _check_server_optimiser(config.federation.server_optimiser)
    _check_federation(config)
    if config.mode == "federated" and config.strategy not in FEDERATED_STRATEGIES:
        raise ConfigurationError(
            f"strategy={config.strategy} is for mode=centralised; mode=federated knows {', '.join(FEDERATED_STRATEGIES)}."
        )
    _check_network(config.network, config.data.slice_size)
    if config.mode == "federated" and config.autoencoder.model is not None:
        raise ConfigurationError(
            f"autoencoder.model is '{config.autoencoder.model}', a file of this machine, whose private layers sites do not have; "
            "mode=federated trains the auto-encoder in its own rounds: leave it out."
        )
    if config.mode == "federated" and config.network.encoder_weights not in (IMAGENET, NO_WEIGHTS):
        raise ConfigurationError(
            f"network.encoder_weights is '{config.network.encoder_weights}', a file of this machine, which sites do not have; "
            f"mode=federated takes {IMAGENET}, which every site loads for itself, or {NO_WEIGHTS}."
        )
    config.sites = {} if config.sites is None else config.sites
    if not isinstance(config.sites, dict) or not all(isinstance(folder, str) for folder in config.sites.values()):
        raise ConfigurationError(
            f"sites is {config.sites!r}; it must map site names to data folders: 'sites={{ankle: DIR, knee: DIR}}'."
        )
    for site in (*config.sites, *config.federation.site_names):
        check_site_name(site)
    _check_sites_together(config)
    return config


def _check_loss(loss: LossConfig) -> None:
    if not 0 < loss.temperature < math.inf:
        raise ConfigurationError(f"loss.temperature is {loss.temperature}; it must be above 0 (the paper: 0.1).")
    for entry in fields(loss):
        weight = getattr(loss, entry.name)
        if not 0 <= weight < math.inf:
            raise ConfigurationError(f"loss.{entry.name} is {weight}; it must be a finite number of at least 0.")


def _check_study(study: StudyConfig) -> None:
    """Which runs a study is made of; what each of them can be is checked when it is composed."""
    for word, values in (("networks", study.networks), ("strategies", study.strategies), ("folds", study.folds)):
        if not values:
            raise ConfigurationError(f"study.{word} is empty; it must name one at least.")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ConfigurationError(f"study.{word} names {twice[0]} twice.")
    for network in study.networks:
        _one_of("study.networks", network, NETWORKS)
    for strategy in study.strategies:
        if strategy != TRANSFERS:
            strategy_named(strategy)
    if min(study.folds) < 0:
        raise ConfigurationError(f"study.folds has {min(study.folds)}; folds are counted from 0.")


def _check_server_optimiser(optimiser: ServerOptimiserConfig) -> None:
    word = "federation.server_optimiser"
    _one_of(f"{word}.name", optimiser.name, tuple(SERVER_OPTIMISERS))
    known = SERVER_OPTIMISERS[optimiser.name]
    for entry in fields(optimiser):
        value = getattr(optimiser, entry.name)
        if entry.name == "name" or value is None:
            continue
        if entry.name not in known:
            others = [name for name, words in SERVER_OPTIMISERS.items() if entry.name in words]
            raise ConfigurationError(
                f"{word}.{entry.name} is {value}, but {optimiser.name} has none; {' and '.join(others)} "
                f"{'have' if len(others) > 1 else 'has'} one: leave it out or choose another {word}.name."
            )
        if entry.name in ("learning_rate", "epsilon"):
            if not 0 < value < math.inf:
                raise ConfigurationError(f"{word}.{entry.name} is {value}; it must be a finite number above 0.")
        elif not 0 <= value < 1:
            raise ConfigurationError(f"{word}.{entry.name} is {value}; it must be at least 0 and below 1.")


def _check_federation(config: RunConfig) -> None:
    """Whether the words of the federation's algorithm make sense together."""
    federation = config.federation
    if not 0 <= federation.proximal_mu < math.inf:
        raise ConfigurationError(
            f"federation.proximal_mu is {federation.proximal_mu}; it must be a finite number of at least 0."
        )
    if not 0 < federation.participation <= 1:
        raise ConfigurationError(
            f"federation.participation is {federation.participation}; it is the fraction of sites that train in a round, "
            "so it must be above 0 and at most 1."
        )
    if federation.proximal_mu and federation.local_steps == 1 and federation.local_epochs is None:
        raise ConfigurationError(
            f"federation.proximal_mu is {federation.proximal_mu}, but with federation.local_steps=1 it changes nothing: its "
            "gradient is zero where a round begins. Give more local steps, or leave it out."
        )
    if federation.update_encoding != UPDATE_ENCODINGS[0] and config.training.dtype != DTYPES[0]:
        raise ConfigurationError(
            f"training.dtype={config.training.dtype} asks for every bit and federation.update_encoding="
            f"{federation.update_encoding} drops most of them: leave one out."
        )
    choices = _federated_choices(federation)
    if config.mode == "federated" and config.strategy == "individual" and choices:
        raise ConfigurationError(
            f"{next(iter(choices))} is given, but strategy=individual shares nothing, so that there is nothing to aggregate "
            "or send: leave it out."
        )
    if federation.lockstep:
        _check_lockstep(config, choices)


def _federated_choices(federation: FederationConfig) -> dict[str, object]:
    """What was chosen about aggregation: those words that differ from plain averaging of all sites."""
    plain, word = FederationConfig(), "federation.server_optimiser"
    given = {
        f"federation.{name}": getattr(federation, name)
        for name in ("proximal_mu", "participation", "site_weights", "update_encoding", "lockstep")
        if getattr(federation, name) != getattr(plain, name)
    }
    own = federation.server_optimiser
    changed = [
        entry.name for entry in fields(own) if getattr(own, entry.name) != getattr(plain.server_optimiser, entry.name)
    ]
    return given | {f"{word}.{name}": getattr(own, name) for name in changed}


def _check_lockstep(config: RunConfig, choices: dict[str, object]) -> None:
    """Lock-step is centralised training in another place: what would make it anything else is an error."""
    if config.federation.local_steps != 1 or config.federation.local_epochs is not None:
        raise ConfigurationError(
            "federation.lockstep=true takes one step a round, as pooled training does between two updates: give "
            "federation.local_steps=1 and no federation.local_epochs."
        )
    others = [word for word in choices if word != "federation.lockstep"]
    if others:
        raise ConfigurationError(
            f"federation.lockstep=true averages every site's gradient, all of its bits, and applies training.optimiser to it; "
            f"{others[0]}={choices[others[0]]} would make that another training: leave one out."
        )
    if strategy_named(config.strategy).sharing is Sharing.EVERYTHING:
        raise ConfigurationError(
            f"federation.lockstep=true cannot reproduce strategy={config.strategy} on pooled data, whose one normalisation sees "
            "all sites' slices at once, which no site can: use a dsl strategy."
        )


def _check_network(network: NetworkConfig, slice_size: int) -> None:
    stride = STRIDES[network.name]
    if slice_size % stride:
        lower = slice_size // stride * stride
        nearest_sizes = f"the nearest are {lower} and {lower + stride}" if lower else f"the nearest is {stride}"
        raise ConfigurationError(
            f"data.slice_size is {slice_size}; {network.name} halves a slice {stride.bit_length() - 1} times, so it must "
            f"be a multiple of {stride}: {nearest_sizes}."
        )
    if network.name == "att_unet":
        if network.encoder_weights != NO_WEIGHTS:
            raise ConfigurationError(
                f"network.encoder_weights is '{network.encoder_weights}', but att_unet has an encoder of its own, for "
                f"which there are no weights: it must be {NO_WEIGHTS}."
            )
        return
    if network.width != NetworkConfig.width:
        raise ConfigurationError(
            f"network.width is {network.width}, but only att_unet has a width to choose; {network.name}'s follow from its "
            "encoder: leave network.width out."
        )
    if network.encoder_weights not in (IMAGENET, NO_WEIGHTS) and not network.encoder_weights.endswith(WEIGHT_FILES):
        raise ConfigurationError(
            f"network.encoder_weights is '{network.encoder_weights}'; it must be {IMAGENET}, {NO_WEIGHTS}, or a file that "
            f"ends in {' or '.join(WEIGHT_FILES)}."
        )


def _check_sites_together(config: RunConfig) -> None:
    """What can be said before any site is there, once their number is known."""
    federation = config.federation
    count = federation.expected_sites or len(federation.site_names) or len(config.sites)
    if count == 0:
        return
    source = strategy_named(config.strategy).source
    if source is not None and config.sites and source not in config.sites:
        raise ConfigurationError(
            f"strategy={config.strategy} takes the site '{source}', which is none of {', '.join(config.sites)}."
        )
    strategy = strategy_named(config.strategy)
    if strategy.sharing is not Sharing.NOTHING:
        share_of_batch(config.training.batch_size, count)
    if strategy.prior:
        share_of_batch(config.autoencoder.batch_size, count, "autoencoder.batch_size")
    training = sites_a_round(count, federation.participation)
    if (federation.quorum or 0) > training:
        raise ConfigurationError(
            f"federation.quorum is {federation.quorum}, but {training} sites take part in a round: it can be {training} at most."
        )
    if federation.lockstep and (federation.quorum or count) < count:
        raise ConfigurationError(
            f"federation.quorum is {federation.quorum}, but federation.lockstep=true needs every site in each: leave it out."
        )
    if federation.rounds * training < count:
        raise ConfigurationError(
            f"federation.rounds is {federation.rounds} with {training} of {count} sites in each: some would never train. Give "
            f"{math.ceil(count / training)} rounds at least, or more federation.participation."
        )


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML, whole or not at all."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))


def load_config(path: Path) -> RunConfig:
    """Read what :func:`save_config` wrote."""
    try:
        saved = OmegaConf.load(path)
        if not saved:
            raise ConfigurationError(f"{path} is empty; it must hold the configuration of a run.")
        return checked(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), saved)))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{path} is not the configuration of a run: {error}") from None


def share_of_batch(batch_size: int, domains: int, word: str = "training.batch_size") -> int:
    """Slices of each domain in a batch that is split equally (section 5 of the method; the paper, section 3.3).

    Raises:
        ConfigurationError: if the batch cannot be split equally.
    """
    if batch_size % domains:
        lower = max(batch_size // domains, 1) * domains
        raise ConfigurationError(
            f"{word} is {batch_size}, which {domains} domains cannot share equally: "
            f"the nearest that they can are {lower} and {lower + domains}."
        )
    return batch_size // domains


def sites_a_round(sites: int, participation: float) -> int:
    """How many of ``sites`` train in a round: the nearest number to their fraction, one at least.

    >>> [sites_a_round(3, fraction) for fraction in (0.1, 0.5, 0.67, 1.0)]
    [1, 2, 2, 3]
    """
    return max(1, math.floor(participation * sites + 0.5))


def decisive_words(config: RunConfig) -> dict[str, str]:
    """The words of a configuration that decide a run's result, with their values."""
    words = {}
    for word in known_words():
        value: object = config
        for part in word.split("."):
            value = getattr(value, part)
        if not word.startswith("study.") and word not in PATIENCE and not word.endswith("_timeout_seconds"):
            words[word] = str(value)
    return words


PATIENCE = (
    "device",
    "threads",
    "data.cache_dir",
    "data.in_memory",
    "federation.ledger",
    "federation.release",
    "experiment",
)
"""Words that decide where and how patiently a run is made, and nothing of its result."""


def known_words(schema: type = RunConfig, prefix: str = "") -> list[str]:
    """All dotted words of the configuration, for example ``network.width``."""
    words = []
    for entry in fields(schema):
        if is_dataclass(entry.type):
            words += known_words(entry.type, f"{prefix}{entry.name}.")
        else:
            words.append(prefix + entry.name)
    return words


def _one_of(word: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ConfigurationError(f"{word}={given} is not known; {nearest(given, known)}")


def _check_words(overrides: Sequence[str]) -> None:
    groups = {"network": NETWORKS, "experiment": EXPERIMENTS}
    known = known_words()
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(_readable(error, overrides)) from None
    for override in parsed:
        word = override.key_or_group
        if word in groups:
            _one_of(word, str(override.value()), groups[word])
        elif word not in known and word.split(".")[0] not in ("hydra", "sites"):
            raise ConfigurationError(f"the configuration has no word '{word}'; {nearest(word, known)}")


def _readable(error: Exception, overrides: Sequence[str]) -> str:
    causes = [str(cause).strip() for cause in (error, error.__cause__) if cause is not None and str(cause).strip()]
    text = " ".join(" ".join(causes).split())
    given = os.linesep.join(overrides)
    return f"the configuration cannot be composed: {text}" + (f" (given: {given})" if len(overrides) == 1 else "")
