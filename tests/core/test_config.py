import re

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mtmd_core.config import LossConfig, PrototypeConfig
from mtmd_core.config_files import compose, decisive_words, known_words, load_config, save_config
from mtmd_core.errors import ConfigurationError
from mtmd_core.federation_checks import share_of_batch
from mtmd_core.words import RELEASES


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("network.widht=16", "no word 'network.widht'; did you mean 'network.width'?"),
        ("netwrk.width=16", "did you mean 'network.width'?"),
        ("federation.round=3", "did you mean 'federation.rounds'?"),
        ("+lerning_rate=1e-3", "did you mean 'training.learning_rate'?"),
        ("zzz=1", "known are: experiment, mode, strategy"),
        ("strategy=dls", "strategy=dls is not known; did you mean 'dsl'?"),
        ("mode=centralized", "did you mean 'centralised'?"),
        ("device=cudaa", "did you mean 'cuda'?"),
        ("network=at_unet", "network=at_unet is not known; did you mean 'att_unet'?"),
        ("network.name=atunet", "did you mean 'att_unet'?"),
        ("data.slice_axis=3", "data.slice_axis=3 is not known; known are: auto, 0, 1, 2."),
        ("federation.release=means", "did you mean 'mean'?"),
        ("network.width=3", "at least 4"),
        ("network.width=15", "must be even: try 16"),
        ("network.width=wide", "wide"),
        ("network.width=null", "null"),
        ("data.slice_size=250", "the nearest are 240 and 256"),
        ("network.encoder_weights=imagenet", "att_unet has an encoder of its own, for which there are no weights"),
        ("training.learning_rate=0", "between 0 and 1"),
        ("training.learning_rate=nan", "between 0 and 1"),
        ("training.optimiser=sdg", "training.optimiser=sdg is not known; did you mean 'sgd'?"),
        ("training.learning_rate_decay=liner", "did you mean 'linear'?"),
        ("autoencoder.learning_rate_decay=poly", "autoencoder.learning_rate_decay=poly is not known"),
        ("training.dtype=float16", "training.dtype=float16 is not known; did you mean 'float64'?"),
        ("training.batch_size=0", "training.batch_size is 0; it must be at least 1"),
        ("federation.site_weights=size", "federation.site_weights=size is not known; did you mean"),
        ("federation.update_encoding=int4", "did you mean 'int8'?"),
        ("federation.server_optimiser.name=adam", "did you mean 'fedadam'?"),
        ("federation.server_optimiser.rate=1", "did you mean 'federation.server_optimiser"),
        (
            "federation.server_optimiser.momentum=0.9",
            "fedavg has none; fedavgm has one: leave it out or choose another",
        ),
        ("federation.server_optimiser.epsilon=0.1", "fedavg has none; fedadam and fedadagrad have one"),
        ("federation.server_optimiser.learning_rate=0", "must be a finite number above 0"),
        ("federation.proximal_mu=-1", "federation.proximal_mu is -1.0; it must be a finite number of at least 0"),
        ("federation.participation=0", "it must be above 0 and at most 1"),
        ("federation.participation=1.1", "it must be above 0 and at most 1"),
        ("federation.local_epochs=0", "federation.local_epochs is 0; it must be at least 1"),
        ("federation.lockstep=true", "takes one step a round, as pooled training does between two updates"),
        ("federation.quorum=0", "federation.quorum is 0"),
        ("seed=-1", "seed is -1; it must be at least 0"),
        ("threads=0", "threads is 0"),
        ("sites=ankle", "sites is 'ankle'; it must map site names to data folders"),
        ("sites={Ankle: /data}", "'Ankle' cannot name a site"),
        ("sites={items: /data}", "PyTorch keeps that word; try 'items_site'"),
        ("sites={training: /data}", "PyTorch keeps that word; try 'training_site'"),
        ("sites={all_sites: /data}", "a run's files keep that word; try 'all_sites_1'"),
        ("sites={autoencoder: /data}", "a run's files keep that word"),
        ("federation.site_names=[../x]", "'../x' cannot name a site"),
        (
            "strategy=transfer_a",
            "strategy=transfer_a is for mode=centralised; mode=federated knows individual, shared",
        ),
        ("autoencoder.model=ae.safetensors", "a file of this machine, whose private layers sites do not have"),
        ("federation.autoencoder_rounds=0", "federation.autoencoder_rounds is 0"),
        ("prototypes.order=secnd", "prototypes.order=secnd is not known; did you mean 'second'?"),
        ("prototypes.minimum_exams=2", "prototypes.minimum_exams is 2; it must be at least 3"),
        ("prototypes.minimum_slices=49", "prototypes.minimum_slices is 49; it must be at least 50"),
        (
            "prototypes.noise_multiplier=-1",
            "prototypes.noise_multiplier is -1.0; it must be a finite number of at least 0",
        ),
        ("study.local_steps=[0]", "study.local_steps has 0; a round takes one step at least"),
        ("prototypes.slices_per_exam=0", "prototypes.slices_per_exam is 0; it must be at least 1"),
        ("prototypes.maximum_age_rounds=0", "prototypes.maximum_age_rounds is 0"),
        ("prototypes.full_pass_steps=0", "prototypes.full_pass_steps is 0"),
        ("strategy=shared_msc", "strategy=shared_msc is impossible"),
        ("loss.prior_weight=-1", "loss.prior_weight is -1.0; it must be a finite number of at least 0"),
        ("loss.temperature=0", "loss.temperature is 0.0; it must be above 0"),
        ("autoencoder.learning_rate=1", "autoencoder.learning_rate is 1.0"),
        ("study.networks=[att_nuet]", "study.networks=att_nuet is not known; did you mean 'att_unet'?"),
        ("study.networks=[]", "study.networks is empty"),
        ("study.strategies=[dsl,dsl_ms]", "strategy=dsl_ms is not known; did you mean 'dsl_msc'?"),
        ("study.strategies=[shared,dsl,shared]", "study.strategies names shared twice"),
        ("study.folds=[0,-1]", "study.folds has -1; folds are counted from 0"),
        ("study.folds=[2,2]", "study.folds names 2 twice"),
        ("study.jobs=0", "study.jobs is 0; it must be at least 1"),
        ("strategy=dsl,shared", "cannot be composed"),
        ("strategy=[", "cannot be composed"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_can(override, expected):
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        compose("simulate", [override])


@pytest.mark.parametrize("network", ["inception_unet", "dense_unet", "efficient_unet"])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.slice_size=48", "halves a slice 5 times, so it must be a multiple of 32: the nearest are 32 and 64"),
        ("data.slice_size=16", "a multiple of 32: the nearest is 32"),
        ("network.width=16", "only att_unet has a width to choose"),
        ("network.encoder_weights=image_net", "it must be imagenet, none, or a file that ends in .pth or .safetensors"),
    ],
)
def test_what_a_pretrained_network_cannot_use_is_refused(network, override, expected):
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        compose("simulate", [f"network={network}", override])


