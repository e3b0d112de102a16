"""The ServerApp: roll call, rounds, evaluation, farewell; the same in a hospital's federation and in a simulation."""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from mtmd_core.config import RunConfig
from mtmd_core.config_files import load_config
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError, MtmdError, RunFailedError
from mtmd_core.processes import LOG_LIMIT_BYTES, command_pid, end_with
from mtmd_core.scores import summarise_run
from mtmd_core.wire import SiteFacts

from .admission import Admission
from .checkpoints import Checkpoint
from .fleet import Fleet
from .flower_internals import shorten_waits, take_announced_metadata
from .phases import autoencoder_phase
from .plans import Plans, pack
from .run_store import RunStore
from .strategy import DomainStrategy, Metrics, OnRound

STATE_VARIABLE = "MTMD_SERVER_STATE"
"""Names the coordinator's folder to the process in which Flower runs the app."""
ADMISSION_VARIABLE = "MTMD_ADMISSION"
"""Not empty where only admitted sites take part; empty on plain HTTP, where nobody shows who they are."""
LOG = Path("logs", "run.log")
LOGS_KEPT = 5
"""Full logs that are kept."""

log = logging.getLogger(__name__)
app = ServerApp()


@dataclass(frozen=True)
class Outcome:
    """What a federation ended with: the sites' released test scores, the chosen parameters and their plans."""

    metrics: Metrics
    checkpoint: Checkpoint
    plans: Plans


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the coordinator's folder describes; the outcome is written there."""
    folder = Path(os.environ[STATE_VARIABLE])
    # Flower leaves this process behind when the SuperLink or mtmd-server is killed, and the next mtmd-server has the same folder
    end_with(*filter(None, [command_pid()]))
    shorten_waits()
    take_announced_metadata()
    _log_to(folder / LOG)
    store = None
    try:
        config = load_config(folder / "run.yaml")
        store = RunStore(folder, config, every_round=True)
        admission = Admission(folder) if os.environ.get(ADMISSION_VARIABLE) else None
        coordinate(grid, config, store, admission=admission, on_outcome=partial(_keep, store))
        verdict = {"exit_code": 0, "message": f"{config.federation.rounds} rounds are done"}
    except MtmdError as error:
        log.error("the run failed: %s", error)
        verdict = {"exit_code": error.exit_code, "message": str(error)}
    except Exception as error:
        log.exception("the run failed")
        verdict = {"exit_code": RunFailedError.exit_code, "message": f"{type(error).__name__}: {error}"}
    if store is not None and verdict["exit_code"]:
        with contextlib.suppress(OSError):  # where the disk is full the outcome may still be told
            store.note("failed", exit_code=verdict["exit_code"])
    write_json(folder / "outcome.json", verdict)


def _keep(store: RunStore, outcome: Outcome) -> None:
    store.finish(released_summary(outcome.metrics), outcome.checkpoint)


def _log_to(path: Path) -> None:
    """Write what is logged for people to a file that does not grow for ever; Flower's own words go to the SuperLink's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=LOG_LIMIT_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for room in ("server", "mtmd_core"):
        logging.getLogger(room).addHandler(handler)
        logging.getLogger(room).setLevel(logging.INFO)


def coordinate(
    grid: Grid,
    config: RunConfig,
    store: RunStore,
    on_round: OnRound = lambda *_: None,
    build_plans: type[Plans] = Plans,
    on_autoencoder_round: OnRound = lambda *_: None,
    admission: Admission | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Run a federation from roll call to farewell: where the strategy has a prior, its auto-encoder first.

    ``on_outcome`` keeps what it ended with; sites are told that the run is done once that is kept.

    Raises:
        UnreachableError: if the sites do not come.
        RunFailedError: if too few replies can be used.
    """
    federation = config.federation
    fleet = Fleet(grid, store.here, admission)
    store.progress("joining", 0, "waiting for sites")
    exit_code = RunFailedError.exit_code
    try:
        count = federation.expected_sites or len(federation.site_names) or len(config.sites)
        if count == 0:
            raise ConfigurationError("nobody said how many sites to wait for: set federation.expected_sites.")
        sites = _roll_call(fleet, count, federation.site_names, federation.join_timeout_seconds, store)
        prior = _train_autoencoder(config, sites, store, fleet, on_autoencoder_round)
        plans = build_plans(store.name, config, sites, prior=prior)
        metrics, checkpoint = _train(plans, store, fleet, on_round).conclude()
        outcome = Outcome(metrics, checkpoint, plans)
        on_outcome(outcome)
        exit_code = 0
        return outcome
    finally:
        fleet.farewell(exit_code)


def _roll_call(fleet: Fleet, count: int, names: Sequence[str], timeout: float, store: RunStore) -> dict[str, SiteFacts]:
    """Wait for the run's sites; one that goes on waits for those that it began with, except who is set aside or revoked.

    Raises:
        RunFailedError: if they are not what they were.
        UnreachableError: if they do not come.
    """
    known = store.sites()
    if known is None:
        sites = fleet.assemble(count, names, timeout)
        store.remember_sites({site: facts.structures for site, facts in sites.items()})
        return sites
    awaited = sorted(set(known) - set(store.standing.set_aside()))
    sites = fleet.assemble(len(awaited), awaited, timeout, spare_revoked=True)
    structures = {site: facts.structures for site, facts in fleet.sites.items() if site in known}
    if structures != {site: known[site] for site in structures}:
        raise RunFailedError(
            f"the run began with sites and structures {known}, these are {structures}: have sites put back the exams that they "
            "began with, or begin another run in another folder (--state)."
        )
    if revoked := fleet.revoked(awaited):
        log.warning("the run goes on without waiting for %s: revoked", ", ".join(revoked))
    return {site: SiteFacts(site, structures) for site, structures in known.items()} | sites


def _train_autoencoder(
    config: RunConfig, sites: Mapping[str, SiteFacts], store: RunStore, fleet: Fleet, on_round: OnRound
) -> Checkpoint | None:
    """The shared parameters of the auto-encoder of the best round; None where the strategy has no prior."""
    phase = autoencoder_phase(config)
    if phase is None:
        return None
    own = store.phase(phase.part, phase.rounds)
    chosen = own.chosen()
    if chosen is None:
        _, chosen = _train(Plans(store.name, config, sites, phase), own, fleet, on_round).choose()
        own.choose(chosen)
    return chosen


def _train(plans: Plans, store: RunStore, fleet: Fleet, on_round: OnRound) -> DomainStrategy:
    """All rounds of one phase that are still to come."""
    strategy = DomainStrategy(plans, store, fleet, on_round)
    strategy.start(
        fleet,
        initial_arrays=pack(strategy.shared),
        num_rounds=strategy.rounds - strategy.finished,
        timeout=plans.config.federation.round_timeout_seconds,
        train_config=ConfigRecord(),
    )
    return strategy


def released_summary(metrics: Metrics) -> dict:
    """The run's summary as far as the sites released it: structures numbered, no exams."""
    return summarise_run({site: _nested(values) for site, values in metrics.items()})


def _nested(values: dict[str, float]) -> dict:
    """``test/foreground_mean/dice`` and ``test/mean/structure_1/dice`` as nested dictionaries."""
    summary: dict = {}
    for name, value in values.items():
        part, *groups = name.split("/")
        if part == "test":
            place = summary
            for group in groups[:-1]:
                place = place.setdefault(group, {})
            place[groups[-1]] = value
    return summary
