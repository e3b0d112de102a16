"""The sites of a simulated run."""

from pathlib import Path

from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.errors import ConfigurationError, MtmdError


def load_sites(config: RunConfig) -> dict[str, SiteData]:
    """Read every site's exams, in the order of site names.

    Raises:
        ConfigurationError: if no sites are given, or the fold is not one of the smallest site's.
        DataError: for exams that cannot be used; the text begins with the site.
    """
    if not config.sites:
        raise ConfigurationError("no sites are given: add 'sites={ankle: DIR, knee: DIR, shoulder: DIR}'.")
    sites = {}
    for site, folder in sorted(config.sites.items()):
        try:
            sites[site] = load_site(
                site,
                Path(folder),
                config.data.slice_size,
                config.data.slice_axis,
                Path(config.data.cache_dir),
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