def test_a_file_of_weights_is_for_pooled_data_alone():
    words = ["network=dense_unet", "network.encoder_weights=weights.pth"]
    assert compose("simulate", [*words, "mode=centralised"]).network.encoder_weights == "weights.pth"
    with pytest.raises(ConfigurationError, match=r"'weights.pth', a file of this machine, which sites do not have"):
        compose("simulate", [*words, "mode=federated"])


@pytest.mark.parametrize(
    ("network", "batch_size", "epochs", "learning_rate", "msc_weight"),
    [
        ("att_unet", 18, 6, 5e-4, 0.5),
        ("inception_unet", 18, 6, 5e-4, 0.5),
        ("dense_unet", 12, 4, 1e-4, 0.05),
        ("efficient_unet", 12, 4, 5e-4, 0.05),
    ],
)
def test_every_network_comes_with_table_1_and_its_own_weight_of_the_contrast(
    network, batch_size, epochs, learning_rate, msc_weight
):
    config = compose("simulate", [f"network={network}"])
    assert config.network.name == network
    assert config.network.encoder_weights == ("none" if network == "att_unet" else "imagenet")
    training = config.training
    assert (training.batch_size, training.epochs, training.learning_rate) == (batch_size, epochs, learning_rate)
    assert config.loss == LossConfig(0.1, 0.05, msc_weight, 0.1, 0.1)
    compose("simulate", [f"network={network}", "network.encoder_weights=none"])


def test_every_shipped_run_composes_to_the_hyper_parameters_of_table_1():
    for name in ("simulate", "federation"):
        config = compose(name, [])
        assert (config.network.name, config.network.width) == ("att_unet", 32)
        assert (config.training.batch_size, config.training.epochs, config.training.learning_rate) == (18, 6, 5e-4)
        assert config.sites == {}


def test_overrides_reach_their_fields_whatever_their_depth():
    config = compose("simulate", ["training.steps=7", "sites={ankle: /a, knee_2: /b}", "+sites.hip=/c", "seed=3"])
    assert (config.training.steps, config.seed) == (7, 3)
    assert config.sites == {"ankle": "/a", "knee_2": "/b", "hip": "/c"}


@pytest.mark.parametrize("name", ["simulate", "federation"])
def test_the_shipped_words_of_prototypes_are_those_of_the_schema(name):
    assert compose(name, []).prototypes == PrototypeConfig()


