"""A federation in one process: the deployed ServerApp strategy and ClientApp, without a network.

It can be stopped anywhere and goes on from its last finished round, as a deployed one does: coordinator and sites keep their
state in the run's folder until it is done.
"""

import logging
import shutil
from pathlib import Path

from client.app import build_client_app
from client.ledger import Ledger
from client.outbox import Outbox
from client.site import Site
from client.site_state import DiskState
from mtmd_core.arrays import keep_memory
from mtmd_core.config import AUTOENCODER, RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.devices import choose_device
from mtmd_core.evaluation import SiteScores
from mtmd_core.models import save_model
from mtmd_core.scores import summarise_run
from mtmd_core.strategies import strategy_named
from server.app import Outcome, coordinate
from server.run_store import RunStore
from server.strategy import Metrics, OnRound

from .grid import InProcessGrid
from .progress import RunDisplay

MEMORY = "sites"
"""Folder of what sites remember while a run goes on."""


def run_federated(
    config: RunConfig, sites: dict[str, SiteData], folder: Path, display: RunDisplay
) -> tuple[dict, dict[str, SiteScores]]:
    """Run the federation; returns the full summary, which no single party of a real one has, and the sites' test scores."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    members = {name: build_site(config, data, folder, display) for name, data in sites.items()}
    outcome = federate(config, members, folder, display)
    for name, site in members.items():
        save_model(folder / "models" / f"{name}.safetensors", site.learner.network, site.learner.card)
    summary = summarise_run({name: site.summary for name, site in members.items()}) | {
        "rounds": config.federation.rounds,
        "chosen_round": outcome.checkpoint.round,
    }
    return summary, {name: site.tested for name, site in members.items()}


def federate(config: RunConfig, members: dict[str, Site], folder: Path, display: RunDisplay) -> Outcome:
    """Rounds over sites that are ready."""
    federation = config.federation
    store = RunStore(folder, config, every_round=True)
    grid = InProcessGrid({name: build_client_app(site) for name, site in members.items()})
    display.skip(_finished_rounds(config, store) * federation.local_steps * len(members))
    outcome = coordinate(
        grid,
        config,
        store,
        on_round=_shown(display, "round", federation.rounds),
        on_autoencoder_round=_shown(display, "auto-encoder, round", federation.autoencoder_rounds),
    )
    store.finish(None, outcome.checkpoint)
    shutil.rmtree(folder / MEMORY, ignore_errors=True)
    return outcome


def total_steps(config: RunConfig, sites: int) -> int:
    """Training steps of a whole federation, over all sites and phases."""
    federation = config.federation
    rounds = federation.rounds
    if strategy_named(config.strategy).prior:
        rounds += federation.autoencoder_rounds
    return rounds * federation.local_steps * sites


def _finished_rounds(config: RunConfig, store: RunStore) -> int:
    """Of both phases, by an earlier call that was stopped."""
    phases = [store, store.phase(AUTOENCODER, config.federation.autoencoder_rounds)]
    return sum(checkpoint.round for phase in phases if (checkpoint := phase.last()) is not None)


def _shown(display: RunDisplay, title: str, rounds: int) -> OnRound:
    def on_round(round_: int, metrics: Metrics) -> None:
        display.scores(f"{title} {round_}/{rounds}", metrics)
        display.stage(f"{title} {min(round_ + 1, rounds)}/{rounds}")

    return on_round


def build_site(config: RunConfig, data: SiteData, folder: Path, display: RunDisplay) -> Site:
    """One site of the simulation, with its memory in the run's folder."""
    ledger = Ledger(folder / "ledgers" / f"{data.site}.jsonl") if config.federation.ledger else None
    return Site(
        name=data.site,
        structures=len(data.structures),
        load_data=lambda size, axis: data,
        state=DiskState(folder / MEMORY / data.site),
        outbox=Outbox(config.federation.release, ledger),
        device=choose_device(config.device),
        on_step=display.step,
    )
