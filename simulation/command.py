"""``mtmd-simulate``: runs on one machine, centralised or federated; without arguments, the demo; ``report``: pages on runs."""

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mtmd_core.arguments import exit_code_of
from mtmd_core.config import RunConfig
from mtmd_core.config_checks import checked
from mtmd_core.config_files import compose, save_config
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError, MtmdError, RunFailedError
from mtmd_core.page.best_effort import best_effort
from mtmd_core.processes import exclusive

CONFIG_NAME = "simulate"
DEMO = "experiment=demo"
REPORT = "report"
"""First word of the command that makes no run, but a page on those that were made."""


def main() -> None:
    """Check the words of the command line, then let Hydra run the job or jobs; ``report`` writes a page instead."""
    if len(sys.argv) == 1:
        sys.argv.append(DEMO)
    is_report = sys.argv[1] == REPORT
    if code := exit_code_of("mtmd-simulate", _report if is_report else _check_command_line):
        sys.exit(code)
    if not is_report:
        _run_with_hydra()


def _report() -> int:
    from .report import main as report

    report(sys.argv[2:])
    return 0


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name=CONFIG_NAME)
def _run_with_hydra(composed: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)

    def job() -> int:
        config, words = checked(OmegaConf.to_object(composed)), HydraConfig.get().overrides.task
        try:
            simulate(config, folder, Console(soft_wrap=True, highlight=False), list(words))
        except KeyboardInterrupt:
            print(f"mtmd-simulate: what was written is in {folder}", file=sys.stderr)
            _report_unfinished(folder)
            raise
        return 0

    if code := exit_code_of("mtmd-simulate", job):
        sys.exit(code)


def _report_unfinished(folder: Path) -> None:
    """A page on what an interrupted command had reached, if there is anything yet."""
    from .report import report

    with contextlib.suppress(MtmdError), best_effort("the page"):
        print(f"mtmd-simulate: what it had reached is in {report([folder])}", file=sys.stderr)


def simulate(config: RunConfig, folder: Path, console: Console, words: Sequence[str] = ()) -> dict:
    """Run what a configuration asks for, write its files into ``folder`` and print its scores; returns the summary.

    ``words`` are those that the configuration was composed with; experiments that compose further runs need them.

    Raises:
        ConfigurationError: among others, if another process is writing into the folder, or results of other words are there.
        RunFailedError: if some of an experiment's runs failed; the files of the others are written by then.
    """
    with exclusive(folder, "mtmd-simulate", "hydra.run.dir"):
        return _simulate(config, folder, console, words)


def _simulate(config: RunConfig, folder: Path, console: Console, words: Sequence[str]) -> dict:
    from mtmd_core.devices import be_deterministic, limit_threads

    from .data import load_sites, make_phantoms
    from .experiments import EXPERIMENTS, STUDIES
    from .folders import check_folder
    from .report import write_report
    from .runs import run

    check_folder(config, folder)
    logging.captureWarnings(True)
    limit_threads(config.threads)
    be_deterministic(config.training.deterministic)
    study = STUDIES.get(config.experiment)
    if study is None:
        config = checked(replace(config, sites=config.sites or make_phantoms(config, console)))
        sites = load_sites(config)
        if config.experiment is None:
            return run(config, sites, folder, console)
    started = time.monotonic()
    if study is None:
        save_config(config, folder / "config.yaml")
        summary = EXPERIMENTS[config.experiment](config, sites, folder, console)
    else:
        summary = study(config, words, folder, console)
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(folder / "summary.json", summary)  # whatever may become of the page
    with best_effort("the page"):
        summary = write_report(folder, summary, console)
        write_json(folder / "summary.json", summary)
    console.print(f"{time.monotonic() - started:.0f} s; all files are in {folder}", markup=False)
    if summary.get("failures"):
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in summary["failures"].items())
        raise RunFailedError(f"{len(summary['failures'])} run(s) failed; the same command tries them again:{reasons}")
    return summary


def _check_command_line() -> int:
    """Do before Hydra what it answers with a traceback: compose once, so that a misspelt word is answered with the nearest right
    one, and make the folder that the run or the runs are to be in.
    """
    arguments = sys.argv[1:]
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    strays = [word for word in arguments if "=" not in word and not word.startswith(("-", "~"))]
    if any(flag in arguments for flag in _FLAGS_THAT_TELL):
        return 0
    if strays and not any(word.startswith("-") for word in arguments):
        raise ConfigurationError(f"'{strays[0]}' is no setting; settings are written word=value, for example fold=1.")
    several = "-m" in arguments or "--multirun" in arguments
    own = _first_of_each_sweep(words) if several else words
    compose(CONFIG_NAME, [word for word in own if not word.lstrip("+").startswith("hydra.")])
    if not any(flag in arguments for flag in _FLAGS_THAT_RUN_NOTHING):
        _make_folder(own, *(("hydra.sweep.dir", "multirun") if several else ("hydra.run.dir", "outputs")))
    return 0


_FLAGS_THAT_TELL = ("--help", "-h", "--hydra-help", "--version")
_FLAGS_THAT_RUN_NOTHING = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def _make_folder(words: Sequence[str], named_by: str, otherwise: str) -> None:
    """Raise OSError where the folder for runs cannot be; one whose name Hydra has yet to work out is not made."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    given = [str(override.value()) for override in parsed if override.key_or_group == named_by]
    folder = Path(given[-1] if given else otherwise)
    if "$" not in str(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _first_of_each_sweep(words: Sequence[str]) -> list[str]:
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise ConfigurationError(f"the settings cannot be read: {error}") from None
    return [
        f"{override.input_line.split('=', 1)[0]}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else override.input_line
        for override in overrides
    ]
