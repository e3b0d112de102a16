"""The sites of a simulated run."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mtmd_core.config import PhantomConfig, RunConfig
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.errors import ConfigurationError, MtmdError
from mtmd_core.processes import in_turn

from .phantom.datasets import write_datasets
from .phantom.exam import GENERATOR_VERSION, JOINT_NAMES


def load_sites(config: RunConfig) -> dict[str, SiteData]:
    """Read every site's exams, in the order of site names.

    Raises:
        ConfigurationError: if the fold is not one of the smallest site's.
        DataError: for exams that cannot be used; the text begins with the site.
    """
    sites = {}
    for site, folder in sorted(config.sites.items()):
        try:
            sites[site] = load_site(
                site,
                Path(folder),
                config.data.slice_size,
                config.data.slice_axis,
                Path(config.data.cache_dir),
                config.data.in_memory,
            )
        except MtmdError as error:
            raise type(error)(f"{site}: {error}") from None
    smallest = min(sites, key=lambda site: len(sites[site].exams))
    folds = len(sites[smallest].exams)
    if config.fold >= folds:
        raise ConfigurationError(
            f"fold={config.fold}, but {smallest} has {folds} exams, which make folds 0 to {folds - 1}."
        )
    return sites


def make_phantoms(config: RunConfig, console: Console) -> dict[str, str]:
    """Phantom joints of the configured number, resolution and seed; made once and kept beside the cache of slices."""
    folders = phantom_folders(config)
    if not _are_made(folders):
        place = Path(next(iter(folders.values()))).parent
        with in_turn(place):  # of the commands that begin together one makes them, the others wait for it
            if not _are_made(folders):
                missing = [joint for joint, folder in folders.items() if not _is_made(folder)]
                _make_phantoms(config.phantoms, missing, place, console)
    return folders


def _are_made(folders: dict[str, str]) -> bool:
    return all(map(_is_made, folders.values()))


def _is_made(folder: str) -> bool:
    return (Path(folder) / "dataset.json").is_file()


def _make_phantoms(wanted: PhantomConfig, joints: Sequence[str], place: Path, console: Console) -> None:
    exams = dict.fromkeys(joints, wanted.exams)
    console.print(f"no sites are given: making {wanted.exams} phantom exams a joint in {place}", markup=False)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("phantom joints", total=sum(exams.values()))
        write_datasets(place, exams, wanted.seed, wanted.scale, progress=lambda *_: bar.advance(task))


def phantom_folders(config: RunConfig) -> dict[str, str]:
    """Joint → folder of the phantoms that :func:`make_phantoms` makes, whether they are there yet or not."""
    wanted = config.phantoms
    name = f"version_{GENERATOR_VERSION}_exams_{wanted.exams}_scale_{wanted.scale}_seed_{wanted.seed}"
    place = Path(config.data.cache_dir).parent / "phantoms" / name
    return {joint: str(place / joint) for joint in JOINT_NAMES}
