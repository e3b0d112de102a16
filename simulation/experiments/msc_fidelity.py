"""``experiment=msc_fidelity``: how closely prototypes follow the gradient of Eq. 5.

A network is trained on pooled data with Eq. 5. At several stages, the gradient with respect to the embeddings of a site's batches
is held against that of Eq. 5 over all training slices: domains weigh alike, every slice is anchor, positive and negative.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mtmd_core.config import RunConfig
from mtmd_core.data.batches import SliceSource
from mtmd_core.data.site_data import SiteData
from mtmd_core.domain_mixture import DomainMixture, mix
from mtmd_core.durable import write_json
from mtmd_core.embedding_pass import embed_slices
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.losses.contrastive import contrastive_loss
from mtmd_core.losses.prototype_contrast import own_batch_contrast, prototype_contrast
from mtmd_core.minimum import MINIMUM
from mtmd_core.networks.build import build_network
from mtmd_core.networks.output import NetworkOutput
from mtmd_core.objectives import ContrastTerm, Segmentation
from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import Prototype, without_spread
from mtmd_core.recent_embeddings import RecentEmbeddings
from mtmd_core.site_contrast import HALF_LIFE
from mtmd_core.strategies import Contrast, strategy_named
from mtmd_core.training import build_optimiser, train

from ..centralised import contrast_term, placed
from ..data import load_sites, make_phantoms
from ..pool import Pool
from ..progress import RunDisplay

DEFAULT, NOT_REFRESHED, FIRST_ORDER, OWN_BATCH, MINIBATCH = (
    "default",
    "not_refreshed",
    "first_order",
    "own_batch",
    "minibatch",
)
"""Estimators of the gradient: everything from prototypes; the same with the own prototype as old as the others'; means alone; own
domain from the batch; and the paper's, Eq. 5 over the pooled mini-batch."""
BATCHES = 8
"""Batches of each site that a cosine is averaged over, where it has as many."""

Embeddings = dict[str, list[Tensor]]
"""Domain → [n, E_s] at each scale."""
Gradients = dict[str, list[Tensor]]
"""Domain → gradient with respect to the first rows of its embeddings, [BATCHES · share, E_s] at each scale."""


