"""``experiment=figures``: pictures of finished runs, after Figures 5 to 8 of the paper; nothing is trained."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.config_files import refuse_unheeded, save_config
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.page.best_effort import best_effort
from mtmd_core.page.figures import CAPTIONS, FOLDER, known_captions
from mtmd_core.strategies import Sharing, strategy_named

from ..data import load_sites
from ..embeddings import SiteEmbeddings, embed_images, embed_label_maps
from ..figures.attention import AttendedSlice, attention_map, draw_attention
from ..figures.contours import ComparedSlice, choose_exams, compare, draw_comparison
from ..figures.representations import draw_representations
from ..found_runs import FoundRun, runs_asked_for
from ..phantom.datasets import usable_cores
from ..pictures import fullest_slice
from ..run_exams import check_exams
from ..runs import CONFIG
from ..study import strategies_of
from ..trained import TrainedNetwork, autoencoders, segmentation_networks
from .table4 import PROPOSED

Sites = dict[str, SiteData]


def run_figures(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Draw what ``study.folder`` holds of ``study.networks`` and ``study.strategies``, in every fold that is finished.

    Writes ``contours_<network>_<site>.png``, ``representations_<network>.png``, ``representations_<network>_autoencoder.png``
    and ``attention.png``, and puts them into the page of ``study.folder`` too. Says which runs were begun and are not finished.

    Raises:
        ConfigurationError: without a folder, if it holds no finished run of these, if runs that stand side by side see other
            slices, or if a run's exams have changed.
    """
    refuse_unheeded(words, "figures", dict.fromkeys(("fold", "study.folds"), "it draws every fold that is finished"))
    finished, unfinished = runs_asked_for(config, console)
    source, wanted = Path(config.study.folder), _wanted(finished, config)
    captions: dict[str, str] = {}
    networks = dict.fromkeys(run.key.network for run in wanted)
    by_network = {network: [run for run in wanted if run.key.network == network] for network in networks}
    for network, own in by_network.items():
        _check_one_cut(network, own)
    sites = {network: load_sites(replace(own[0].config, fold=0)) for network, own in by_network.items()}
    for run in wanted:
        check_exams(sites[run.key.network], run.folder)
    save_config(config, folder / CONFIG)

    def drawn(name: str, caption: str) -> Path:
        captions[name] = caption
        console.print(f"drawing {name}", markup=False)
        return folder / name

    for network, own in by_network.items():
        _draw_contours(network, own, sites[network], drawn)
        _draw_representations(network, own, sites[network], config.threads or usable_cores(), drawn)
    _draw_attention(by_network, sites, drawn)
    with best_effort(f"the page of {source} with its pictures"):
        _put_into_page(source, folder, captions)
        console.print(f"the pictures are in {source / FOLDER} and on its page, too", markup=False)
    return {
        "experiment": "figures",
        "runs": [str(run) for run in wanted],
        "unfinished": [str(key) for key in unfinished],
        "pictures": list(captions),
        "captions": captions,
    }


def _check_one_cut(network: str, runs: Sequence[FoundRun]) -> None:
    """That all runs of a network see the same slices: they are drawn side by side."""
    cuts = {(run.config.data.slice_size, run.config.data.slice_axis): run for run in runs}
    if len(cuts) > 1:
        (size, axis), (other_size, other_axis) = list(cuts)[:2]
        raise ConfigurationError(
            f"the runs with {network} see other slices: data.slice_size {size} and {other_size}, data.slice_axis {axis} and "
            f"{other_axis}. Give the folders of each one by one with study.folder=."
        )


def _put_into_page(source: Path, folder: Path, captions: Mapping[str, str]) -> None:
    """Copy the pictures into ``figures/`` of the runs that they show, and write that folder's page anew."""
    from ..report import report  # which knows every experiment

    place = source / FOLDER
    place.mkdir(exist_ok=True)
    for name in captions:
        if not (place / name).exists() or not (place / name).samefile(folder / name):
            shutil.copyfile(folder / name, place / name)
    write_json(place / CAPTIONS, known_captions(place) | dict(captions))
    report([source])


