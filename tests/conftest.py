import pytest
import torch

WHOLE_FEDERATIONS = ("test_deployment.py", "test_network_reach.py", "test_open_port.py")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from more threads, and the cores are taken by the suite's own processes."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole federations of processes first: they take longest, and beside them one core does the rest."""
    items.sort(key=lambda item: item.path.name not in WHOLE_FEDERATIONS)
