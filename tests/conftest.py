import gc
import os
from pathlib import Path

import pytest
import torch

OF_PROCESSES = ("test_deployment.py", "test_network_reach.py", "test_open_port.py", "test_drill.py", "test_study.py")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from more threads, and the cores are taken by the suite's own processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of slices beside which phantoms are made; who asks for the same ones finds them, in whichever process."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "phantoms" / "slices"


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: those that start processes or write to disk wait for them now and then."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start many processes first, then those that train: they take longest, and nothing waits for one at the end."""
    items.sort(key=lambda item: (item.path.name not in OF_PROCESSES, item.path.parent.name != "simulation"))


def pytest_collection_finish() -> None:
    """What imports and collection made stays: the garbage collector need not walk through it in every test."""
    gc.collect()
    gc.freeze()
