"""``experiment=figures``: pictures of finished runs, after Figures 5 to 8 of the paper; nothing is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.errors import ConfigurationError
from mtmd_core.strategies import Sharing, strategy_named

from ..data import load_sites
from ..embeddings import SiteEmbeddings, embed_images, embed_label_maps
from ..figures.attention import AttendedSlice, attention_map, draw_attention
from ..figures.contours import ComparedSlice, choose_exams, compare, draw_comparison
from ..figures.representations import draw_representations
from ..found_runs import FoundRun, find_runs
from ..pictures import fullest_slice
from ..study import strategies_of
from ..trained import TrainedNetwork, autoencoders, segmentation_networks
from .table4 import PROPOSED

Sites = dict[str, SiteData]


def run_figures(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Draw what ``study.folder`` holds of ``study.networks`` and ``study.strategies``, in every fold that is finished.

    Writes ``contours_<network>_<site>.png``, ``representations_<network>.png``, ``representations_<network>_autoencoder.png``
    and ``attention.png``. Says which runs were begun and are not finished.

    Raises:
        ConfigurationError: without a folder, or if it holds no finished run of these.
    """
    if config.study.folder is None:
        raise ConfigurationError("which runs to draw is not said: give study.folder=DIR, that of a study or of a run.")
    runs = find_runs(Path(config.study.folder))
    for key in runs.unfinished:
        console.print(f"{key} is not finished and left out", markup=False)
    wanted = _wanted(runs.finished, config)
    pictures: list[str] = []
    networks = dict.fromkeys(run.key.network for run in wanted)
    by_network = {network: [run for run in wanted if run.key.network == network] for network in networks}
    sites = {network: load_sites(replace(own[0].config, fold=0)) for network, own in by_network.items()}

    def drawn(name: str) -> Path:
        pictures.append(name)
        console.print(f"drawing {name}", markup=False)
        return folder / name

    for network, own in by_network.items():
        _draw_contours(network, own, sites[network], drawn)
        _draw_representations(network, own, sites[network], drawn)
    _draw_attention(by_network, sites, drawn)
    unfinished = [str(key) for key in runs.unfinished]
    return {
        "experiment": "figures",
        "runs": [str(run.key) for run in wanted],
        "unfinished": unfinished,
        "pictures": pictures,
    }


def _wanted(found: Sequence[FoundRun], config: RunConfig) -> list[FoundRun]:
    """The found runs in the order of the study's networks and strategies, then of folds."""
    sites = {site for run in found for site in run.config.sites}
    networks, strategies = config.study.networks, strategies_of(config.study, sites)
    wanted = [run for run in found if run.key.network in networks and run.key.strategy in strategies]
    if not wanted:
        raise ConfigurationError(
            f"{config.study.folder} has finished runs ({', '.join(str(run.key) for run in found[:5])}), but none of "
            f"study.networks={networks} with any of study.strategies={config.study.strategies}."
        )
    return sorted(
        wanted, key=lambda run: (networks.index(run.key.network), strategies.index(run.key.strategy), run.key.fold)
    )


Drawn = Callable[[str], Path]
"""Name of a picture → where it goes; it is told on the way."""


def _draw_contours(network: str, runs: Sequence[FoundRun], sites: Sites, drawn: Drawn) -> None:
    """For every site: its worst, median and best test exam by the Dice of the proposed strategy, or else of the last one."""
    for site, data in sites.items():
        tested = [run for run in runs if run.dice(site)]
        if not tested:
            continue
        strategies = list(dict.fromkeys(run.key.strategy for run in tested))
        judge = PROPOSED if PROPOSED in strategies else strategies[-1]
        dice = {exam: value for run in tested if run.key.strategy == judge for exam, value in run.dice(site).items()}
        rows = [
            _compared(f"{rank}: {exam}", site, exam, data, [run for run in tested if exam in run.dice(site)])
            for exam, rank in choose_exams(dice).items()
        ]
        title = f"{network}, {site}: test exams by their Dice under {judge}, of {len(dice)}"
        draw_comparison(title, strategies, data.structures, rows, drawn(f"contours_{network}_{site}.png"))


