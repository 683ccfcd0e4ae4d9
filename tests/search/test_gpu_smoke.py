"""Two steps of a search and of a training in every form, on the CPU and, where there is one, on a GPU."""

from typing import get_args

import pytest
import torch
from test_search_run import TINY, table_of

from tvmfbnet.data.datasets import load_data
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.dry_run import dry_run_search
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.search import search
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train
from tvmfbnet.training.trainer import Trainer

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("save_memory", [False, True], ids=["keeping", "save_memory"])
@pytest.mark.parametrize("form", get_args(Form))
def test_two_steps_of_each_kind_are_finite_and_move_what_they_train(
    tiny_space, tiny_data, form, save_memory, precision, device
):
    changes = {"device": device, "precision": precision, "save_memory": save_memory}
    config = SearchConfig(**{**TINY, **changes, "weight_steps": form, "theta_steps": form})
    data = load_data(tiny_data, 28, 28, 1, 10)
    searcher = Searcher(tiny_space, data, latency_costs(table_of(tiny_space), tiny_space), config)
    for kind in ("single", "weight", "theta"):
        before = {name: tensor.clone() for name, tensor in searcher.supernet.state_dict().items()}
        seconds = [searcher.try_step(kind) for _ in range(2)]
        after = searcher.supernet.state_dict()
        assert min(seconds) > 0 and all(tensor.device.type == device for tensor in after.values())
        moved = {
            name for name, tensor in after.items() if tensor.is_floating_point() and not tensor.equal(before[name])
        }
        assert ("theta" in moved) == (kind == "theta")
        assert any(name.startswith("layers") for name in moved), "weights, or statistics of batch norm"
        assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values() if tensor.is_floating_point())
    searcher.require_sound()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_steps_of_a_training_are_finite(tiny_space, tiny_data, precision, device):
    config = TrainConfig(epochs=1, batch_size=16, device=device, precision=precision, threads=1)
    arch = parse_arch("k3_e1/k5_e1_g2,k3_e3", tiny_space)
    trainer = Trainer(build_net(arch, tiny_space, config.dropout), load_data(tiny_data, 28, 28, 1, 10), config)
    before = {name: parameter.detach().clone() for name, parameter in trainer.net.named_parameters()}
    for _ in range(2):
        trainer.advance()
    after = dict(trainer.net.named_parameters())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after.values())
    assert all(parameter.dtype == torch.float32 for parameter in after.values()), "weights stay float32"
    # A residual block's last norm starts at zero, so what lies before it only moves later.
    assert sum(not parameter.equal(before[name]) for name, parameter in after.items()) > len(after) / 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_whole_search_in_bfloat16_leads_to_a_net_that_trains(tiny_space, tiny_data, tmp_path, device):
    changes = {"precision": "bfloat16", "device": device, "finalists": 2, "finalist_steps": 2, "samples": 4}
    result = search(
        tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**{**TINY, **changes}), tmp_path / "search"
    )
    config = TrainConfig(epochs=1, batch_size=16, device=device, precision="bfloat16", threads=1)
    trained = train(parse_arch(result.best.arch, tiny_space), tiny_space, tiny_data, config, tmp_path / "train")
    assert 0 <= trained.test_accuracy <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_a_dry_run_tells_of_the_memory_of_its_device(tiny_space, tiny_data, device):
    config = SearchConfig(**{**TINY, "device": device})
    tried = dry_run_search(tiny_space, tiny_data, table_of(tiny_space), config, 6)
    assert tried.device.startswith(device) and tried.peak_bytes > 10**7
    assert (tried.device_peak_bytes is None) == (device == "cpu")
