"""``mtmd-simulate`` without arguments: phantom joints, each site alone against the three in a federation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.devices import choose_device
from mtmd_core.inference import predict_probabilities
from mtmd_core.models import load_model

from ..data import phantom_folders
from ..pictures import LabelledSlice, draw_contours, fullest_slice, upright
from ..runs import run

ALONE, FEDERATED = "each site alone", "federation"


def run_demo(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Train both ways on the same images, compare them on each site's test exam and draw what they predict."""
    variants = {
        ALONE: replace(config, experiment=None, mode="federated", strategy="individual"),
        FEDERATED: replace(config, experiment=None, mode="federated"),
    }
    # Alone, a network sees the whole batch (Table 1 of the paper); here both see the same number of images of a site.
    share = config.training.batch_size // len(sites)
    variants[ALONE] = replace(variants[ALONE], training=replace(config.training, batch_size=share))
    summaries, folders = {}, {ALONE: folder / "alone", FEDERATED: folder / "federation"}
    for title, variant in variants.items():
        console.print(f"[bold]{title}[/bold] ({variant.strategy})")
        summaries[title] = run(variant, sites, folders[title], console)
    picture = folder / "predictions.png"
    draw_contours(_rows(config, sites, folders), picture)
    _print_comparison(summaries, "phantom joints" if config.sites == phantom_folders(config) else None, console)
    console.print(f"picture of predictions: {picture}", markup=False)
    caption = "Of each site's test exam the slice with the most structure: outlines of ground truth and predictions"
    return {
        "experiment": "demo",
        "runs": summaries,
        "picture": picture.name,
        "captions": {picture.name: caption},
    }


def _rows(config: RunConfig, sites: dict[str, SiteData], folders: dict[str, Path]) -> list[LabelledSlice]:
    """Of each site's test exam, the slice with the most structure."""
    rows, device = [], choose_device(config.device)
    for site, data in sites.items():
        exam = list(data.exams.values())[config.fold]
        place = fullest_slice(exam.labels)
        labels = {"ground truth": np.array(exam.labels[place])}
        for title, folder in folders.items():
            network, card = load_model(folder / "models" / f"{site}.safetensors")
            domain = card.site(site).space.domain
            scores = predict_probabilities(network.to(device), domain, exam.images[place : place + 1])
            labels[title] = scores[0].argmax(dim=0).cpu().numpy()
        shown = {title: upright(label) for title, label in labels.items()}
        rows.append(LabelledSlice(site, upright(exam.images[place]), shown))
    return rows


def _print_comparison(summaries: dict[str, dict], title: str | None, console: Console) -> None:
    table = Table("Dice on the test exam of", *summaries, title=title)
    sites = next(iter(summaries.values()))["sites"]
    for site in sites:
        table.add_row(site, *(f"{s['sites'][site]['foreground_mean']['dice']:.3f}" for s in summaries.values()))
    table.add_section()
    table.add_row("mean of sites", *(f"{summary['mean']['dice']:.3f}" for summary in summaries.values()))
    worst = (summary["worst_site"] for summary in summaries.values())
    table.add_row("worst site", *(f"{site['foreground_mean']['dice']:.3f} ({site['name']})" for site in worst))
    console.print(table)
