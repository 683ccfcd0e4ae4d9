"""Every registered quantity: its values for a space, how its bounds are written, and that it survives a file."""

import json
import random
from dataclasses import replace

import pytest
from test_search_run import table_of

from tvmfbnet.errors import ConstraintError
from tvmfbnet.latency.energies import Energies
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.bn_folding import fold_bn
from tvmfbnet.nets.network import build_net
from tvmfbnet.search.constraints import parse_bound
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources
from tvmfbnet.search.quantities import QUANTITIES, quantity_named
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.params import params_costs
from tvmfbnet.search.quantities.size import weight_bytes
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import list_spaces, load_space


def random_choices(space, count):
    draw = random.Random(0)
    return [tuple(draw.randrange(len(layer.blocks)) for layer in space.layers) for _ in range(count)]


def arch_of(choice, space):
    return Arch(tuple(layer.blocks[index] for layer, index in zip(space.layers, choice, strict=True)))


def sources_of(space):
    """Latencies, and an energy of every part."""
    table = table_of(space)
    energies = {part: (2 * cell.latency_ms, 0.1 * cell.latency_ms) for part, cell in table.cells.items()}
    return CostSources(space, replace(table, energies=Energies({**energies, OVERHEAD_PART: (0.5, 0.1)}, "rapl")))


@pytest.fixture(params=QUANTITIES)
def quantity(request):
    return QUANTITIES[request.param]


def test_a_model_keeps_within_its_range_and_survives_a_file(quantity, tiny_space):
    sources = sources_of(tiny_space)
    model = quantity.build(sources)
    assert model.quantity is quantity and 0 < model.least < model.most
    for choice in random_choices(tiny_space, 30):
        assert model.least <= model.value(choice) <= model.most
        assert model.spread(choice) >= 0 and 0 <= model.measured_share(choice) <= 1
    loaded = quantity.load(json.loads(json.dumps(model.to_dict())), tiny_space)
    assert loaded == model
    if isinstance(model, AdditiveCosts):
        assert all(model.value(c) == pytest.approx(model.fixed + sum(r[i] for r, i in zip(model.cells, c, strict=True)))
                   for c in random_choices(tiny_space, 5))  # fmt: skip


def test_a_model_of_another_space_or_a_damaged_one_is_refused(quantity, tiny_space):
    record = quantity.build(sources_of(tiny_space)).to_dict()
    cells = next(name for name in record if name.startswith("cells"))
    for damage in ([[1.0]], [[-1.0] * len(row) for row in record[cells]], [["a"] * len(row) for row in record[cells]]):
        with pytest.raises((ValueError, TypeError)):
            quantity.load({**record, cells: damage}, tiny_space)


def test_a_bound_is_read_back_as_it_is_written(quantity):
    assert quantity.parse(quantity.example.split(",")[0]) > 0
    for value in (0.0123, 7.0, 812.5, 4_512_345.0):
        assert quantity.parse(quantity.exact(value)) == pytest.approx(value, rel=1e-9)
        assert parse_bound(f"{quantity.name}<={quantity.exact(value)}").value == pytest.approx(value, rel=1e-9)
    with pytest.raises(ConstraintError, match=f"is no bound on {quantity.name}: write"):
        quantity.parse(f"{2 * quantity.largest:.0f}")


def test_an_unknown_quantity_is_refused_with_those_there_are():
    with pytest.raises(ConstraintError, match=f"there are {', '.join(QUANTITIES)}"):
        quantity_named("joy")


def test_values_are_shown_in_a_readable_unit():
    params = QUANTITIES["params"]
    assert [params.text(value) for value in (950, 12_345, 4_512_345)] == ["950", "12.35k", "4.512M"]
    assert [LATENCY.text(value) for value in (0.08123, 8.0, 1234.0)] == ["0.08123 ms", "8 ms", "1234 ms"]


@pytest.mark.parametrize("name", list_spaces())
def test_parameters_are_those_of_the_whole_arch_to_the_unit(name):
    space = load_space(name)
    model = params_costs(space)
    for choice in random_choices(space, 20):
        assert model.value(choice) == count_arch(arch_of(choice, space), space).params


def test_latency_needs_a_table(tiny_space):
    with pytest.raises(ConstraintError, match="needs a latency table"):
        LATENCY.build(CostSources(tiny_space))


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("float16", 2)])
def test_size_is_what_the_folded_weights_take(dtype, bytes_each, tiny_space):
    model = QUANTITIES["size"].build(CostSources(tiny_space, dtype=dtype))
    for choice in random_choices(tiny_space, 5):
        net = build_net(arch_of(choice, tiny_space), tiny_space)
        stored = sum(weight.numel() for weight in fold_bn(net.eval()).state_dict().values())
        assert model.value(choice) == stored * bytes_each