def test_known_words_are_all_leaves():
    words = known_words()
    assert {"mode", "network.width", "federation.site_names"} <= set(words)
    assert "network" not in words


def test_saving_and_loading_gives_the_same_configuration(tmp_path, monkeypatch):
    """The cache's place is resolved when composing: another environment reads the same."""
    config = compose("simulate", ["sites={ankle: /a}", "training.learning_rate=1e-3", "federation.quorum=1"])
    save_config(config, tmp_path / "config.yaml")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_configuration_that_was_loaded_is_its_reader_s_own(tmp_path):
    save_config(compose("simulate", ["sites={ankle: /a}"]), tmp_path / "config.yaml")
    mine, other = load_config(tmp_path / "config.yaml"), load_config(tmp_path / "config.yaml")
    mine.sites["knee"], mine.federation.rounds = "/k", 77
    assert other == load_config(tmp_path / "config.yaml")
    assert (other.sites, other.federation.rounds) == ({"ankle": "/a"}, 10)


@pytest.mark.parametrize("content", [None, b"fold: [", b"fold: x", b"folds: 1", b"- 1", b"\xff\xfe\x00", b"fold: -1"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is not the configuration of a run|at least 0"):
        load_config(path)


@pytest.mark.parametrize(("batch_size", "domains", "share"), [(18, 3, 6), (18, 1, 18), (3, 3, 1)])
def test_a_batch_is_split_equally(batch_size, domains, share):
    assert share_of_batch(batch_size, domains) == share


@pytest.mark.parametrize(("batch_size", "nearest"), [(17, "15 and 18"), (2, "3 and 6")])
def test_a_batch_that_cannot_be_split_names_the_nearest_that_can(batch_size, nearest):
    with pytest.raises(ConfigurationError, match=nearest):
        share_of_batch(batch_size, 3)


def test_a_batch_of_the_auto_encoder_must_be_shared_equally_too():
    words = ["mode=centralised", "sites={a: /a, b: /b, c: /c, d: /d, e: /e}", "training.batch_size=20"]
    assert compose("simulate", [*words, "strategy=dsl"]).autoencoder.batch_size == 24
    with pytest.raises(ConfigurationError, match=r"autoencoder.batch_size is 24, which 5 .* 20 and 25"):
        compose("simulate", [*words, "strategy=dsl_mjap"])


THREE = "sites={a: /a, b: /b, c: /c}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [THREE, "training.batch_size=3", "data.slice_size=16"],
            "training.batch_size is 3 and data.slice_size 16: at the bottleneck of att_unet normalisation has one value a "
            "channel, and one value has no variance: give training.batch_size=6 or data.slice_size=32.",
        ),
        (
            ["mode=federated", "federation.expected_sites=2", "training.batch_size=2", "data.slice_size=16"],
            "give training.batch_size=4 or data.slice_size=32",
        ),
        (["strategy=individual", "training.batch_size=1", "data.slice_size=16"], "give training.batch_size=2 or"),
        (
            [THREE, "strategy=shared", "mode=federated", "training.batch_size=3", "data.slice_size=16"],
            "give training.batch_size=6 or",
        ),
        ([THREE, "network=dense_unet", "training.batch_size=3", "data.slice_size=32"], "the bottleneck of dense_unet"),
        (
            [THREE, "strategy=dsl_mjap", "autoencoder.batch_size=3", "training.batch_size=6", "data.slice_size=16"],
            "autoencoder.batch_size is 3 and data.slice_size 16: at the bottleneck of autoencoder",
        ),
    ],
)
def test_batches_that_leave_one_value_to_normalise_over_are_refused(words, expected):
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        compose("simulate", words)


@pytest.mark.parametrize(
    "words",
    [
        [THREE, "training.batch_size=6", "data.slice_size=16"],
        [THREE, "training.batch_size=3", "data.slice_size=32"],
        [THREE, "strategy=shared", "mode=centralised", "training.batch_size=3", "data.slice_size=16"],
        ["training.batch_size=3", "data.slice_size=16"],
    ],
)
def test_two_values_are_enough_and_of_unknown_sites_nothing_is_said(words):
    assert compose("simulate", words).data.slice_size <= 32


def test_a_transfer_must_start_from_a_site_that_is_there():
    words = ["mode=centralised", "sites={ankle: /a, knee: /b}"]
    assert compose("simulate", [*words, "strategy=transfer_knee"]).strategy == "transfer_knee"
    with pytest.raises(ConfigurationError, match="takes the site 'hip', which is none of ankle, knee"):
        compose("simulate", [*words, "strategy=transfer_hip"])


