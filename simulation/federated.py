"""A federation in one process: the deployed ServerApp strategy and ClientApp, without a network.

It can be stopped anywhere and goes on from its last finished round, as a deployed one does: coordinator and sites keep their
state in the run's folder until its summary is written.
"""

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from client.app import build_client_app
from client.contrast import PrototypePolicy
from client.ledger import Ledger
from client.outbox import Outbox
from client.privacy import PrivacyBudget
from client.site import Site
from client.site_state import DiskState
from mtmd_core.arrays import keep_memory
from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.devices import choose_device
from mtmd_core.evaluation import SiteScores
from mtmd_core.federation_checks import share_of_batch, sites_a_round
from mtmd_core.models import save_model
from mtmd_core.networks.build import build_network
from mtmd_core.scores import summarise_run
from mtmd_core.seeds import derive_seed
from mtmd_core.strategies import Sharing, strategy_named
from server.app import Outcome, coordinate
from server.participation import training_sites
from server.phases import Phase, autoencoder_phase, segmentation_phase
from server.run_store import RunStore
from server.strategy import Metrics, OnRound

from .grid import InProcessGrid
from .progress import RunDisplay
from .trained import autoencoder_file, network_file
from .unfinished import MEMORY


def run_federated(
    config: RunConfig, sites: dict[str, SiteData], folder: Path, display: RunDisplay
) -> tuple[dict, dict[str, SiteScores]]:
    """Run the federation; returns the full summary, which no single party of a real one has, and the sites' test scores.

    What the run could go on from stays in ``folder``, so that one that ends before its summary is written is not lost.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)
    keep_memory()
    members = {name: build_site(config, data, folder, display) for name, data in sites.items()}
    outcome = federate(config, members, folder, display)
    for name, site in members.items():
        save_model(network_file(folder, name), site.learner.network, site.learner.card)
    summary = summarise_run({name: site.summary for name, site in members.items()}) | {
        "rounds": config.federation.rounds,
        "chosen_round": outcome.checkpoint.round,
    }
    return summary, {name: site.tested for name, site in members.items()}


def total_local_steps(config: RunConfig, sites: Mapping[str, SiteData]) -> int:
    """Training steps of all sites in all rounds of all phases."""
    phases = [phase for phase in (autoencoder_phase(config), segmentation_phase(config)) if phase is not None]
    return sum(sum(_local_steps(config, phase, sites).values()) for phase in phases)


def images_of_sites(config: RunConfig, sites: Mapping[str, SiteData]) -> dict[str, int]:
    """Site → images of it that its segmentation network is trained on, those that come again counted again."""
    phase = segmentation_phase(config)
    share = _share(config, phase, sites)
    return {site: steps * share for site, steps in _local_steps(config, phase, sites).items()}


def _share(config: RunConfig, phase: Phase, sites: Collection[str]) -> int:
    """Slices of a site in a batch: a part of it, or where nothing is shared the whole."""
    alone = strategy_named(config.strategy).sharing is Sharing.NOTHING
    return share_of_batch(phase.batch_size, 1 if alone else len(sites), phase.batch_word)


def _local_steps(config: RunConfig, phase: Phase, sites: Mapping[str, SiteData]) -> dict[str, int]:
    """Site → its training steps in all rounds of a phase."""
    federation, share = config.federation, _share(config, phase, sites)
    steps = {
        site: (federation.local_epochs or 0) * math.ceil(_training_slices(data, config.fold) / share)
        or federation.local_steps
        for site, data in sites.items()
    }
    count, names = sites_a_round(len(sites), federation.participation), sorted(sites)
    rounds = Counter(
        site for number in range(1, phase.rounds + 1) for site in training_sites(names, count, number, config.seed)
    )
    return {site: rounds[site] * steps[site] for site in names}


def _training_slices(data: SiteData, fold: int) -> int:
    return len(data.source(leave_one_out(list(data.exams), fold).train, 0))


def federate(config: RunConfig, members: dict[str, Site], folder: Path, display: RunDisplay) -> Outcome:
    """Rounds over sites that are ready."""
    federation = config.federation
    # Once the summary is written, what the sites remembered is gone: a run that lost it since is made again from the first round.
    store = RunStore(folder, config, every_round=True, remake=True)
    grid = InProcessGrid({name: build_client_app(site) for name, site in members.items()})
    outcome = coordinate(
        grid,
        config,
        store,
        on_round=_shown(display, "round", federation.rounds),
        on_autoencoder_round=_shown(display, "auto-encoder, round", federation.autoencoder_rounds),
    )
    _save_autoencoders(outcome, members, folder)
    store.choose(outcome.checkpoint)
    store.note("finished", chosen_round=outcome.checkpoint.round)
    return outcome


def _save_autoencoders(outcome: Outcome, members: Mapping[str, Site], folder: Path) -> None:
    """Where the strategy has a prior: the auto-encoder as each site has it, which its memory would take along."""
    phase, chosen = autoencoder_phase(outcome.plans.config), outcome.plans.prior_plan
    if phase is None:
        return
    precision = getattr(torch, outcome.plans.config.training.dtype)
    for name, site in members.items():
        kept = site.state.frozen(chosen.run, chosen.round)
        if kept is not None:  # it is, once the site has trained
            card = replace(site.learner.card, network=phase.network)
            network = build_network(card.network, card.domains, phase.seed).to(precision)
            network.load_state_dict(kept)
            save_model(autoencoder_file(folder, name), network, card)


def _shown(display: RunDisplay, title: str, rounds: int) -> OnRound:
    def on_round(round_: int, metrics: Metrics) -> None:
        display.scores(f"{title} {round_}/{rounds}", metrics)
        display.stage(f"{title} {min(round_ + 1, rounds)}/{rounds}")

    return on_round


def build_site(config: RunConfig, data: SiteData, folder: Path, display: RunDisplay) -> Site:
    """One site of the simulation, with its memory in the run's folder."""
    ledger = Ledger(folder / "ledgers" / f"{data.site}.jsonl") if config.federation.ledger else None
    released = folder / MEMORY / f"{data.site}.privacy.json"  # a run that was stopped goes on from what it has spent
    return Site(
        name=data.site,
        structures=len(data.structures),
        load_data=lambda size, axis: data,
        state=DiskState(folder / MEMORY / data.site),
        outbox=Outbox(config.federation.release, ledger),
        device=choose_device(config.device),
        policy=PrototypePolicy(budget=PrivacyBudget(path=released, seed=derive_seed(config.seed, "noise", data.site))),
        lockstep=True,
        on_step=display.step,
    )
