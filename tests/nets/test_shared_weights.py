"""Blocks that share weights: each is the part of the largest that its name says, and all learn from any path."""

import pytest
import torch

from tvmfbnet.nets.supernet import Paths, Supernet
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space

YAML = """
input: {channels: 1, height: 12, width: 12}
classes: 3
stem: {channels: 4, stride: 1}
stages:
  - {channels: 4, layers: 1, blocks: [k3_e1, k3_e1_g2, k5_e3, k3_e6_se, k3_e2_se, k3_e3_swish, skip]}
  - {channels: 8, layers: 2, stride: 2, blocks: [k3_e6, k7_e2_g2, k5_e1, skip]}
  - {channels: 8, layers: 1, blocks: [skip]}
last_channels: 8
"""


@pytest.fixture
def supernet(tmp_path):
    (tmp_path / "space.yaml").write_text(YAML)
    torch.manual_seed(0)
    net = Supernet(load_space(str(tmp_path / "space.yaml")), share_weights=True).double()
    with torch.no_grad():
        for parameter in net.weight_parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return net


def images():
    return torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_an_extracted_net_computes_what_its_path_does(supernet):
    for number in range(7):
        choice = [number % len(layer.blocks) for layer in supernet.space.layers]
        arch = Arch(tuple(layer.blocks[i] for layer, i in zip(supernet.space.layers, choice, strict=True)))
        net = supernet.extract(arch).double().train()
        assert torch.allclose(net(images()), supernet.train()(images(), choice), atol=1e-10)


def test_a_mixture_is_the_weighted_sum_of_the_single_paths(supernet):
    layer, x = supernet.layers[0].train(), torch.randn(6, 4, 12, 12, dtype=torch.float64)
    weights = torch.arange(1.0, 8.0, dtype=torch.float64) / 28
    single = sum(weight * layer(x, index) for index, weight in enumerate(weights))
    assert torch.allclose(layer(x, weights), single)
    two = layer(x, Paths((0, 3), torch.tensor([0.25, 0.75], dtype=torch.float64)))
    assert torch.allclose(two, 0.25 * layer(x, 0) + 0.75 * layer(x, 3))


def test_a_grouped_block_is_the_dense_one_with_only_its_diagonal(supernet):
    layer, x = supernet.layers[0].train(), torch.randn(6, 4, 12, 12, dtype=torch.float64)
    dense, grouped = 0, 1
    largest = layer.shared[0].largest
    with torch.no_grad():
        for place in range(4):  # behind the shuffle, places alternate between the two groups
            largest.conv_pw.weight[place, 2:] *= place % 2
            largest.conv_pw.weight[place, :2] *= 1 - place % 2
        largest.conv_pwl.weight[:2, 2:4] = 0
        largest.conv_pwl.weight[2:, :2] = 0
    assert torch.allclose(layer(x, grouped), layer(x, dense))


def test_a_step_on_one_path_trains_the_other_blocks_of_its_structure_and_no_unused_parameter(supernet):
    x = images()
    before = {choice: supernet(x, [choice, 0, 0, 0]).detach() for choice in range(7)}
    optimiser = torch.optim.SGD(supernet.weight_parameters(), lr=0.1)
    supernet(x, [2, 0, 0, 0]).square().sum().backward()
    assert {name for name, p in supernet.named_parameters() if p.grad is not None} <= {
        name for name, p in supernet.named_parameters() if any(p is used for used in supernet.weight_parameters())
    }
    grad = supernet.layers[0].shared[0].largest.conv_pw.weight.grad
    assert grad is not None and grad.abs().sum() > 0
    assert all(s.largest.conv_pw.weight.grad is None for s in supernet.layers[0].shared[1:]), "another structure"
    optimiser.step()
    assert all(not torch.allclose(supernet(x, [choice, 0, 0, 0]), before[choice]) for choice in (0, 1, 2))


def test_by_default_blocks_have_weights_of_their_own(supernet):
    plain = Supernet(supernet.space)
    assert not any("shared" in name for name in plain.state_dict())
    assert len(plain.weight_parameters()) == len(list(plain.parameters())) - 1
