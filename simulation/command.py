"""``mtmd-simulate``: one run on one machine, centralised or federated."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mtmd_core.config import RunConfig, checked, compose, save_config
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError, MtmdError

CONFIG_NAME = "simulate"


def main() -> None:
    """Check the words of the command line, then let Hydra run the job or jobs."""
    try:
        _check_command_line(sys.argv[1:])
    except ConfigurationError as error:
        print(f"mtmd-simulate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    _run_with_hydra()


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name=CONFIG_NAME)
def _run_with_hydra(composed: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        simulate(checked(OmegaConf.to_object(composed)), folder, Console(soft_wrap=True, highlight=False))
    except MtmdError as error:
        print(f"mtmd-simulate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"mtmd-simulate: stopped; what was written is in {folder}", file=sys.stderr)
        sys.exit(130)


def simulate(config: RunConfig, folder: Path, console: Console) -> dict:
    """Run one configuration, write its files into ``folder`` and print its scores; returns the summary."""
    from mtmd_core.devices import limit_threads

    from .centralised import groups, run_centralised, steps_of
    from .data import load_sites
    from .federated import run_federated
    from .progress import RunDisplay

    logging.captureWarnings(True)
    limit_threads(config.threads)
    started = time.monotonic()
    sites = load_sites(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    federation = config.federation
    if config.mode == "federated":
        run, steps = run_federated, federation.rounds * federation.local_steps * len(sites)
    else:
        run, steps = run_centralised, sum(steps_of(config, group) for group in groups(config, sites))
    with RunDisplay(steps, console) as display:
        summary = run(config, sites, folder, display)
    facts = {
        "mode": config.mode,
        "strategy": config.strategy,
        "network": config.network.name,
        "fold": config.fold,
    }
    summary = facts | {"seed": config.seed, "seconds": round(time.monotonic() - started, 1)} | summary
    write_json(folder / "summary.json", summary)
    _print_scores(summary, folder, console)
    return summary


def _print_scores(summary: dict, folder: Path, console: Console) -> None:
    columns = {
        "dice": "Dice",
        "sensitivity": "sensitivity",
        "mssd_mm": "MSSD mm",
        "assd_mm": "ASSD mm",
        "ravd": "RAVD",
    }
    table = Table("test exams of", *columns.values(), title=f"{summary['mode']} {summary['strategy']}")
    rows = {site: values["foreground_mean"] for site, values in summary["sites"].items()}
    for name, values in (rows | {"mean of sites": summary["mean"]}).items():
        cells = ["–" if values.get(key) is None else f"{values[key]:.3f}" for key in columns]
        table.add_row(name, *cells)
    console.print(table)
    worst = summary["worst_site"]
    if worst is not None:
        console.print(f"worst site: {worst['name']}, Dice {worst['foreground_mean']['dice']:.3f}")
    console.print(f"{summary['seconds']:.0f} s; all files are in {folder}", markup=False)


def _check_command_line(arguments: Sequence[str]) -> None:
    """Compose once before Hydra does, so that a misspelt word is answered with the nearest right one."""
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    strays = [word for word in arguments if "=" not in word and not word.startswith(("-", "~"))]
    if any(flag in arguments for flag in ("--help", "-h", "--hydra-help", "--version")):
        return
    if strays and not any(word.startswith("-") for word in arguments):
        raise ConfigurationError(f"'{strays[0]}' is no setting; settings are written word=value, for example fold=1.")
    if "-m" in arguments or "--multirun" in arguments:
        words = _first_of_each_sweep(words)
    compose(CONFIG_NAME, [word for word in words if not word.startswith("hydra.")])


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