def run_msc_fidelity(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Measure on phantom joints, and on the configured sites where there are some; write ``msc_fidelity.json``.

    A list of records: ``dataset``, ``stage`` (start, first_round, middle, end), ``scale`` (s1 … s9), ``estimator``,
    ``age_rounds`` (of the other domains' prototypes), ``cosine`` on the sphere's tangent and ``norm_error`` (|ratio − 1| of
    the gradients' lengths), each the mean over batches of the site where it is worst. After a round the own prototype is
    that of running averages over its batches, but for ``not_refreshed``.
    """
    phantoms = make_phantoms(config, console)
    datasets = {"phantoms": sites}
    if config.sites != phantoms:
        given, config.sites = config.sites, phantoms
        datasets = {"phantoms": load_sites(config), "+".join(sites): sites}
        config.sites = given
    records = []
    for dataset, members in datasets.items():
        trial = Trial(config, members)
        with RunDisplay(trial.steps, console) as display:
            display.stage(f"training {dataset}")
            records += [{"dataset": dataset} | record for record in trial.run(display)]
    write_json(folder / "msc_fidelity.json", records)
    _print(records, console)
    return {"experiment": "msc_fidelity", "records": len(records), "worst_cosine": _worst(records)}


@dataclass(frozen=True)
class _Recording:
    """Eq. 5 of the mini-batch, which tells each site's running averages of its slices as they pass."""

    term: ContrastTerm
    sources: Mapping[str, Sequence[SliceSource]]
    recent: Mapping[str, RecentEmbeddings]
    places: Callable[[str], Sequence[tuple[int, int]]]

    def __call__(self, output: NetworkOutput, shares: Mapping[str, int]) -> Tensor:
        parts = [scale.split(list(shares.values())) for scale in output.embeddings]
        for number, domain in enumerate(shares):
            self.recent[domain].add([scale[number] for scale in parts], self.places(domain))
        return self.term(output, shares)


class Trial:
    """One network in training on the sites of one dataset."""

    def __init__(self, config: RunConfig, sites: Mapping[str, SiteData]) -> None:
        contrast = strategy_named(config.strategy).contrast
        if contrast is Contrast.NONE:
            raise ConfigurationError(
                f"strategy={config.strategy} has no contrast whose gradient could be looked at: give dsl_msc, or leave it out."
            )
        self.pool = Pool(config, sites)
        self.recipe = self.pool.recipe(config.training, config.seed)
        self.steps = self.pool.steps(config.training)
        self.local_steps = config.federation.local_steps
        if self.steps < 4 * self.local_steps:
            raise ConfigurationError(
                f"training takes {self.steps} steps and a round {self.local_steps}; stages need four rounds at least: give more "
                "training.steps= or fewer federation.local_steps=."
            )
        self.temperature = config.loss.temperature
        self.term = contrast_term(config, contrast)
        self.network = placed(build_network(config.network, self.pool.classes, config.seed), config)
        self.optimiser = build_optimiser(self.network, self.recipe.learning_rate)
        self.step = 0

    def run(self, display: RunDisplay) -> list[dict]:
        """Records of all stages."""
        records = self._records("start", 0, *self.fresh())
        for stage, end in (("first_round", self.local_steps), ("middle", self.steps // 2), ("end", self.steps)):
            self.train(end - self.local_steps, display)
            _, old = self.fresh()
            recent = self.train(end, display)
            embeddings, fresh = self.fresh()
            refreshed = {domain: own.summarise(self.temperature) for domain, own in recent.items()}
            records += self._records(stage, 0, embeddings, fresh)
            records += self._records(stage, 1, embeddings, old, refreshed)
        return records

    def train(self, end: int, display: RunDisplay) -> dict[str, RecentEmbeddings]:
        """Train up to a step; each site's running averages of the embeddings on the way."""
        recent = {domain: RecentEmbeddings(HALF_LIFE) for domain in self.pool.sources}
        for step in range(self.step, end):

            def places(domain: str, step: int = step) -> list[tuple[int, int]]:
                return self.pool.sources[domain][0].places(self.recipe.seed, step, self.recipe.share)

            objective = Segmentation(_Recording(self.term, self.pool.sources, recent, places))
            train(
                self.network, self.optimiser, self.pool.sources, self.recipe, range(step, step + 1), display.step, objective
            )  # fmt: skip
        self.step = end
        return recent

    def fresh(self) -> tuple[Embeddings, dict[str, list[Prototype]]]:
        """Embeddings of all training slices, and their prototypes."""
        embeddings, prototypes = {}, {}
        for domain, (source,) in self.pool.sources.items():
            scales, places = embed_slices(self.network, domain, source, self.recipe)
            exams = torch.tensor([exam for exam, _ in places])
            embeddings[domain] = [scale.cpu() for scale in scales]
            prototypes[domain] = [summarise(scale, exams, self.temperature) for scale in scales]
            if prototypes[domain][0] is None:
                raise DataError(
                    f"{domain}: {len(exams.unique())} exams with {len(exams)} slices to train on; a prototype needs "
                    f"{MINIMUM.exams} with {MINIMUM.slices} at least."
                )
        return embeddings, prototypes

    def _records(
        self,
        stage: str,
        age: int,
        embeddings: Embeddings,
        prototypes: dict[str, list[Prototype]],
        refreshed: dict[str, list[Prototype]] | None = None,
    ) -> list[dict]:
        share = self.recipe.share
        truth = full_gradients(embeddings, share, self.temperature)
        estimates = self._estimates(embeddings, prototypes, refreshed)
        if age == 0:
            estimates[MINIBATCH] = minibatch_gradients(embeddings, share, self.temperature)
        return [
            {"stage": stage, "scale": f"s{scale + 1}", "estimator": estimator, "age_rounds": age}
            | agreement(embeddings, estimate, truth, scale, share)
            for estimator, estimate in estimates.items()
            for scale in range(len(next(iter(truth.values()))))
        ]

    def _estimates(
        self,
        embeddings: Embeddings,
        prototypes: dict[str, list[Prototype]],
        refreshed: dict[str, list[Prototype]] | None,
    ) -> dict[str, Gradients]:
        """Every estimator's gradients; a site knows its own prototype refreshed, the others' as they came."""
        known = {
            domain: prototypes if refreshed is None else prototypes | {domain: refreshed[domain]}
            for domain in prototypes
        }
        means = {d: {m: [without_spread(one) for one in own] for m, own in each.items()} for d, each in known.items()}
        share = self.recipe.share
        mixtures = {domain: mix(each, self.temperature) for domain, each in known.items()}
        estimates = {
            DEFAULT: prototype_gradients(embeddings, mixtures, share, self.temperature),
            FIRST_ORDER: prototype_gradients(
                embeddings, {d: mix(each, self.temperature) for d, each in means.items()}, share, self.temperature
            ),
            OWN_BATCH: prototype_gradients(embeddings, mixtures, share, self.temperature, own_batch_contrast),
        }
        if refreshed is not None:
            old = dict.fromkeys(prototypes, mix(prototypes, self.temperature))
            estimates[NOT_REFRESHED] = prototype_gradients(embeddings, old, share, self.temperature)
        return estimates


def full_gradients(embeddings: Embeddings, share: int, temperature: float) -> Gradients:
    """The gradient of Eq. 5 over all slices, each weighted by its domain's 1/(K n_k), for the first batches of every domain.

    Multiplied by K n_k, which makes it that of one slice's loss; in float64.
    """
    gradients: Gradients = {domain: [] for domain in embeddings}
    for scale in zip(*embeddings.values(), strict=True):
        everything = torch.cat(scale).double()
        sizes = [len(each) for each in scale]
        weights = torch.cat([torch.full((n,), 1 / (len(sizes) * n), dtype=torch.float64) for n in sizes])
        domains = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        similarity = (everything @ everything.T / temperature).fill_diagonal_(-math.inf)
        log_denominators = (similarity + weights.log()).logsumexp(dim=1)  # [n]
        for number, domain in enumerate(embeddings):
            rows = torch.arange(share * _batches(embeddings, domain, share)) + sum(sizes[:number])
            positives = (domains[rows, None] == domains) & (rows[:, None] != torch.arange(len(domains)))
            pull = positives.double() / (sizes[number] - 1)
            as_anchor = (similarity[rows] - log_denominators[rows, None]).exp() * weights
            as_negative = (similarity[rows] - log_denominators).exp() * weights
            gradients[domain].append((as_anchor + as_negative - 2 * pull) @ everything / temperature)
    return gradients


def minibatch_gradients(embeddings: Embeddings, share: int, temperature: float) -> Gradients:
    """The gradient of Eq. 5 over pooled mini-batches with a batch of every domain, scaled as the full one."""
    count = min(_batches(embeddings, domain, share) for domain in embeddings)
    domains = torch.arange(len(embeddings)).repeat_interleave(share)
    gradients: Gradients = {domain: [] for domain in embeddings}
    for scale in zip(*embeddings.values(), strict=True):
        parts = []
        for number in range(count):
            batch = torch.cat([each[number * share : (number + 1) * share] for each in scale]).requires_grad_()
            loss = contrastive_loss([batch], domains, temperature) * len(batch)
            parts.append(torch.autograd.grad(loss, batch)[0].split(share))
        for domain, own in zip(embeddings, zip(*parts, strict=True), strict=True):
            gradients[domain].append(torch.cat(own))
    return gradients


def prototype_gradients(
    embeddings: Embeddings,
    mixtures: Mapping[str, DomainMixture],
    share: int,
    temperature: float,
    loss: Callable[[Sequence[Tensor], DomainMixture, str, float], Tensor] = prototype_contrast,
) -> Gradients:
    gradients: Gradients = {}
    for domain, scales in embeddings.items():
        parts = []
        for number in range(_batches(embeddings, domain, share)):
            batch = [each[number * share : (number + 1) * share].clone().requires_grad_() for each in scales]
            value = loss(batch, mixtures[domain], domain, temperature) * share * len(scales)
            parts.append(torch.autograd.grad(value, batch))
        gradients[domain] = [torch.cat(each) for each in zip(*parts, strict=True)]
    return gradients


def _batches(embeddings: Embeddings, domain: str, share: int) -> int:
    return min(BATCHES, len(embeddings[domain][0]) // share)


def agreement(
    embeddings: Embeddings, estimate: Gradients, truth: Gradients, scale: int, share: int
) -> dict[str, float]:
    """Cosine and error in length along the sphere: means over the batches of the site where they are worst."""
    cosines, errors = [], []
    for domain in truth:
        count = len(estimate[domain][scale])
        points = embeddings[domain][scale][:count].double()
        given, right = (
            _along_sphere(each[domain][scale][:count].double(), points).split(share) for each in (estimate, truth)
        )
        lengths = [(float(a.norm()), float(b.norm())) for a, b in zip(given, right, strict=True)]
        products = [float((a * b).sum()) for a, b in zip(given, right, strict=True)]
        cosines.append(sum(p / (a * b) for p, (a, b) in zip(products, lengths, strict=True)) / len(lengths))
        errors.append(sum(abs(a / b - 1) for a, b in lengths) / len(lengths))
    return {"cosine": min(cosines), "norm_error": max(errors)}


def _along_sphere(gradients: Tensor, points: Tensor) -> Tensor:
    return gradients - (gradients * points).sum(dim=1, keepdim=True) * points


def _worst(records: Sequence[Mapping]) -> dict[str, float]:
    """The lowest cosine over scales: ``dataset/stage/estimator/age`` → cosine."""
    worst: dict[str, float] = {}
    for record in records:
        key = "/".join(str(record[word]) for word in ("dataset", "stage", "estimator", "age_rounds"))
        worst[key] = min(worst.get(key, 1.0), record["cosine"])
    return worst


def _print(records: Sequence[Mapping], console: Console) -> None:
    table = Table("dataset", "stage", "age", "estimator", title="cosine with the gradient of Eq. 5 over all slices")
    for title in ("lowest over scales", "highest", "worst error in length"):
        table.add_column(title, justify="right")
    groups: dict[tuple, list[Mapping]] = {}
    for record in records:
        groups.setdefault(tuple(record[word] for word in ("dataset", "stage", "age_rounds", "estimator")), []).append(
            record
        )
    for (dataset, stage, age, estimator), members in groups.items():
        cosines = [record["cosine"] for record in members]
        error = max(record["norm_error"] for record in members)
        table.add_row(dataset, stage, str(age), estimator, f"{min(cosines):.4f}", f"{max(cosines):.4f}", f"{error:.2f}")
    console.print(table)