@pytest.mark.parametrize(("dtype", "said"), [("int8", "not for int8"), ("mixed", "not for mixed dtypes")])
def test_size_is_refused_where_the_target_decides_how_weights_are_stored(dtype, said, tiny_space):
    with pytest.raises(ConstraintError, match=f"a bound on size is {said}.*bound params"):
        QUANTITIES["size"].build(CostSources(tiny_space, dtype=dtype))
    choice = random_choices(tiny_space, 1)[0]
    assert weight_bytes(CostSources(tiny_space, dtype=dtype), choice) is None
    sources = CostSources(tiny_space)
    assert weight_bytes(sources, choice) == QUANTITIES["size"].build(sources).value(choice)


def test_peak_memory_is_of_all_images_of_a_call_from_a_search_to_its_file(tiny_space):
    choice, table = random_choices(tiny_space, 1)[0], replace(table_of(tiny_space), batch=4)
    one, four = (QUANTITIES["peak_memory"].build(CostSources(tiny_space, batch=batch)) for batch in (1, 4))
    assert four.value(choice) == 4 * one.value(choice) and (four.least, four.fixed) == (4 * one.least, 4 * one.fixed)
    assert QUANTITIES["peak_memory"].build(CostSources(tiny_space, table)) == four
    assert QUANTITIES["peak_memory"].load(json.loads(json.dumps(four.to_dict())), tiny_space) == four


def test_peak_memory_follows_the_dtype_which_must_be_one(tiny_space):
    models = {dtype: QUANTITIES["peak_memory"].build(CostSources(tiny_space, dtype=dtype))
              for dtype in ("float32", "float16", "int8")}  # fmt: skip
    for choice in random_choices(tiny_space, 5):
        values = {dtype: model.value(choice) for dtype, model in models.items()}
        assert values["int8"] < values["float16"] < values["float32"]
    with pytest.raises(ConstraintError, match="a bound on peak_memory is not for mixed dtypes"):
        QUANTITIES["peak_memory"].build(CostSources(tiny_space, dtype="mixed"))


def test_an_energy_is_the_sum_of_the_parts_and_every_part_needs_one(tiny_space):
    sources, table = sources_of(tiny_space), table_of(tiny_space)
    model = QUANTITIES["energy"].build(sources)
    for choice in random_choices(tiny_space, 5):
        parts_ms = table.arch_ms(arch_of(choice, tiny_space), tiny_space) - table.overhead_ms
        energy = sources.table.arch_energy(arch_of(choice, tiny_space), tiny_space)
        assert model.value(choice) == pytest.approx(0.5 + 2 * parts_ms) and model.spread(choice) > 0
        assert energy == (pytest.approx(model.value(choice)), pytest.approx(model.spread(choice)))
    with pytest.raises(ConstraintError, match="every part: measure it with `tvmfbnet tune --target TARGET"):
        QUANTITIES["energy"].build(CostSources(tiny_space, table))
    without_stem = Energies(dict(list(sources.table.energies.by_part.items())[1:]), "rapl")
    assert replace(table, energies=without_stem).arch_energy(arch_of(choice, tiny_space), tiny_space) is None
    with pytest.raises(ConstraintError, match=r"lacks the energy of 1 part\(s\): stem/conv_k3"):
        QUANTITIES["energy"].build(CostSources(tiny_space, replace(table, energies=without_stem)))


def test_costs_that_were_not_all_measured_say_what_share_was(tiny_space):
    guessed = ((True, False), (True, False))
    model = AdditiveCosts(LATENCY, ((1.0, 2.0), (3.0, 4.0)), 4.0, predicted=guessed, fixed_predicted=2.0)
    assert model.measured_share((0, 0)) == pytest.approx(1 - 6 / 8)
    assert model.measured_share((1, 1)) == pytest.approx(1 - 2 / 10)


def test_no_share_of_a_simulated_latency_counts_as_measured(tiny_space):
    table = LatencyTable.load("simulated:gflops=1,gbps=1,call_us=50", tiny_space)
    model = LATENCY.build(CostSources(tiny_space, table))
    for choice in random_choices(tiny_space, 5):
        assert model.value(choice) == pytest.approx(table.arch_ms(arch_of(choice, tiny_space), tiny_space))
        assert model.measured_share(choice) == pytest.approx(0.0, abs=1e-12)
