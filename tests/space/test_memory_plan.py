"""The static memory plan, worked out without TVM: what it reuses, and that nothing live is ever left out."""

import random

import pytest

from tvmfbnet.dtypes import FLOAT16, FLOAT32, INT8
from tvmfbnet.space.activations import PART_INPUT, Output, outputs_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.memory_plan import live_bytes, peak_bytes
from tvmfbnet.space.registry import list_spaces, load_space


def chain(*sizes):
    return [Output(size, (place - 1,)) for place, size in enumerate(sizes)]


def planned(arch, space, dtype=FLOAT32):
    return peak_bytes([outputs_of(part, dtype) for part in space.parts_of(arch)])


def test_a_tensor_takes_a_freed_storage_or_enlarges_it():
    # Two storages take turns; the third tensor enlarges the first storage, and what is returned has its own.
    assert peak_bytes([chain(100, 40, 160, 30, 20)]) == 160 + 40
    assert peak_bytes([chain(100, 40)]) == 140


def test_a_storage_of_another_order_of_magnitude_is_not_reused():
    # 1600 / 16 is 100: a tensor of 100 takes that storage, and the next one enlarges another; one of 99 has its own.
    assert peak_bytes([chain(1600, 800, 100, 1600, 1)]) == 1600 + 1600
    assert peak_bytes([chain(1600, 800, 99, 1600, 1)]) == 1600 + 800 + 99


def test_the_input_of_a_block_lives_until_it_is_added():
    plain = [chain(16), chain(96, 96, 16), chain(1)]
    added = [chain(16), [*chain(96, 96), Output(16, (1, PART_INPUT))], chain(1)]
    assert (live_bytes(plain[1], 16), live_bytes(added[1], 16)) == (96 + 96, 16 + 96 + 96)
    assert (peak_bytes(plain), peak_bytes(added)) == (96 + 96, 16 + 96 + 96)


@pytest.mark.parametrize(
    ("space", "arch", "dtype", "expected"),
    [  # as TVM 0.27 plans them; tests/deploy/test_peak_memory.py asks it
        ("fbnet_mini", "k3_e1_g2,skip/k5_e3,k3_e1,k5_e1_g2/skip,k3_e6", FLOAT32, 90_112),
        ("fbnet_mini@32,channels=3", "k3_e1_g2,skip/k5_e3,k3_e1,k5_e1_g2/skip,k3_e6", INT8, 22_528),
        ("fbnet_mini@32,channels=3", "k3_e1_g2,skip/k5_e3,k3_e1,k5_e1_g2/skip,k3_e6", FLOAT16, 45_056),
        (
            "mobile_se@64",
            "k3_e1_se/k5_e2,k5_e6,k3_e2/k5_e6_se,k7_e6_se,k3_e3/k5_e6_hswish,k7_e3_hswish,k3_e3_se_hswish,"
            "k5_e3_se_hswish/k3_e6_se_hswish,k5_e6_se_hswish,k3_e3_hswish/k3_e6_se_hswish,k5_e6_se_hswish,"
            "k7_e6_se_hswish",
            FLOAT32,
            375_744,
        ),
    ],
)
def test_the_plan_is_tvms(space, arch, dtype, expected):
    loaded = load_space(space)
    assert planned(parse_arch(arch, loaded), loaded, dtype) == expected


@pytest.mark.parametrize("name", list_spaces())
def test_no_plan_is_smaller_than_what_is_live(name):
    space, draw = load_space(name), random.Random(0)
    for _ in range(20):
        arch = Arch(tuple(draw.choice(layer.blocks) for layer in space.layers))
        live = max(
            live_bytes(outputs_of(part, FLOAT32), 0 if part == space.stem else 4 * part.cin * part.height * part.width)
            for part in space.parts_of(arch)
        )
        total = sum(output.bytes for part in space.parts_of(arch) for output in outputs_of(part, FLOAT32))
        assert live <= planned(arch, space) < total
