"""bfloat16 in every form of a step: finite, near float32, with statistics that stay float32."""

import pytest
import torch
from test_supernet_forms import RICH_YAML
from torch import distributed, nn
from torch.nn import functional as F

from tvmfbnet.nets.joint_batchnorm import SharedNorm
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.precision import computing_in, precision_on
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.device import place_net, place_pixels

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")),
]
BATCH = 6


@pytest.fixture
def space(tmp_path):
    """All kinds of blocks, few pixels."""
    path = tmp_path / "rich.yaml"
    path.write_text(RICH_YAML)
    return load_space(str(path))


def mix_of(net, form):
    generator = torch.Generator().manual_seed(1)
    return net.uniform_choice(generator) if form == "warm-up" else net.draw(form, 2.0, generator)[0]


def step(net, form, precision, device):
    """Loss, all gradients in one vector, and the running statistics of one step of weights and theta."""
    space = net.space
    shape = (BATCH, space.input_channels, space.height, space.width)
    pixels = place_pixels(torch.randn(shape, generator=torch.Generator().manual_seed(2)), device)
    with computing_in(precision, device):
        logits = net(pixels, mix_of(net, form)).float()
    loss = F.cross_entropy(30 * logits, torch.arange(BATCH, device=device) % space.classes)
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return loss.item(), gradients, {n: b.clone() for n, b in net.named_buffers() if "running" in n}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("save_memory", [False, True], ids=["keeping", "save_memory"])
@pytest.mark.parametrize(
    ("form", "merged"),
    [("mixture", True), ("mixture", False), ("two_path", True), ("sampled", True), ("warm-up", True)],
)
def test_bfloat16_computes_about_what_float32_does_in_every_form(space, form, merged, save_memory, device):
    device, steps = torch.device(device), []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        net = Supernet(space, merged=merged, save_memory=save_memory)
        with torch.no_grad():  # all branches count, also those of residual blocks, which start at zero
            for norm in net.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.weight.fill_(0.7)
        steps.append(step(place_net(net, device).train(), form, precision, device))
    (loss, gradients, statistics), (rough_loss, rough_gradients, rough_statistics) = steps
    assert rough_loss == pytest.approx(loss, rel=0.02) and rough_loss != loss
    assert torch.isfinite(rough_gradients).all()
    assert F.cosine_similarity(gradients, rough_gradients, dim=0) > 0.98
    for name, exact in statistics.items():
        assert rough_statistics[name].dtype == torch.float32
        torch.testing.assert_close(rough_statistics[name], exact, rtol=0.03, atol=0.03)


def test_statistics_of_a_bfloat16_input_are_taken_in_float32():
    """Over 65536 values of mean 100 a sum in bfloat16 would be lost."""
    with distributed_alone():
        pixels = 100 + torch.randn(16, 4, 64, 64, generator=torch.Generator().manual_seed(0))
        rough = pixels.bfloat16()
        shared, plain = SharedNorm(4).train(), nn.BatchNorm2d(4).train()
        with computing_in("bfloat16", torch.device("cpu")):
            out = shared(rough)
        expected = plain(rough.float())
    assert out.dtype == torch.bfloat16 and shared.running_mean.dtype == torch.float32
    torch.testing.assert_close(shared.running_mean, plain.running_mean)
    torch.testing.assert_close(shared.running_var, plain.running_var)
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.02)


class distributed_alone:  # noqa: N801
    """A process group of this process alone."""

    def __enter__(self):
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    def __exit__(self, *_):
        distributed.destroy_process_group()


@pytest.mark.parametrize("device", DEVICES)
def test_a_nets_own_step_in_bfloat16_is_about_the_one_in_float32(space, device):
    device, steps = torch.device(device), []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        net = place_net(build_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space), device).train()
        shape = (BATCH, space.input_channels, space.height, space.width)
        pixels = place_pixels(torch.randn(shape, generator=torch.Generator().manual_seed(2)), device)
        with computing_in(precision, device):
            logits = net(pixels).float()
        F.cross_entropy(30 * logits, torch.arange(BATCH, device=device) % space.classes).backward()
        steps.append((logits.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])))
    assert F.cosine_similarity(*(item[1] for item in steps), dim=0) > 0.98
    torch.testing.assert_close(*(item[0] for item in steps), rtol=0.1, atol=0.02)


def test_auto_is_float32_on_a_cpu():
    assert precision_on(torch.device("cpu")) == "float32"
