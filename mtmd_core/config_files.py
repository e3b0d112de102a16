"""A run's configuration: composed from YAML and overrides, saved with the run, read again, and its words.

YAML lives in the ``configs`` package and is composed by Hydra; a word that the schema does not know is an error that names the
nearest one that it does.
"""

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtmd_core.config import EXPERIMENTS, NETWORKS, NetworkConfig, RunConfig
from mtmd_core.config_checks import checked, value_of
from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.words import NO_RELEASE, RELEASES, check_one_of, nearest


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


def _if_att_unet(width: int, *, _parent_: DictConfig) -> int:
    """``${if_att_unet:8}``: a width for the one network that has one to choose; the others' follow from their encoder."""
    return width if _parent_.name == "att_unet" else NetworkConfig.width


OmegaConf.register_new_resolver("if_att_unet", _if_att_unet, replace=True)
ConfigStore.instance().store(name="run_schema", node=RunConfig)


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


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML, whole or not at all."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))


def load_config(path: Path) -> RunConfig:
    """Read what :func:`save_config` wrote."""
    try:
        text = path.read_text(encoding="utf-8")
        if (config := _read(text)) is None:
            raise ConfigurationError(f"{path} is empty; it must hold the configuration of a run.")
        return copy.deepcopy(config)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{path} is not the configuration of a run: {error}") from None


@lru_cache(maxsize=1024)
def _read(text: str) -> RunConfig | None:
    """The configuration in a file's text, None if there is none; kept, for a study reads those of all of its runs often."""
    saved = OmegaConf.load(StringIO(text))
    return checked(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), saved))) if saved else None


def decisive_words(config: RunConfig) -> dict[str, str]:
    """The words of a configuration that decide a run's result, with their values."""
    return decisive(words_of(config))


def decisive(words: Mapping[str, Any]) -> dict[str, str]:
    """Those of a configuration's words that decide a run's result, with their values.

    What sites release decides nothing but this: where it is ``none`` no round can be chosen by its scores, so the last one is.
    Nor does the order decide in which sites are written.

    >>> decisive({"fold": 1, "threads": 2, "federation.release": "mean"})
    {'fold': '1', 'federation.release': 'mean or structure'}
    >>> decisive({"sites": {"knee": "/k", "ankle": "/a"}})
    {'sites': "{'ankle': '/a', 'knee': '/k'}"}
    """
    chosen = {
        word: str(dict(sorted(value.items())) if isinstance(value, Mapping) else value)
        for word, value in words.items()
        if not word.startswith("study.") and word not in PATIENCE and not word.endswith("_timeout_seconds")
    }
    if chosen.get(_RELEASE, NO_RELEASE) != NO_RELEASE:
        chosen[_RELEASE] = " or ".join(release for release in RELEASES if release != NO_RELEASE)
    return chosen


def words_of(config: RunConfig) -> dict[str, Any]:
    """Every dotted word of a configuration with its value, as JSON holds it."""
    return {word: value_of(config, word) for word in known_words()}


PATIENCE = (
    "device",
    "threads",
    "data.cache_dir",
    "data.in_memory",
    "federation.ledger",
    "federation.outlying_norm_factor",
    "federation.quorum",
    "federation.refusals_before_set_aside",
    "experiment",
)
"""Words that decide where and how patiently a run is made: a run may go on with others. Of its result they decide nothing, but
that a reply is used or not, as a timeout does."""
_RELEASE = "federation.release"


def known_words(schema: type = RunConfig, prefix: str = "") -> list[str]:
    """All dotted words of the configuration, for example ``network.width``."""
    words = []
    for entry in fields(schema):
        if is_dataclass(entry.type):
            words += known_words(entry.type, f"{prefix}{entry.name}.")
        else:
            words.append(prefix + entry.name)
    return words


def named_words(overrides: Sequence[str]) -> set[str]:
    """The words that overrides set, however they are written (``++word=value``)."""
    return {override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))}


def refuse_unheeded(overrides: Sequence[str], experiment: str, unheeded: Mapping[str, str]) -> None:
    """Refuse words that an experiment would silently not heed.

    Args:
        overrides: of the command line.
        experiment: its name.
        unheeded: word → what to do instead, a clause.

    Raises:
        ConfigurationError: for the first of them by name.
    """
    for word in sorted(named_words(overrides) & unheeded.keys()):
        raise ConfigurationError(f"experiment={experiment} does not heed {word}=: {unheeded[word]}.")


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
            check_one_of(word, str(override.value()), groups[word])
        elif word not in known and word.split(".")[0] not in ("hydra", "sites"):
            raise ConfigurationError(f"the configuration has no word '{word}'; {nearest(word, known)}")


def _readable(error: Exception, overrides: Sequence[str]) -> str:
    causes = [str(cause).strip() for cause in (error, error.__cause__) if cause is not None and str(cause).strip()]
    text = " ".join(" ".join(causes).split())
    given = os.linesep.join(overrides)
    return f"the configuration cannot be composed: {text}" + (f" (given: {given})" if len(overrides) == 1 else "")
