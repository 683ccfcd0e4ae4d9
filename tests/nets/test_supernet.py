import pytest
import torch

from tvmfbnet.nets.bn_folding import randomise_bn
from tvmfbnet.nets.bn_recalibration import recalibrate
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space

MINI = load_space("fbnet_mini")
RAGGED_YAML = """
input: {channels: 1, height: 8, width: 8}
classes: 3
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, blocks: [k3_e1, skip]}
  - {channels: 8, layers: 2, stride: 2, blocks: [k3_e1, k3_e3, k5_e1, skip]}
last_channels: 8
"""


@pytest.fixture
def ragged(tmp_path):
    path = tmp_path / "ragged.yaml"
    path.write_text(RAGGED_YAML)
    return load_space(str(path))


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return Supernet(MINI)


def pictures(space, count=4):
    return torch.randn(count, space.input_channels, space.height, space.width)


def test_a_one_hot_mixture_equals_running_that_block_alone(supernet):
    randomise_bn(supernet, seed=0)
    choice = [index % len(layer.blocks) for index, layer in enumerate(MINI.layers)]
    mix = torch.nn.functional.one_hot(torch.tensor(choice), supernet.theta.shape[1]).float()
    x = pictures(MINI)
    supernet.eval()
    torch.testing.assert_close(supernet(x, mix), supernet(x, choice))


def test_a_layer_is_the_weighted_sum_of_its_blocks(supernet):
    randomise_bn(supernet, seed=0)
    layer, weights = supernet.layers[2].eval(), torch.softmax(torch.randn(9), 0)
    x = torch.randn(2, MINI.layers[2].cin, MINI.layers[2].height, MINI.layers[2].width)
    outputs = torch.stack([block(x) for block in layer.blocks])
    torch.testing.assert_close(layer(x, weights), torch.einsum("i,inchw->nchw", weights, outputs))


def test_an_index_runs_one_block_only(supernet):
    supernet.train()
    supernet(pictures(MINI), [0] * len(MINI.layers)).sum().backward()
    for layer in supernet.layers:
        for index, block in enumerate(layer.blocks):
            grads = [parameter.grad for parameter in block.parameters()]
            assert all((grad is not None) == (index == 0) for grad in grads)


def test_residual_blocks_start_as_the_identity(supernet):
    x = torch.randn(2, 16, 16, 16)
    assert all(torch.equal(block.eval()(x), x) for block in supernet.layers[1].blocks)


def test_every_theta_gets_a_gradient(supernet):
    randomise_bn(supernet, seed=0)
    generator = torch.Generator().manual_seed(0)
    supernet(pictures(MINI), supernet.gumbel_mix(5.0, generator)).square().sum().backward()
    assert (supernet.theta.grad != 0).all()


def test_low_temperature_mixtures_follow_the_probabilities(supernet):
    with torch.no_grad():
        supernet.theta[0, 3] = 2.0
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([supernet.gumbel_mix(0.01, generator)[0] for _ in range(2000)])
    assert drawn.max(dim=1).values.mean() > 0.95, "nearly one-hot"
    torch.testing.assert_close(drawn.mean(dim=0), supernet.probabilities()[0], atol=0.03, rtol=0)


def test_layers_may_differ_in_their_candidates(ragged):
    supernet, generator = Supernet(ragged), torch.Generator().manual_seed(0)
    mix = supernet.gumbel_mix(1.0, generator)
    assert mix.shape == (3, 4) and (mix[0, 2:] == 0).all()
    torch.testing.assert_close(mix.sum(dim=1), torch.ones(3))
    supernet(pictures(ragged), mix).sum().backward()
    assert torch.isfinite(supernet.theta.grad).all() and (supernet.theta.grad[0, 2:] == 0).all()
    assert all(supernet.uniform_choice(generator)[0] < 2 for _ in range(50))


def test_warm_up_takes_each_block_equally_often(supernet):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([supernet.uniform_choice(generator) for _ in range(1800)])
    counts = torch.stack([torch.bincount(column, minlength=9) for column in drawn.T])
    assert counts.min() > 140 and counts.max() < 260  # 200 expected, deviation 13


def test_weights_and_theta_are_disjoint_and_complete(supernet):
    weights, thetas = supernet.weight_parameters(), supernet.theta_parameters()
    assert len(weights) + len(thetas) == len(list(supernet.parameters()))
    assert not {id(p) for p in weights} & {id(p) for p in thetas}


def test_an_extracted_net_computes_what_its_path_computes(supernet):
    arch = parse_arch("k3_e1,skip/k5_e3,k3_e1_g2,skip/skip,k5_e6", MINI)
    supernet.train()
    supernet(pictures(MINI, 16), supernet.choice_of(arch))  # moves the statistics off their start
    net, x = supernet.extract(arch).eval(), pictures(MINI)
    supernet.eval()
    torch.testing.assert_close(net(x), supernet(x, supernet.choice_of(arch)))


def test_recalibration_gives_a_derived_net_the_statistics_of_its_own_inputs(supernet):
    supernet.train()
    for _ in range(5):
        supernet(100 + pictures(MINI, 8), supernet.gumbel_mix(5.0, torch.Generator().manual_seed(1)))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    net = supernet.extract(parse_arch("k3_e1,k3_e1/k5_e3,k3_e1_g2,skip/skip,k5_e6", MINI))
    batches = [pictures(MINI, 32), pictures(MINI, 32)]
    recalibrate(net, batches)
    with torch.no_grad():
        outputs = [net.stem.conv(batch) for batch in batches]
    mean = torch.stack([out.mean(dim=(0, 2, 3)) for out in outputs]).mean(dim=0)
    var = torch.stack([out.var(dim=(0, 2, 3)) for out in outputs]).mean(dim=0)
    torch.testing.assert_close(net.stem.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.stem.bn.running_var, var, rtol=1e-3, atol=1e-5)
    assert not net.training and net.stem.bn.momentum == 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
