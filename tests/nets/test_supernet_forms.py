"""The fast and cheap forms of the supernet against the plain one: block by block, all blocks."""

import copy

import pytest
import torch

from tvmfbnet.nets import fused_mbconv
from tvmfbnet.nets.bn_folding import randomise_bn
from tvmfbnet.nets.supernet import Paths, Supernet
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.device import place_net, place_pixels

RICH_YAML = """
input: {channels: 1, height: 12, width: 12}
classes: 3
stem: {channels: 4, stride: 1}
stages:
  - {channels: 4, layers: 1, blocks: [k3_e1, k5_e3_se_hswish, k3_e1_g2, skip]}
  - {channels: 8, layers: 2, stride: 2, blocks: [k3_e1_g4, k7_e2_g2_se, k3_e3_swish, k5_e1, skip]}
  - {channels: 8, layers: 1, blocks: [skip]}
last_channels: 8
"""


@pytest.fixture(params=["fbnet_mini", "rich"])
def space(request, tmp_path):
    if request.param == "fbnet_mini":
        return load_space("fbnet_mini")
    path = tmp_path / "rich.yaml"
    path.write_text(RICH_YAML)
    return load_space(str(path))


def twins(space, **form):
    """The plain supernet and another form of it, float64, with the same weights."""
    torch.manual_seed(0)
    plain = Supernet(space, merged=False)
    randomise_bn(plain, seed=1)
    other = Supernet(space, **form)
    other.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for net in (plain, other):
            net.theta.copy_(torch.linspace(-1, 1, net.theta.numel()).view_as(net.theta))
    return plain.double(), other.double()


def images(space):
    shape = (6, space.input_channels, space.height, space.width)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def step(net, space, mix):
    """Logits, gradients by name and the state afterwards of one step of weights and theta together."""
    logits = net(images(space), mix)
    logits.square().mean().backward()
    return logits, {name: p.grad for name, p in net.named_parameters()}, net.state_dict()


