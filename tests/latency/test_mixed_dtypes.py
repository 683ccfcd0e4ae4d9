"""The dtypes of a net are the fastest that there are; the table of mixed dtypes never promises less than they take."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from latency_samples import CONTEXT, measured_in_both, measurement
from typer.testing import CliRunner

from tvmfbnet.api.arguments import as_mixable_target
from tvmfbnet.cli import latency
from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError, LatencyError, UserError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.latency.mixed import UNIT_DTYPES, DtypeTables, fastest_dtypes, latency_in
from tvmfbnet.latency.mixed_table import mixed_table
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.pipeline.recipe import Recipe, load_recipe
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.knapsack import least_choice
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.borders import CONVERSION, conversions_of, units_of
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target

SPACE = load_space("fbnet_mini")
PARTS = SPACE.distinct_parts()
INT8 = replace(CONTEXT, dtype="int8")


def tables(seed=0, conversion_ms=0.1):
    """Latencies of both dtypes drawn alike, so that neither pays everywhere, and conversions that are not free."""
    random = np.random.default_rng(seed)
    drawn = [
        {part: Cell(float(ms)) for part, ms in zip(PARTS, random.uniform(0.1, 1.0, len(PARTS)), strict=True)}
        for _ in range(2)
    ]
    conversions = {part: Cell(float(random.uniform(0.5, 1.5)) * conversion_ms) for part in conversions_of(SPACE)}
    float32 = LatencyTable(drawn[0], 0.05, "host", context=CONTEXT)
    return DtypeTables(float32, LatencyTable(drawn[1], 0.05, "host", context=INT8, conversions=conversions))


def archs(count, seed=0):
    random = np.random.default_rng(seed)
    return [Arch(tuple(str(random.choice(layer.blocks)) for layer in SPACE.layers)) for _ in range(count)]


@pytest.mark.parametrize("conversion_ms", [0.0, 0.1, 0.5, 5.0])
def test_the_fastest_dtypes_are_those_of_trying_all(conversion_ms):
    for seed, arch in enumerate(archs(6)):
        made = tables(seed, conversion_ms)
        units = units_of(arch, SPACE)
        every = [latency_in(made, arch, SPACE, dtypes) for dtypes in product(UNIT_DTYPES, repeat=len(units))]
        fastest = fastest_dtypes(made, arch, SPACE)
        assert fastest.latency_ms == pytest.approx(min(choice.latency_ms for choice in every))
        assert [name for name, _ in fastest.units] == [unit.name for unit in units]
        if conversion_ms == 0.1:
            assert 0 < fastest.conversions < len(units) and fastest.conversions_ms > 0
        if conversion_ms == 5.0:
            assert fastest.conversions == 0
            whole = [made.float32.arch_ms(arch, SPACE), made.int8.arch_ms(arch, SPACE)]
            assert fastest.latency_ms == pytest.approx(min(whole))


def test_no_net_takes_longer_by_its_fastest_dtypes_than_by_the_table_of_mixed_dtypes():
    for seed in range(4):
        made = tables(seed)
        mixed = mixed_table(made, PARTS)
        assert set(mixed.cells) == set(PARTS) and mixed.dtype_name == "mixed"
        for arch in archs(20, seed):
            promised, whole = mixed.arch_ms(arch, SPACE), made.int8.arch_ms(arch, SPACE)
            assert fastest_dtypes(made, arch, SPACE).latency_ms <= promised + 1e-9
            assert promised < whole + 1e-9 or seed  # by these figures mixing pays


def test_the_table_has_the_faster_dtype_of_each_block_where_conversions_are_free():
    made = tables(conversion_ms=0.0)
    mixed = mixed_table(made)
    for part in SPACE.distinct_blocks():
        assert mixed.cells[part].latency_ms == min(made.cell(part, dtype).latency_ms for dtype in UNIT_DTYPES)
    arch = archs(1)[0]
    assert mixed.arch_ms(arch, SPACE) == pytest.approx(fastest_dtypes(made, arch, SPACE).latency_ms)


def test_conversions_are_measured_cells_of_their_own_and_no_parts_of_a_net():
    conversion = conversions_of(SPACE)[0]
    items = [measurement(OVERHEAD_PART, 0.2, overhead_ms=0.0, dtype="int8")]
    items += [measurement(part, 1.0, dtype="int8") for part in (*PARTS[:3], conversion)]
    table = LatencyTable.from_measurements(items, in_order=True)
    assert set(table.cells) == set(PARTS[:3]) and set(table.conversions) == {conversion}
    assert conversion.part == CONVERSION and table.conversions[conversion].latency_ms == pytest.approx(0.75)


def test_what_is_missing_is_named():
    made = tables()
    with pytest.raises(LatencyError, match=r"need tables in float32 and int8, not int8 and float32"):
        DtypeTables(made.int8, made.float32)
    with pytest.raises(LatencyError, match=r"conversions .* were not timed for host: run .*--dtype int8"):
        DtypeTables(made.float32, replace(made.int8, conversions={}))
    other = replace(made.int8, context=replace(INT8, device_model="Another CPU"))
    with pytest.raises(LatencyError, match=r"another context in int8 than in float32 \(device Another CPU instead of"):
        DtypeTables(made.float32, other)
    last = conversions_of(SPACE)[-1]
    fewer = {part: cell for part, cell in made.int8.conversions.items() if part != last}
    with pytest.raises(LatencyError, match=f"lacks {last.name}: run"):
        mixed_table(DtypeTables(made.float32, replace(made.int8, conversions=fewer)), PARTS)
    partly = mixed_table(DtypeTables(made.float32, replace(made.int8, conversions=fewer)))
    assert SPACE.stem in partly.cells and not set(SPACE.head) & set(partly.cells)


def command(*words):
    """What a ``latency`` command prints; the error that it ends with."""
    result = CliRunner().invoke(latency.app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_commands_show_what_a_net_takes_in_each_dtype_and_in_both(tmp_path):
    measured_in_both("phone", tmp_path)
    pair, logs = ("phone,dtype=float32", "phone,dtype=int8"), ("--tuning-logs", tmp_path)
    arch = "k3_e6,k5_e6/k3_e1_g2,skip,k3_e6/k5_e6,k3_e1"
    net = json.loads(command("compare", *pair, "--arch", arch, "--space", "fbnet_mini", *logs, "--json"))["net"]
    chosen = MixedSource("phone", tmp_path).fastest(parse_arch(arch, SPACE), SPACE)
    assert net["arch"] == arch and net["dtypes"] == dict(chosen.units) and net["mixed_ms"] == chosen.latency_ms
    assert net["mixed_ms"] < min(net["float32_ms"], net["int8_ms"]) and net["conversions"] > 0
    assert net["dtypes"]["head"] == "float32" and net["dtypes"]["layer0"] == "int8"
    said = command("compare", *pair, "--arch", arch, "--space", "fbnet_mini", *logs)
    assert "in mixed dtypes (" in said and chosen.describe() in said
    mixed = json.loads(
        command("show", "--target", "phone", "--dtype", "mixed", "--space", "fbnet_mini", *logs, "--json")
    )
    assert mixed["dtype"] == "mixed" and mixed["measured"] == len(PARTS)
    compared = json.loads(command("compare", pair[0], "phone,dtype=mixed", *logs, "--json"))
    assert (compared["first_dtype"], compared["second_dtype"]) == ("float32", "mixed")
    command("export", "--target", "phone,dtype=mixed", "--out", tmp_path / "mixed.csv", *logs)
    assert len(LatencyTable.load(tmp_path / "mixed.csv").cells) == len(PARTS)


def test_a_search_by_the_table_of_mixed_dtypes_is_bound_by_what_nets_take_in_them(tmp_path):
    measured_in_both("phone", tmp_path)
    table = LatencyTable.load("phone,dtype=mixed", SPACE, tuning_logs=tmp_path)
    costs, source = latency_costs(table, SPACE), MixedSource("phone", tmp_path)
    alone = [LatencyTable.load(f"phone,dtype={dtype}", SPACE, tuning_logs=tmp_path) for dtype in UNIT_DTYPES]
    target_ms = 0.9 * min(latency_costs(other, SPACE).most for other in alone)
    size = [[-count_part(layer.cell(block)).macs for block in layer.blocks] for layer in SPACE.layers]

    def largest(costs):
        """The net with most MACs within the target, and these."""
        choice = least_choice(size, [Constraint(costs, target_ms)])
        return choice, -sum(row[index] for row, index in zip(size, choice, strict=True))

    choice, macs = largest(costs)
    arch = Arch(tuple(layer.blocks[index] for layer, index in zip(SPACE.layers, choice, strict=True)))
    assert source.fastest(arch, SPACE).latency_ms <= costs.value(choice) + 1e-9 <= target_ms + 1e-9
    assert macs > max(largest(latency_costs(other, SPACE))[1] for other in alone)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "phone", "phone,dtype=int8", "--arch", "fbnet_a"), "--arch and --space belong together"),
        (("compare", "host", "phone", "--arch", "x", "--space", "fbnet_mini"), "--arch compares one target in float32"),
        (
            ("validate", "--target", "host", "--dtype", "mixed", "--space", "fbnet_mini"),
            "mixed dtypes are for latency show",
        ),
        (
            ("show", "--target", "phone,dtype=int8", "--dtype", "mixed", "--space", "fbnet_mini"),
            "--dtype is mixed, but",
        ),
    ],
)
def test_what_mixed_dtypes_are_not_for_is_one_line(tmp_path, words, said):
    measured_in_both("phone", tmp_path)
    with pytest.raises(UserError) as caught:
        command(*words, "--tuning-logs", tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_packages_and_recipes_take_mixed_dtypes_by_their_name(tmp_path):
    assert as_mixable_target("host,dtype=mixed") == as_mixable_target("host", "mixed")
    target, mixed = as_mixable_target(load_target("host"), "mixed")
    assert target.dtype == "int8" and mixed and as_mixable_target("host")[1] is False
    with pytest.raises(UserError, match="mixed dtypes are for latency show"):
        load_target("host,dtype=mixed")
    _, recipe = load_recipe("demo_int8")
    mixed = recipe.model_copy(update={"dtype": "mixed"})
    assert mixed.is_mixed and mixed.spelled_target.endswith(",dtype=int8") and not recipe.is_mixed
    with pytest.raises(ConfigError, match="mixed dtypes are chosen by a target's measurements"):
        validate(Recipe, {**mixed.model_dump(), "latency": "simulated:gflops=1,gbps=1"}, "recipe")
