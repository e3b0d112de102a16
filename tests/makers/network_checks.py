"""What must hold of every network."""

from torch import Tensor, nn

from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing


def check_size(network: nn.Module, millions: float) -> None:
    """The network has so many parameters within 1 %, and domains keep at most 3 % of them (the paper, Table 1)."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    private = sum(sizes.get(name, 0) for name in partition(network, Sharing.CONVOLUTIONS).private)
    assert abs(sum(sizes.values()) / 1e6 / millions - 1) <= 0.01
    assert 0 < private / sum(sizes.values()) <= 0.03


def check_step_of_one_domain(network: nn.Module, before: dict[str, Tensor], domain: str) -> None:
    """A step on a domain's images has changed shared tensors and the domain's own, running means included: no other bit."""
    changed = {name for name, tensor in network.state_dict().items() if not tensor.equal(before[name])}
    parts = partition(network, Sharing.CONVOLUTIONS)
    own = {name for name in parts.private if f".domains.{domain}." in name}
    assert changed <= own | set(parts.shared)
    assert {name for name in own if name.endswith("running_mean")} <= changed
    assert set(parts.shared) <= changed