def _compared(title: str, site: str, exam: str, data: SiteData, runs: Sequence[FoundRun]) -> ComparedSlice:
    networks = {run.key.strategy: segmentation_networks(run.config, run.folder)[site] for run in runs}
    dice = {run.key.strategy: run.dice(site)[exam] for run in runs}
    return compare(title, data.exams[exam], networks, dice, runs[0].config.training.autocast)


def _draw_representations(network: str, runs: Sequence[FoundRun], sites: Sites, drawn: Drawn) -> None:
    """Of the fold in which most strategies are finished: images in the network, label maps in the auto-encoder.

    Networks of single sites have nothing in common that could be compared, and are left out.
    """
    common = [run for run in runs if strategy_named(run.key.strategy).sharing is not Sharing.NOTHING]
    if not common:
        return
    fold = _fullest_fold(common)
    images, label_maps = {}, {}
    for run in (run for run in common if run.key.fold == fold):
        bf16 = run.config.training.autocast
        images[run.key.strategy] = embed_images(segmentation_networks(run.config, run.folder), sites, fold, bf16)
        label_maps[run.key.strategy] = embed_label_maps(autoencoders(run.config, run.folder), sites, fold, bf16)
    seed = common[0].config.seed
    kinds: list[tuple[str, str, Mapping[str, Mapping[str, SiteEmbeddings]]]] = [
        (f"{network}, fold {fold}: images", f"representations_{network}.png", images),
        (
            f"auto-encoder of the runs with {network}, fold {fold}: label maps",
            f"representations_{network}_autoencoder.png",
            {strategy: own for strategy, own in label_maps.items() if own},
        ),
    ]
    for title, name, strategies in kinds:
        if strategies:
            draw_representations(title, strategies, seed, drawn(name))


def _draw_attention(by_network: Mapping[str, Sequence[FoundRun]], sites: Mapping[str, Sites], drawn: Drawn) -> None:
    """All networks with the strategy that most of them have, the proposed one where they do, in one fold; test exams."""
    strategy = _most_common(by_network)
    runs = {network: [run for run in own if run.key.strategy == strategy] for network, own in by_network.items()}
    fold = _fullest_fold([run for own in runs.values() for run in own])
    chosen = {network: run for network, own in runs.items() for run in own if run.key.fold == fold}
    networks = {network: segmentation_networks(run.config, run.folder) for network, run in chosen.items()}
    first = next(iter(chosen))
    slices = [_attended(site, data, fold, networks, sites) for site, data in sites[first].items()]
    draw_attention(f"{strategy}, fold {fold}: attention gate of the highest resolution", slices, drawn("attention.png"))


def _attended(
    site: str,
    data: SiteData,
    fold: int,
    networks: Mapping[str, Mapping[str, TrainedNetwork]],
    sites: Mapping[str, Sites],
) -> AttendedSlice:
    name = list(data.exams)[fold]
    place = fullest_slice(data.exams[name].labels)
    attention = {
        network: attention_map(own[site], sites[network][site].exams[name].images[place])
        for network, own in networks.items()
        if site in own
    }
    return AttendedSlice(site, data.exams[name].images[place], data.exams[name].labels[place], attention)


def _most_common(by_network: Mapping[str, Sequence[FoundRun]]) -> str:
    """The strategy of the most networks; of several, the proposed one or else the last."""
    have = [strategy for own in by_network.values() for strategy in dict.fromkeys(run.key.strategy for run in own)]
    return max(reversed(have), key=lambda strategy: (have.count(strategy), strategy == PROPOSED))


def _fullest_fold(runs: Sequence[FoundRun]) -> int:
    """The fold that most runs have finished; the first of several."""
    folds = sorted(run.key.fold for run in runs)
    return max(folds, key=folds.count)
