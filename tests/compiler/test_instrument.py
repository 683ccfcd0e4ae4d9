"""A chain of parts computes what the parts compute one after another, and its clocks tell what each took."""

import random
import time

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.instrument import chain_nets, net_function
from tvmfbnet.compiler.lowering import build, build_prepared, kernels_of, lower, prepare
from tvmfbnet.errors import UserError
from tvmfbnet.profiling.device_timer import part_latencies
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


@pytest.fixture(scope="module")
def target():
    return tvm.target.Target(resolve(load_target("host")).tvm)


@pytest.fixture
def chained(tiny_space, target):
    generator = random.Random(5)
    arch = Arch(tuple(generator.choice(layer.blocks) for layer in tiny_space.layers))
    parts = tiny_space.parts_of(arch)
    lowered = {part: lower(model, target) for part, model in export_parts(list(dict.fromkeys(parts))).items()}
    return parts, [lowered[part] for part in parts]


def run(mod, target, value, function="main"):
    return relax.VirtualMachine(build(mod, target, None), tvm.cpu())[function](tvm.runtime.tensor(value, tvm.cpu()))


def test_a_chain_gives_what_its_parts_give_one_after_another(chained, target):
    parts, mods = chained
    image = np.random.default_rng(0).standard_normal(part_input_shape(parts[0])).astype(np.float32)
    expected, seen = image, []
    for part, mod in zip(parts, mods, strict=True):
        if part in seen:  # its weights are its own, slightly other ones
            pytest.skip("the drawn arch repeats a part")
        seen.append(part)
        expected = run(mod, target, expected.reshape(part_input_shape(part))).numpy()
    output, _ = run(chain_nets([mods], target), target, image, net_function(0))
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_parts_of_a_head_that_go_back_to_a_finer_map_take_it(tiny_space_file, target):
    space = load_space(f"{tiny_space_file}@32,classes=3,head=lraspp")
    parts = space.parts_of(Arch(tuple(layer.blocks[0] for layer in space.layers)))
    lowered = {part: lower(model, target) for part, model in export_parts(list(dict.fromkeys(parts))).items()}
    chain = chain_nets([[lowered[part] for part in parts]], target)
    output, clock = chain[net_function(0)].ret_ty.fields
    assert [int(size) for size in output.shape.values] == [1, parts[-1].out_height, parts[-1].out_width, 3]
    assert [int(size) for size in clock.shape.values] == [len(parts) + 2, 2]


def test_a_chain_calls_the_kernels_of_its_parts(chained, target):
    _, mods = chained
    part_keys = {kernel.key for mod in mods for kernel in kernels_of(mod, target)}
    names = {kernel.key: kernel.name for kernel in kernels_of(chain_nets([mods], target), target)}
    assert part_keys <= set(names)
    assert {names[key].rstrip("0123456789_") for key in set(names) - part_keys} == {"clock", "gather_readings"}


def test_a_chain_without_checks_computes_the_same_bits_and_a_net_still_refuses_another_shape(chained, target, tmp_path):
    parts, mods = chained
    chain = chain_nets([mods], target)
    image = np.random.default_rng(0).standard_normal(part_input_shape(parts[0])).astype(np.float32)
    outputs, sizes = [], []
    for checks in (True, False):
        executable = build_prepared(prepare(chain, target, None), target, checks)
        executable.export_library(str(tmp_path / f"{checks}.so"))
        sizes.append((tmp_path / f"{checks}.so").stat().st_size)
        machine = relax.VirtualMachine(executable, tvm.cpu())
        outputs.append(machine[net_function(0)](tvm.runtime.tensor(image, tvm.cpu()))[0].numpy())
        with pytest.raises(Exception, match=r"[Ss]hape"):
            machine[net_function(0)](tvm.runtime.tensor(image[:, :, 1:], tvm.cpu()))
    np.testing.assert_array_equal(*outputs)
    assert sizes[1] < 0.8 * sizes[0]


def test_nets_of_one_library_share_their_kernels_and_compute_their_own_results(tiny_space, target):
    arch, other = (Arch(tuple(layer.blocks[index] for layer in tiny_space.layers)) for index in (0, 1))
    nets = [tiny_space.parts_of(arch), tiny_space.parts_of(other)]
    lowered = {
        part: lower(model, target) for part, model in export_parts(list(dict.fromkeys(nets[0] + nets[1]))).items()
    }
    both = chain_nets([[lowered[part] for part in net] for net in nets], target)
    alone = [chain_nets([[lowered[part] for part in net]], target) for net in nets]
    image = np.random.default_rng(0).standard_normal(part_input_shape(nets[0][0])).astype(np.float32)
    for number in (0, 1):
        output, clock = run(both, target, image, net_function(number))
        expected, _ = run(alone[number], target, image, net_function(0))
        np.testing.assert_array_equal(output.numpy(), expected.numpy())
        assert clock.numpy().shape == (len(nets[number]) + 2, 2)
    kernels = [len(kernels_of(mod, target)) for mod in (both, *alone)]
    assert max(kernels[1:]) < kernels[0] < kernels[1] + kernels[2]


def test_the_clocks_rise_and_add_up_to_no_more_than_the_whole_run(chained, target):
    parts, mods = chained
    image = np.zeros(part_input_shape(parts[0]), np.float32)
    machine = relax.VirtualMachine(build(chain_nets([mods], target), target, None), tvm.cpu())
    given = tvm.runtime.tensor(image, tvm.cpu())
    readings = []
    for _ in range(5):
        began = time.perf_counter()
        _, clock = machine[net_function(0)](given)
        whole_ms = 1e3 * (time.perf_counter() - began)
        readings.append(clock.numpy())
    assert all(np.all(np.diff(clock[:, 0] * 10**9 + clock[:, 1]) > 0) for clock in readings)
    latencies = part_latencies(readings)
    assert np.shape(latencies) == (5, len(parts))
    assert 0 < sum(latencies[-1]) < whole_ms


def test_what_reading_the_clock_takes_is_no_part_of_any_latency():
    # Readings at 0, 1000, 1500 and 1600 microseconds: two parts, and 100 for the clock itself.
    readings = [[(7, 0), (7, 1_000_000), (7, 1_500_000), (7, 1_600_000)]] * 3
    assert part_latencies(readings) == [pytest.approx((0.9, 0.4))] * 3
    assert part_latencies([]) == []


def test_a_gpus_kernels_are_not_chained(chained):
    with pytest.raises(UserError, match="only CPU targets"):
        chain_nets([chained[1]], tvm.target.Target({"kind": "opencl", "host": {"kind": "llvm"}}))