def _wanted(found: Sequence[FoundRun], config: RunConfig) -> list[FoundRun]:
    """The found runs in the order of the study's networks and strategies, then of folds."""
    sites = {site for run in found for site in run.config.sites}
    networks, strategies = config.study.networks, strategies_of(config.study, sites)
    wanted = [
        replace(run, config=replace(run.config, device=config.device))
        for run in found
        if run.key.network in networks and run.key.strategy in strategies
    ]
    if not wanted:
        raise ConfigurationError(
            f"{config.study.folder} has finished runs ({', '.join(map(str, found[:5]))}), but none of "
            f"study.networks={networks} with any of study.strategies={config.study.strategies}."
        )
    return sorted(
        wanted,
        key=lambda run: (
            networks.index(run.key.network),
            strategies.index(run.key.strategy),
            run.title,
            run.key.fold,
        ),
    )


Drawn = Callable[[str, str], Path]
"""Name and caption of a picture → where it goes; it is told on the way."""


def _draw_contours(network: str, runs: Sequence[FoundRun], sites: Sites, drawn: Drawn) -> None:
    """For every site: its worst, median and best test exam by the Dice of the proposed strategy, or else of the last one."""
    for site, data in sites.items():
        tested = [run for run in runs if run.dice(site)]
        if not tested:
            continue
        methods = list(dict.fromkeys(run.title for run in tested))
        judge = PROPOSED if PROPOSED in methods else methods[-1]
        dice = {exam: value for run in tested if run.title == judge for exam, value in run.dice(site).items()}
        rows = [
            _compared(f"{rank}: {exam}", site, exam, data, [run for run in tested if exam in run.dice(site)])
            for exam, rank in choose_exams(dice).items()
        ]
        title = f"{network}, {site}: test exams by their Dice under {judge}, of {len(dice)}"
        path = drawn(f"contours_{network}_{site}.png", f"{network}, {site}: outlines of ground truth and predictions")
        draw_comparison(title, methods, data.structures, rows, path)


def _compared(title: str, site: str, exam: str, data: SiteData, runs: Sequence[FoundRun]) -> ComparedSlice:
    networks = {run.title: segmentation_networks(run.config, run.folder)[site] for run in runs}
    dice = {run.title: run.dice(site)[exam] for run in runs}
    return compare(title, data.exams[exam], networks, dice)


def _draw_representations(network: str, runs: Sequence[FoundRun], sites: Sites, processes: int, drawn: Drawn) -> None:
    """Of the fold in which most strategies are finished: images in the network, label maps in the auto-encoder.

    Networks of single sites have nothing in common that could be compared, and are left out.
    """
    common = [run for run in runs if strategy_named(run.key.strategy).sharing is not Sharing.NOTHING]
    if not common:
        return
    fold = _fullest_fold(common)
    images, label_maps = {}, {}
    for run in (run for run in common if run.key.fold == fold):
        images[run.title] = embed_images(segmentation_networks(run.config, run.folder), sites, fold)
        label_maps[run.title] = embed_label_maps(autoencoders(run.config, run.folder), sites, fold)
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
            path = drawn(name, f"t-SNE of embeddings; {title}")
            draw_representations(title, strategies, seed, path, processes)


def _draw_attention(by_network: Mapping[str, Sequence[FoundRun]], sites: Mapping[str, Sites], drawn: Drawn) -> None:
    """All networks with the method that most of them have, the proposed one where they do, in one fold; test exams."""
    method = _most_common(by_network)
    runs = {network: [run for run in own if run.title == method] for network, own in by_network.items()}
    fold = _fullest_fold([run for own in runs.values() for run in own])
    chosen = {network: run for network, own in runs.items() for run in own if run.key.fold == fold}
    networks = {network: segmentation_networks(run.config, run.folder) for network, run in chosen.items()}
    first = next(iter(chosen))
    slices = [_attended(site, data, fold, networks, sites) for site, data in sites[first].items()]
    title = f"{method}, fold {fold}: attention gate of the highest resolution"
    draw_attention(title, slices, drawn("attention.png", title))


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
    """The method of the most networks; of several, the proposed one or else the last."""
    have = [method for own in by_network.values() for method in dict.fromkeys(run.title for run in own)]
    return max(reversed(have), key=lambda method: (have.count(method), method == PROPOSED))


def _fullest_fold(runs: Sequence[FoundRun]) -> int:
    """The fold that most runs have finished; the first of several."""
    folds = sorted(run.key.fold for run in runs)
    return max(folds, key=folds.count)
