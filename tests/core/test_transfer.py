import torch

from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.transfer import transfer_weights


def test_all_but_the_output_layer_goes_over():
    """So the target sees what the source sees, and keeps its own fresh output layer."""
    source = build_network(NetworkConfig(width=4), {"ankle": 4}, seed=0)
    random = torch.Generator().manual_seed(3)
    for tensor in source.state_dict().values():  # trained: parameters and running statistics are its own
        tensor.copy_(0.2 + torch.rand(tensor.shape, generator=random))
    target = build_network(NetworkConfig(width=4), {"knee": 5}, seed=1)
    fresh = {name: tensor.clone() for name, tensor in target.output.state_dict().items()}
    given = {name: tensor.clone() for name, tensor in source.state_dict().items()}

    transfer_weights(source, "ankle", target, "knee")

    assert all(torch.equal(tensor, fresh[name]) for name, tensor in target.output.state_dict().items())
    expected = {
        name.replace(".domains.ankle.", ".domains.knee."): tensor
        for name, tensor in given.items()
        if not name.startswith("output.")
    }
    taken = {name: tensor for name, tensor in target.state_dict().items() if not name.startswith("output.")}
    assert taken.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in taken.items())
    target.encoder[0][0].conv.weight.data.zero_()  # a copy: the source does not follow
    assert torch.equal(source.encoder[0][0].conv.weight, given["encoder.0.0.conv.weight"])