def assert_equal(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=1e-8, atol=1e-10)
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("form", [{"merged": True}, {"save_memory": True}, {"merged": False, "save_memory": True}])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_mixture_gives_the_plain_forms_outputs_gradients_and_statistics(space, form, training):
    nets = [net.train(training) for net in twins(space, **form)]
    steps = [step(net, space, net.gumbel_mix(2.0, torch.Generator().manual_seed(0))) for net in nets]
    assert_equal(*steps)
    assert steps[0][1]["theta"].abs().max() > 1e-6
    counts = [int(value) for name, value in steps[1][2].items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {1 if training else 0}, "recomputing is no second batch"


@pytest.mark.parametrize("size", [1, 9000])
def test_the_size_of_the_portions_that_images_go_through_in_changes_nothing(space, size, monkeypatch):
    plain, other = twins(space)
    monkeypatch.setattr(fused_mbconv, "PORTION", 2 * size)  # a pixel at a time, or fewer images at the end
    steps = [step(net, space, net.gumbel_mix(2.0, torch.Generator().manual_seed(0))) for net in (plain, other)]
    assert_equal(*steps)


@pytest.mark.parametrize("merged", [True, False])
def test_channels_last_gives_the_plain_forms_outputs_and_gradients(space, merged):
    plain, other = twins(space, merged=merged)
    mix = plain.gumbel_mix(2.0, torch.Generator().manual_seed(0)).detach()
    logits, gradients, _ = step(plain, space, mix)
    place_net(other, torch.device("cpu"))
    placed = other(place_pixels(images(space), torch.device("cpu")), mix)
    placed.square().mean().backward()
    placed_gradients = {name: p.grad for name, p in other.named_parameters()}
    assert_equal(
        (logits, {n: g for n, g in gradients.items() if n != "theta"}),
        (placed, {n: g for n, g in placed_gradients.items() if n != "theta"}),
    )


def test_theta_alone_gets_the_plain_forms_gradient(space):
    gradients = []
    for net in twins(space):
        for parameter in net.weight_parameters():
            parameter.requires_grad_(False)
        net(images(space), net.gumbel_mix(2.0, torch.Generator().manual_seed(0))).square().mean().backward()
        assert all(p.grad is None for p in net.weight_parameters())
        gradients.append(net.theta.grad)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("form", ["sampled", "two_path"])
def test_a_cheap_forms_output_is_the_plain_forms_with_those_weights(space, form):
    plain, net = twins(space)
    paths, _ = net.draw(form, 2.0, torch.Generator().manual_seed(0))
    mix = torch.zeros_like(plain.theta)
    for row, chosen in zip(mix, paths, strict=True):
        row[list(chosen.indices)] = chosen.weights.detach()
    torch.testing.assert_close(mix.sum(dim=1), torch.ones(len(mix), dtype=mix.dtype))
    logits = net.train()(images(space), paths)
    torch.testing.assert_close(logits, plain.train()(images(space), mix))
    logits.square().sum().backward()
    for layer, chosen in zip(net.layers, paths, strict=True):
        ran = {index for index, block in enumerate(layer.blocks) if any(p.grad is not None for p in block.parameters())}
        assert ran <= set(chosen.indices), "no other block runs"
        assert len(chosen.indices) <= (1 if form == "sampled" else 2)


@pytest.mark.parametrize("form", ["mixture", "sampled", "two_path"])
def test_every_form_gives_every_theta_a_gradient(form):
    _, net = twins(load_space("fbnet_mini"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(1 if form == "mixture" else 30):  # a cheap form reaches all candidates only over many steps
        mix, _ = net.draw(form, 1.0, generator)
        net(images(net.space)[:2], mix).square().mean().backward()
    assert (net.theta.grad != 0).all()


def test_a_straight_through_gradient_is_the_soft_weights_gradient():
    _, net = twins(load_space("fbnet_mini"))
    paths, soft = net.draw("sampled", 1.0, torch.Generator().manual_seed(0))
    for chosen, row in zip(paths, soft, strict=True):
        assert chosen.weights.tolist() == pytest.approx([1.0]) and chosen.indices[0] == int(row.argmax())
    hard = torch.autograd.grad(sum(p.weights.sum() for p in paths), net.theta, retain_graph=True)[0]
    chosen_soft = sum(row[p.indices[0]] for p, row in zip(paths, soft, strict=True))
    torch.testing.assert_close(hard, torch.autograd.grad(chosen_soft, net.theta)[0])


def test_two_paths_with_all_of_the_probability_are_the_mixture(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text(
        RICH_YAML.split("stages:")[0] + "stages: [{channels: 4, layers: 2, blocks: [k3_e1, k5_e1]}]\nlast_channels: 8\n"
    )
    plain, net = twins(load_space(str(path)))
    steps = []
    for one, form in ((plain, "mixture"), (net, "two_path")):
        mix, _ = one.draw(form, 2.0, torch.Generator().manual_seed(0))
        steps.append(step(one, one.space, mix))
    assert_equal(*steps)


def test_draws_are_repeatable_and_follow_theta():
    net = Supernet(load_space("fbnet_mini"))
    with torch.no_grad():
        net.theta[:, 3] = 3.0
    draws = [net.draw("sampled", 5.0, torch.Generator().manual_seed(4))[0] for _ in range(2)]
    assert [p.indices for p in draws[0]] == [p.indices for p in draws[1]]
    generator = torch.Generator().manual_seed(0)
    share = sum(net.draw("sampled", 5.0, generator)[0][0].indices == (3,) for _ in range(400)) / 400
    assert abs(share - float(net.probabilities().detach()[0, 3])) < 0.08, (
        "the largest Gumbel logit is a sample, at any temperature"
    )


def test_a_mixture_keeps_each_blocks_own_weights(space):
    net = Supernet(space)
    before = copy.deepcopy(net.state_dict())
    net.eval()(images(space).float(), net.gumbel_mix(1.0, torch.Generator()))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_blocks_without_a_residual_start_as_one_function_and_learn_apart():
    net = Supernet(load_space("fbnet_mini")).double().train()
    layer, blocks = net.layers[2], net.space.layers[2].blocks
    x = torch.randn(4, 16, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    convs = [block for name, block in zip(blocks, layer.blocks, strict=True) if name != "skip"]
    first, *others = [block(x) for block in convs]
    assert first.std() > 0.5
    for other in others:
        torch.testing.assert_close(other, first)
    sum(block(x).pow(3).mean() for block in convs).backward()
    for block in convs[1:]:
        assert (block.conv_pwl.weight.grad != 0).all(), "what starts at zero learns"
        outer = block.conv_dw.weight.grad[: convs[0].conv_dw.in_channels]
        assert (outer != 0).all()


def test_no_paths_in_a_layer_that_changes_the_shape_is_an_error():
    net = Supernet(load_space("fbnet_mini"))
    with pytest.raises(ValueError, match="no path"):
        net.layers[2](torch.zeros(1, 16, 16, 16), Paths((), torch.zeros(0)))