def test_composing_leaves_a_hydra_that_runs_around_it_as_it_was():
    with initialize_config_module("configs", version_base="1.3"):
        around = GlobalHydra.instance().hydra
        assert compose("simulate", ["seed=3"]).seed == 3
        assert GlobalHydra.instance().hydra is around
    assert not GlobalHydra.instance().is_initialized()


def test_a_transfer_from_every_site_can_be_studied():
    assert compose("simulate", ["study.strategies=[transfer,transfer_knee]"]).study.strategies[0] == "transfer"


def test_words_that_decide_a_result_are_told_from_those_that_do_not():
    one = compose("simulate", ["device=cpu", "threads=1", "study.jobs=2", "federation.round_timeout_seconds=5"])
    assert decisive_words(one) == decisive_words(compose("simulate", []))
    assert decisive_words(compose("simulate", ["loss.msc_weight=0.3"])) != decisive_words(one)


@pytest.mark.parametrize("experiment", ["demo", "ladder", "phantoms", "msc_fidelity", "privacy"])
def test_an_experiments_width_is_for_the_network_that_has_one(experiment):
    words = [f"experiment={experiment}", "network.encoder_weights=none"]
    own = [compose("simulate", [*words, f"network={name}"]).network.width for name in ("att_unet", "efficient_unet")]
    assert own == [8 if experiment in ("demo", "ladder") else 16, 32]
    assert compose("simulate", [*words, "network.width=12"]).network.width == 12
    with pytest.raises(ConfigurationError, match=r"only att_unet has a width .* leave network.width out"):
        compose("simulate", [*words, "network=efficient_unet", "network.width=12"])


def test_of_what_sites_release_only_whether_it_is_anything_decides_a_result():
    """Without scores no round can be chosen, and the last one is the result."""
    none, mean, structure = (
        decisive_words(compose("simulate", [f"federation.release={release}"])) for release in RELEASES
    )
    assert mean == structure
    assert {word for word in none if none[word] != mean[word]} == {"federation.release"}


def test_bfloat16_and_float64_exclude_each_other():
    with pytest.raises(ConfigurationError, match=r"training.dtype=float64 asks for more: leave one out"):
        compose("simulate", ["training.autocast=true", "training.dtype=float64"])


THREE = "sites={ankle: /a, knee: /b, shoulder: /c}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["federation.server_optimiser.name=fedadam", "federation.server_optimiser.beta1=1"],
            "must be at least 0 and below 1",
        ),
        (["federation.proximal_mu=0.1", "federation.local_steps=1"], "its gradient is zero where a round begins"),
        (["federation.update_encoding=int8", "training.dtype=float64"], "leave one out"),
        (["mode=federated", "training.compile=true"], "it is for mode=centralised. Leave it out"),
        (["strategy=individual", "federation.update_encoding=int8"], "strategy=individual shares nothing"),
        (
            ["strategy=individual", "federation.server_optimiser.name=fedadam"],
            "federation.server_optimiser.name is given",
        ),
        (
            [THREE, "federation.participation=0.5", "federation.quorum=3"],
            "2 sites take part in a round: it can be 2 at most",
        ),
        (
            [THREE, "federation.participation=0.3", "federation.rounds=2"],
            "some would never train. Give 3 rounds at least",
        ),
        (
            ["federation.lockstep=true", "federation.local_steps=1", "strategy=shared"],
            "whose one normalisation sees all sites",
        ),
        (
            ["federation.lockstep=true", "federation.local_steps=1", "federation.local_epochs=1"],
            "no federation.local_epochs",
        ),
        (
            ["federation.lockstep=true", "federation.local_steps=1", "federation.server_optimiser.name=fedadam"],
            "federation.server_optimiser.name=fedadam would make that another training",
        ),
        (
            ["federation.lockstep=true", "federation.local_steps=1", "federation.update_encoding=int8"],
            "federation.update_encoding=int8 would make that another training",
        ),
        (
            [THREE, "federation.lockstep=true", "federation.local_steps=1", "federation.quorum=2"],
            "needs every site in each",
        ),
    ],
)
def test_choices_of_the_federation_that_contradict_each_other_are_errors_that_say_why(words, expected):
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        compose("simulate", words)


def test_what_was_chosen_for_a_federation_decides_its_result():
    words = decisive_words(
        compose("simulate", ["federation.server_optimiser.name=fedadam", "federation.local_epochs=2"])
    )
    assert words["federation.server_optimiser.name"] == "fedadam"
    assert words["federation.local_epochs"] == "2"
    assert {"federation.participation", "federation.update_encoding", "federation.lockstep"} <= words.keys()
