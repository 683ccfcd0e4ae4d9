"""The dtypes of a net are the fastest that there are; the table of mixed dtypes never promises less than they take."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from latency_samples import CONTEXT, measurement

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.latency.mixed import UNIT_DTYPES, DtypeTables, fastest_dtypes, latency_in
from tvmfbnet.latency.mixed_table import mixed_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.borders import CONVERSION, conversions_of, units_of
from tvmfbnet.space.registry import load_space

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
    last = conversions_of(SPACE)[-1]
    fewer = {part: cell for part, cell in made.int8.conversions.items() if part != last}
    with pytest.raises(LatencyError, match=f"lacks {last.name}: run"):
        mixed_table(DtypeTables(made.float32, replace(made.int8, conversions=fewer)), PARTS)
    partly = mixed_table(DtypeTables(made.float32, replace(made.int8, conversions=fewer)))
    assert SPACE.stem in partly.cells and not set(SPACE.head) & set(partly.cells)
