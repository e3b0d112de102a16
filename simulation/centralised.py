"""The paper's strategies on pooled data."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from mtmd_core.config import RunConfig, share_of_batch
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import Split, leave_one_out
from mtmd_core.devices import choose_device
from mtmd_core.errors import RunFailedError
from mtmd_core.evaluation import SiteScores, evaluate_exams
from mtmd_core.models import ModelCard, SiteCard, save_model
from mtmd_core.networks.build import build_network
from mtmd_core.scores import summarise_run
from mtmd_core.strategies import LabelSpace, Sharing, label_spaces, strategy_named
from mtmd_core.tensor_files import save_tensors
from mtmd_core.training import Recipe, build_optimiser, train

from .progress import VALIDATION_DICE, RunDisplay


def run_centralised(config: RunConfig, sites: dict[str, SiteData], folder: Path, display: RunDisplay) -> dict:
    """Train the strategy's network or networks, test them, and return the run's summary."""
    summaries: dict[str, dict] = {}
    (folder / "round_metrics.jsonl").unlink(missing_ok=True)  # of an earlier run in the same folder
    for group in groups(config, sites):
        pool = Pool(config, group, choose_device(config.device))
        name = next(iter(group)) if len(group) < len(sites) else "all_sites"
        display.stage(f"training {name}")
        chosen = pool.fit(folder, name, display)
        for site, scores in pool.evaluate("test").items():
            summaries[site] = scores.summary | {"step": chosen, "split": pool.splits[site].as_dict()}
        save_model(folder / "models" / f"{name}.safetensors", pool.network, pool.card)
    return summarise_run(summaries)


def groups(config: RunConfig, sites: Mapping[str, SiteData]) -> list[dict[str, SiteData]]:
    """The sites that each network is trained on: all in one, or each in its own."""
    if strategy_named(config.strategy).sharing is Sharing.NOTHING:
        return [{site: data} for site, data in sites.items()]
    return [dict(sites)]


def steps_of(config: RunConfig, group: Mapping[str, SiteData]) -> int:
    """Training steps for one network: as configured, or epochs of ceil(Σ n_k / batch) steps (section 5)."""
    if config.training.steps is not None:
        return config.training.steps
    slices = sum(
        len(data.exams[name].images)
        for data in group.values()
        for name in leave_one_out(list(data.exams), config.fold).train
    )
    return config.training.epochs * math.ceil(slices / config.training.batch_size)


class Pool:
    """One network and the pooled training data of the sites that it serves."""

    def __init__(self, config: RunConfig, sites: Mapping[str, SiteData], device: torch.device) -> None:
        self.config = config
        self.sites = sites
        self.splits: dict[str, Split] = {
            site: leave_one_out(list(data.exams), config.fold) for site, data in sites.items()
        }
        self.spaces: dict[str, LabelSpace] = label_spaces(
            strategy_named(config.strategy).sharing, {site: len(data.structures) for site, data in sites.items()}
        )
        self.card = ModelCard(
            config.network,
            config.strategy,
            config.data.slice_size,
            {site: SiteCard(self.spaces[site], data.structures, data.axis) for site, data in sites.items()},
        )
        self.network: nn.Module = build_network(config.network, self.card.domains, config.seed).to(device)
        self.sources: dict[str, list] = {}
        for site, data in sites.items():
            space = self.spaces[site]
            source = data.source(self.splits[site].train, space.offset)
            self.sources.setdefault(space.domain, []).append(source)

    def fit(self, folder: Path, name: str, display: RunDisplay) -> int:
        """Train, and keep the state with the best mean validation Dice; returns the step that it was reached after.

        Writes lines into ``round_metrics.jsonl`` and each best state into ``checkpoints/<name>.safetensors``.
        """
        training, total = self.config.training, steps_of(self.config, self.sites)
        recipe = Recipe(
            share_of_batch(training.batch_size, len(self.sites)),
            training.learning_rate,
            self.config.seed,
            training.augment,
            training.autocast,
        )
        optimiser = build_optimiser(self.network, training.learning_rate)
        best, best_step, best_state = -1.0, 0, {}
        for round_, start in enumerate(range(0, total, training.validate_every_steps), start=1):
            stop = min(start + training.validate_every_steps, total)
            loss = train(self.network, optimiser, self.sources, recipe, range(start, stop), display.step)
            if not math.isfinite(loss):
                raise RunFailedError(f"the loss of steps {start} to {stop} is {loss}: lower training.learning_rate.")
            scores = self.evaluate("validation")
            mean = sum(score.dice for score in scores.values()) / len(scores)
            if mean > best:
                best, best_step = mean, stop
                best_state = {key: value.clone() for key, value in self.network.state_dict().items()}
                save_tensors(folder / "checkpoints" / f"{name}.safetensors", best_state, {"step": stop})
            lines = [
                {"round": round_, "site": site, "step": stop, "loss": loss, **score.metrics("validation")}
                for site, score in scores.items()
            ]
            with open(folder / "round_metrics.jsonl", "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
            display.scores(f"step {stop}/{total}, loss {loss:.4f}", _dice_only(scores))
        self.network.load_state_dict(best_state)
        return best_step

    def evaluate(self, part: str) -> dict[str, SiteScores]:
        """Every site's scores on its validation or test exams."""
        return {
            site: evaluate_exams(self.network, self.spaces[site], data, getattr(self.splits[site], part))
            for site, data in self.sites.items()
        }


def _dice_only(scores: Mapping[str, SiteScores]) -> dict[str, dict[str, float]]:
    return {site: {VALIDATION_DICE: score.dice} for site, score in scores.items()}
