"""Runs in float64 leave networks in float64, which whoever reads them goes on in."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tiny_sites import SITES, WHOLE_METHOD, run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.tensor_files import load_tensors
from simulation.command import simulate
from simulation.data import load_sites
from simulation.embeddings import embed_images, embed_label_maps
from simulation.trained import autoencoder_file, autoencoders, network_file, segmentation_networks

WORDS = ("mode=federated", "training.dtype=float64", "federation.rounds=1", "federation.autoencoder_rounds=1")


def test_a_federation_in_float64_leaves_networks_whose_embeddings_can_be_looked_at(tmp_path: Path) -> None:
    folders = write_sites(tmp_path / "sites")
    words = run_words(folders, *WHOLE_METHOD, *WORDS, f"data.cache_dir='{tmp_path / 'cache'}'")
    config, folder = compose("simulate", words), tmp_path / "out"
    simulate(config, folder, Console(quiet=True))
    for site in SITES:
        for file in (network_file(folder, site), autoencoder_file(folder, site)):
            tensors, _ = load_tensors(file)
            assert {tensor.dtype for tensor in tensors.values()} == {torch.float64}, file
            kept = [tensor for tensor in tensors.values() if not torch.equal(tensor, tensor.float().double())]
            assert kept, f"{file} holds float32 in another dress"
    sites = load_sites(config)
    for found in (
        embed_images(segmentation_networks(config, folder), sites, 0),
        embed_label_maps(autoencoders(config, folder), sites, 0),
    ):
        assert found.keys() == SITES.keys()
        assert all(np.isfinite(scale).all() for own in found.values() for scale in own.scales)
