"""What every latency source promises, whatever it reads: the suite that a new kind of source must pass.

To add a kind: a function here that makes one, under the kind's name in ``SAMPLES``, and its bad inputs in ``BAD``.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from latency_samples import CONTEXT, measured_in_both, measured_space, measurement

from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.latency.additivity import save_study, study
from tvmfbnet.latency.cells import MEASURED, SIMULATED, SOURCES, Cell, Source
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.latency.repository import correction_path, journal_path, table_path
from tvmfbnet.latency.sources.registry import KINDS, kind_of, source_of, table_source
from tvmfbnet.latency.sources.simulated import Processor, SimulatedSource, parse_simulated
from tvmfbnet.latency.sources.source import LatencySource, Missing, latency_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import table_content, write_table
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

SPACE = load_space("fbnet_mini")
PARTS = SPACE.distinct_parts()
BLOCK = SPACE.layers[0].cell("k3_e1")
ARCH = parse_arch("k3_e1,skip/k5_e3,skip,k3_e6/skip,skip", SPACE)


@dataclass(frozen=True)
class Sample:
    """A source with known latencies.

    Attributes:
        text: names it, as a user would.
        folder: what it reads lies here.
        label: of its cells.
        block_ms: latency of ``BLOCK``.
        overhead_ms: of a call.
    """

    text: str
    folder: Path
    label: Source
    block_ms: float
    overhead_ms: float

    @property
    def source(self) -> LatencySource:
        return source_of(self.text, self.folder)


def journal(folder: Path, every: int) -> Sample:
    """A target whose journal has every n-th block, and one block timed once more than the others."""
    records = Journal(journal_path("phone", folder))
    for item in measured_space(every=every):
        records.append(item)
    records.append(measurement(BLOCK, 3.2, overhead_ms=0.2))
    records.append(measurement(OVERHEAD_PART, 0.2, overhead_ms=0.0))
    return Sample("phone", folder, MEASURED, 3.0, 0.2)


def file(folder: Path, every: int) -> Sample:
    """The same table in a file, in microseconds."""
    rows = ["part,block,cin,cout,height,width,stride,latency_us", "overhead,call,1,1,1,1,1,200"]
    table = journal(folder / "logs", every).source.load()
    rows += [",".join(map(str, (*part.to_dict().values(), 1e3 * c.latency_ms))) for part, c in table.cells.items()]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return Sample(str(folder / "table.csv"), folder, MEASURED, 3.0, 0.2)


def simulated(folder: Path, every: int) -> Sample:
    """A processor that is bound by arithmetic alone: its latencies follow from the MACs of the block."""
    macs = sum(conv.macs for conv in convs_of(BLOCK))
    gflops = 2 * macs / 3.0 / 1e6  # that many GFLOP/s do the block in 3 ms
    (folder / "core.yaml").write_text(f"gflops: {gflops}\ngbps: 1000000\ncall_us: 200\n")
    return Sample(f"simulated:{folder / 'core.yaml'}", folder, SIMULATED, 3.0, 0.2)


def mixed(folder: Path, every: int) -> Sample:
    """A target whose journal has both dtypes; int8 is slower."""
    measured_in_both("phone", folder, every, False, {BLOCK: (3.2, 6.4)})
    return Sample("phone,dtype=mixed", folder, MEASURED, 3.0, 0.2)


SAMPLES: dict[str, Callable[[Path, int], Sample]] = {
    **{"target": journal, "file": file, "simulated": simulated, "mixed": mixed}
}
BAD = {
    "target": [("nobody", "nothing was measured for target nobody"), ("bad name!", "bad target name")],
    "mixed": [
        ("nobody,dtype=mixed", "nothing was measured for target nobody"),
        ("bad name!,dtype=mixed", "bad target name"),
        ("phone,dtype=int8,dtype=mixed", "'phone,dtype=int8,dtype=mixed' names two dtypes"),
    ],
    "file": [("absent.csv", "absent.csv"), ("broken.csv", "needs the column"), ("broken.json", "broken.json")],
    "simulated": [
        ("simulated:", "gflops: Field required; gbps: Field required"),
        ("simulated:gflops=16,gbps", "'gbps' is no NAME=VALUE"),
        ("simulated:gflops=16,gbps=8,gbps=9", "'gbps=9' is given twice"),
        ("simulated:gflops=0,gbps=nan", "2 problems"),
        ("simulated:gflops=16,gbps=8,cache=1", "cache: unknown name"),
        ("simulated:gflops=16,gbps=8,element_bytes=3", "element_bytes"),
        ("simulated:gflops=16,gbps=8,kernel_us=-1", "kernel_us"),
        ("simulated:absent.yaml", "absent.yaml"),
        ("simulated:broken.yaml", "broken.yaml"),
    ],
}


@pytest.fixture(params=[kind.name for kind in KINDS])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Sample]:
    """Makes a sample of each kind; with every n-th block, where the kind can lack any."""
    return lambda every: SAMPLES[request.param](tmp_path, every)


@pytest.fixture
def sample(make: Callable[[int], Sample]) -> Sample:
    return make(1)


def test_every_kind_of_source_is_tested() -> None:
    names = [kind.name for kind in KINDS]
    assert set(names) == set(SAMPLES) == set(BAD) and len(set(names)) == len(names)


def test_latencies_are_in_milliseconds_and_the_overhead_is_apart(sample: Sample) -> None:
    table = sample.source.load(PARTS)
    assert table.lookup(BLOCK).latency_ms == pytest.approx(sample.block_ms)
    assert table.overhead_ms == pytest.approx(sample.overhead_ms)
    blocks_ms = sum(table.lookup(part).latency_ms for part in SPACE.parts_of(ARCH))
    assert table.arch_ms(ARCH, SPACE) == pytest.approx(sample.overhead_ms + blocks_ms)


def test_every_cell_has_the_sources_label_and_a_possible_latency_and_spread(sample: Sample) -> None:
    table = sample.source.load(PARTS)
    assert {cell.source for cell in table.cells.values()} == {sample.label} <= set(SOURCES)
    assert table.is_simulated is (sample.label == SIMULATED) and table.basis == sample.label
    for cell in table.cells.values():
        assert math.isfinite(cell.latency_ms) and cell.latency_ms >= 0
        assert math.isfinite(cell.spread_ms) and cell.spread_ms >= 0
    assert table.measured_share(ARCH, SPACE) == (1.0 if sample.label == MEASURED else 0.0)
    assert table.source_shares(ARCH, SPACE)[sample.label] == 1.0


def test_a_table_says_which_kind_of_source_it_is_from_whatever_is_done_to_it(make: Callable[[int], Sample]) -> None:
    sample = make(3)
    for table in (sample.source.load(PARTS), latency_table(sample.source, SPACE)):
        assert table.origin.kind == kind_of(sample.text) and table.origin.name == sample.source.name
        assert table.origin.simulated is table.is_simulated is (sample.label == SIMULATED)
        assert sample.source.name in table.origin.describe()
        assert ("no device" in table.origin.describe()) is table.is_simulated
    assert LatencyTable.from_record(table_content(table, PARTS)).origin == table.origin


def test_a_simulated_table_says_so_wherever_it_was_stored_since(tmp_path: Path) -> None:
    table = parse_simulated("simulated:gflops=16,gbps=8").load(PARTS)
    write_table(table, tmp_path / "t.csv")
    in_file = source_of(tmp_path / "t.csv").load().origin
    assert (in_file.kind, in_file.simulated) == ("file", True)
    assert in_file.describe() == f"file {tmp_path / 't.csv'}, simulated (a model, no device)"
    table_path("phone", tmp_path).parent.mkdir(parents=True)
    (tmp_path / "t.csv").rename(table_path("phone", tmp_path))
    imported = source_of("phone", tmp_path).load().origin
    assert imported.describe() == "imported for phone, simulated (a model, no device)"
    assert LatencyTable(dict(table.cells)).origin.describe() == "not stated, simulated (a model, no device)"
    assert LatencyTable({BLOCK: Cell(1.0)}).origin.describe() == "not stated"


def test_it_has_all_parts_that_are_asked_for_or_lists_those_that_it_lacks(make: Callable[[int], Sample]) -> None:
    source = make(3).source
    absent = source.load(PARTS).missing(PARTS)
    assert source.computes is not bool(absent)
    if not absent:
        assert not latency_table(source, SPACE, missing=Missing.REFUSE).missing(PARTS)
        return
    with pytest.raises(LatencyError, match=rf"lacks {len(absent)} part") as caught:
        latency_table(source, SPACE, missing=Missing.REFUSE)
    assert absent[0].name in str(caught.value) and "\n" not in str(caught.value)
    assert latency_table(source, SPACE, missing=Missing.LEAVE).missing(PARTS) == absent


def test_one_function_completes_and_says_so_once(
    make: Callable[[int], Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(3).source
    loaded = source.load(PARTS)
    absent = loaded.missing(PARTS)
    capsys.readouterr()
    table = latency_table(source, SPACE)
    said = capsys.readouterr().err
    assert not table.missing(PARTS)
    assert all(table.cells[part] == cell for part, cell in loaded.cells.items()), "nothing that is there changes"
    assert {table.cells[part].source for part in absent} <= {"predicted"}
    assert said.count(f"{len(absent)} of {len(PARTS)} parts were not") == bool(absent)
    assert said.count("are simulated by a model") == table.is_simulated


def test_too_little_to_learn_from_is_refused_or_left_out_as_the_caller_asks(tmp_path: Path) -> None:
    records = Journal(journal_path("phone", tmp_path))
    for item in measured_space()[:5]:
        records.append(item)
    source = source_of("phone", tmp_path)
    with pytest.raises(LatencyError, match=r"lacks 42 part"):
        latency_table(source, SPACE)
    assert len(latency_table(source, SPACE, missing=Missing.PREDICT_IF_POSSIBLE).missing(PARTS)) == 42


def test_only_the_parts_of_one_arch_are_completed_where_no_more_is_needed(make: Callable[[int], Sample]) -> None:
    parts = SPACE.parts_of(ARCH)
    table = latency_table(make(3).source, SPACE, parts=parts)
    assert not table.missing(parts)
    assert sum(cell.source == "predicted" for cell in table.cells.values()) < len(parts)


def test_an_identity_skip_costs_nothing(sample: Sample) -> None:
    skip = next(layer.cell("skip") for layer in SPACE.layers if layer.cell("skip").is_identity)
    assert latency_table(sample.source, SPACE).lookup(skip).latency_ms == 0.0


def test_loading_repeats_and_changes_nothing(sample: Sample) -> None:
    def content() -> dict[Path, tuple[bytes, int]]:
        files = sorted(path for path in sample.folder.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = content()
    first, second = (sample.source.load(PARTS) for _ in range(2))
    assert first == second
    assert sample.source.correct(first, SPACE) == first
    assert content() == before


def test_the_library_loads_a_table_by_the_same_words(make: Callable[[int], Sample]) -> None:
    sample = make(3)
    whole = LatencyTable.load(sample.text, SPACE, tuning_logs=sample.folder)
    assert not whole.missing(PARTS) and whole == LatencyTable.load(sample.source, SPACE)
    if sample.source.computes:
        with pytest.raises(LatencyError, match="give --space"):
            LatencyTable.load(sample.text)
    else:
        plain = LatencyTable.load(sample.text, tuning_logs=sample.folder)
        assert plain.cells == sample.source.load().cells and plain.missing(PARTS)


@pytest.mark.parametrize(("text", "said"), [pair for pairs in BAD.values() for pair in pairs])
def test_bad_input_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("broken.csv", "broken.json", "broken.yaml"):
        Path(name).write_text("[]\n")
    with pytest.raises(UserError) as caught:
        source_of(text, tmp_path / "logs").load(PARTS)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_journal_costs_its_line_and_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = journal(tmp_path, 1)
    path = journal_path("phone", tmp_path)
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    assert sample.source.load().lookup(BLOCK).latency_ms == pytest.approx(3.0)
    assert "is skipped" in capsys.readouterr().err


WITHOUT_TVM = """
import sys
from pathlib import Path
sys.modules["tvm"] = None  # whoever imports it now fails
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.registry import load_space
space = load_space("fbnet_mini")
table = LatencyTable.load(sys.argv[1], space, tuning_logs=Path(sys.argv[2]))
assert not table.missing(space.distinct_parts())
assert "torch" not in sys.modules
"""


def test_no_source_needs_tvm_or_torch(make: Callable[[int], Sample]) -> None:
    sample = make(3)
    words = [sys.executable, "-c", WITHOUT_TVM, sample.text, str(sample.folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_stored_correction_is_applied_once_where_asked_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = journal(tmp_path, 1).source
    plain = latency_table(source, SPACE)
    archs = [Arch(tuple(x.blocks[(7 * net + 3 * x.index) % 9] for x in SPACE.layers)) for net in range(12)]
    slower = study(plain, SPACE, {format_arch(arch, SPACE): 1.05 * plain.arch_ms(arch, SPACE) for arch in archs})
    save_study(slower, plain, correction_path("phone", SPACE, plain.context, tmp_path))
    capsys.readouterr()
    table = latency_table(source, SPACE)
    assert table.arch_ms(ARCH, SPACE) == pytest.approx(1.05 * plain.arch_ms(ARCH, SPACE))
    assert capsys.readouterr().err.count("latencies are corrected by what whole nets took") == 1
    assert latency_table(source, SPACE, correct=False) == plain
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("host", "target"),
        ("my/board.yaml", "target"),
        ("host,dtype=int8", "target"),
        ("host,dtype=mixed", "mixed"),
        ("pixel3.csv", "file"),
        ("PIXEL3.PARQUET", "file"),
        ("runs/r1/table.json", "file"),
        ("simulated:gflops=16,gbps=8", "simulated"),
        ("simulated:core.yaml", "simulated"),
    ],
)
def test_a_text_names_one_kind(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_a_targets_file_stands_for_its_name_and_where_no_target_is_meant_a_name_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text("name: phone\ntvm: {}\n")
    assert source_of(tmp_path / "board.yaml").name == "phone"
    (tmp_path / "board.yaml").write_text("tvm: {}\n")
    with pytest.raises(UserError, match="a target needs a name"):
        source_of(tmp_path / "board.yaml")
    with pytest.raises(UserError, match=r"host: a latency table is a \.csv, \.parquet or \.json file"):
        table_source("host").load()


def test_a_runs_table_is_a_source(tmp_path: Path) -> None:
    made = latency_table(journal(tmp_path, 3).source, SPACE)
    write_table(made, tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.cells == made.cells and again.overhead_ms == made.overhead_ms


# --- the simulated processor ---


def ms_of(part: NetPart = BLOCK, **changes: float) -> float:
    processor = Processor.model_validate({"gflops": 16, "gbps": 8, **changes})
    return SimulatedSource("simulated:test", processor).load([part]).cells[part].latency_ms


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic_and_its_start() -> None:
    head = SPACE.fixed_parts()[-1]
    assert head.part == "head_linear"
    macs, moved = head.cin * head.cout, head.cin + head.cout + head.cin * head.cout
    assert ms_of(head, gflops=1e-3, gbps=1e6) == pytest.approx(2 * macs / 1e6 * 1e3)
    assert ms_of(head, gflops=1e6, gbps=1e-3) == pytest.approx(4 * moved / 1e6 * 1e3)
    assert ms_of(head, gflops=1e6, gbps=1e-3, element_bytes=1) == pytest.approx(moved / 1e6 * 1e3)
    for part in (part for part in PARTS if not part.is_identity):
        kernels = max(len(convs_of(part)), 1)
        assert ms_of(part, kernel_us=5) - ms_of(part) == pytest.approx(kernels * 5e-3)
        assert ms_of(part, gflops=32) <= ms_of(part) and ms_of(part, gbps=16) <= ms_of(part)
        assert ms_of(part, gflops=32, gbps=16) == pytest.approx(ms_of(part) / 2)


def test_a_processor_can_be_described_in_a_file_or_in_place(tmp_path: Path) -> None:
    described = {"name": "a_core", "gflops": 16, "gbps": 8.5, "kernel_us": 2, "call_us": 20, "element_bytes": 1}
    (tmp_path / "core.yaml").write_text(json.dumps(described))
    in_file = parse_simulated(f"simulated:{tmp_path / 'core.yaml'}")
    in_place = parse_simulated("simulated:" + ", ".join(f"{name}={value}" for name, value in described.items()))
    assert in_file.processor == in_place.processor and in_file.name == "simulated:a_core"
    (tmp_path / "plain.yaml").write_text("gflops: 16\ngbps: 8\n")
    assert parse_simulated(f"simulated:{tmp_path / 'plain.yaml'}").name == "simulated:plain"


def test_what_simulated_cells_cannot_tell_is_predicted_from_them_and_stays_simulated(tmp_path: Path) -> None:
    cells = parse_simulated("simulated:gflops=16,gbps=8").load(PARTS).cells
    write_table(LatencyTable(dict(list(cells.items())[:30])), tmp_path / "t.csv")
    table = LatencyTable.load(tmp_path / "t.csv", SPACE)
    assert {cell.source for cell in table.cells.values()} == {"simulated", "predicted"}
    assert table.measured_share(ARCH, SPACE) == 0.0
    with pytest.raises(LatencyError, match="mixes measured and simulated"):
        LatencyTable({**table.cells, BLOCK: Cell(1.0)})


def test_contexts_of_measurements_choose_among_them(tmp_path: Path) -> None:
    sample = journal(tmp_path, 1)
    records = Journal(journal_path("phone", tmp_path))
    records.append(measurement(BLOCK, 9.2, overhead_ms=0.2, device_model="Another CPU"))
    assert source_of("phone", tmp_path).load().lookup(BLOCK).latency_ms == pytest.approx(9.0)
    chosen = source_of("phone", tmp_path, CONTEXT.device_model)
    assert chosen.load().lookup(BLOCK).latency_ms == pytest.approx(sample.block_ms)
