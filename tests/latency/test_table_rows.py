"""Tables as spreadsheets and other systems write them are read rightly or refused with line and reason."""

import pyarrow
import pytest
from pyarrow import parquet

from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.space.space import NetPart

HEADER = "part,block,cin,cout,height,width,stride,latency_ms"
ROWS = ["stem,conv_k3,1,16,32,32,2,1.403", "block,k3_e1_g2,16,16,16,16,1,0.5", "overhead,call,1,1,1,1,1,0.02"]
GOOD = "\n".join([HEADER, *ROWS]) + "\n"
STEM = NetPart("stem", "conv_k3", 1, 16, 32, 32, 2)
BLOCK = NetPart("block", "k3_e1_g2", 16, 16, 16, 16, 1)


def decimal_commas(separator: str) -> str:
    return GOOD.replace(",", separator).replace(".", ",")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("good.csv", GOOD.encode()),
        ("GOOD.CSV", GOOD.encode()),
        ("windows.csv", GOOD.replace("\n", "\r\n").encode("utf-8-sig")),
        ("semicolon.csv", decimal_commas(";").encode("utf-8-sig")),
        ("semicolon_point.csv", GOOD.replace(",", ";").encode()),
        ("unicode_text.csv", GOOD.replace(",", "\t").encode("utf-16")),
        ("utf16be.csv", b"\xfe\xff" + GOOD.encode("utf-16-be")),
        (
            "us.csv",
            GOOD.replace("latency_ms", "latency_us")
            .replace("1.403", "1403")
            .replace("0.5", "5e2")
            .replace("0.02", "20")
            .encode(),
        ),
        (
            "s.csv",
            GOOD.replace("latency_ms", "latency_s")
            .replace("1.403", "0.001403")
            .replace("0.5", "5e-4")
            .replace("0.02", "2e-5")
            .encode(),
        ),
        ("blank_lines.csv", (GOOD + "\n,,,,,,,\n").encode()),
        ("spaces.csv", GOOD.replace(",", " , ").encode()),
        ("other_spelling.csv", GOOD.replace("k3_e1_g2", "k3_e1_g2_relu").encode()),
    ],
)
def test_a_table_in_any_usual_form_says_the_same(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    table = read_table(tmp_path / name)
    assert {part: cell.latency_ms for part, cell in table.cells.items()} == pytest.approx({STEM: 1.403, BLOCK: 0.5})
    assert table.overhead_ms == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace(".", ","), "line 2 and 2 more: has 9 fields, the header 8"),
        (GOOD.replace("1.403", "1.403,"), "line 2: has 9 fields"),
        (GOOD.replace(",1.403", ""), "line 2: has 7 fields"),
        (GOOD.replace("1.403", '"1,403"'), "line 2: latency_ms must be a number with a decimal point, not '1,403'"),
        (decimal_commas(";").replace("0,5", "1.403"), "line 3: latency_ms must be a number with a decimal comma"),
        (decimal_commas("\t"), "with a decimal point, not '1,403'"),
        (GOOD.replace("1.403", "1_0"), "line 2: latency_ms must be a number, not '1_0'"),
        (GOOD.replace("1.403", "١٢"), "line 2: latency_ms must be a number"),
        (GOOD.replace("1.403", "\uff11\uff12"), "line 2: latency_ms must be a number"),
        (GOOD.replace("1.403", "0x10"), "must be a number"),
        (GOOD.replace("1.403", "nan"), "must be a number"),
        (GOOD.replace("1.403", "inf"), "must be a number"),
        (GOOD.replace("1.403", "1e999"), "must be finite"),
        (GOOD.replace("1.403", "1e9"), "more than 1e+07 ms"),
        (GOOD.replace("1.403", "-1"), "must not be negative"),
        (GOOD.replace("1.403", ""), "must be a number, not ''"),
        (GOOD.replace("1.403", "9" * 5000), "must be"),
        (GOOD.replace("32,32,2", "32,32,2.5"), "whole numbers"),
        (GOOD.replace("32,32,2", "32,32,0"), "whole numbers"),
        (GOOD + ROWS[0] + "\n", "line 5: stem/conv_k3/1-16/32x32/s2 has a row already"),
        (GOOD + ROWS[1].replace("_g2", "_g2_relu") + "\n", "line 5: block/k3_e1_g2/16-16/16x16/s1 has a row already"),
        (GOOD + ROWS[2].replace("0.02", "0.03") + "\n", "line 5: overhead has a row already"),
        (GOOD.replace("conv_k3", "conv_k5"), "line 2: the block of stem is called conv_k3"),
        (GOOD.replace("_g2", "_g3"), "line 3: 3 groups do not divide"),
        (GOOD.replace("stem", "neck"), "line 2:"),
        (GOOD.replace("latency_ms", "latency_ms,latency_us").replace("1.403", "1.403,1403"), "given in ms and us"),
        (GOOD.replace("latency_ms", "latency"), "unknown column"),
        (GOOD.replace("latency_ms", "latency_ns"), "needs the column(s) latency_ms"),
        (GOOD.replace("latency_ms", "latency_ms,note").replace("1.403", "1.403,x"), "unknown column(s) note"),
        (GOOD.replace("width,stride", "height,stride"), "height occur twice"),
        (GOOD.replace("cin", "cin,cin"), "cin occur twice"),
        (HEADER + "\n", "there are no rows"),
        ("", "needs the column(s)"),
        (GOOD.replace("16,16,16", '16,"16,16'), "not a CSV file"),
        (GOOD + "x" * 200_000, "not a CSV file"),
    ],
)
def test_what_a_table_says_otherwise_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_table(path)
    message = str(caught.value)
    assert said in message or (said == "unknown column" and "latency_ms" in message)
    assert str(path) in message and "\n" not in message and len(message) < 2000


def test_a_table_in_an_unmarked_other_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(GOOD.replace("stem", "stëm").encode("cp1252"))
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(line 2\)"):
        read_table(tmp_path / "t.csv")


def records() -> list[dict[str, object]]:
    names = HEADER.split(",")
    values = [row.split(",") for row in ROWS]
    return [
        {name: text if name in ("part", "block") else float(text) for name, text in zip(names, row, strict=True)}
        for row in values
    ]


def test_a_parquet_table_says_the_same_and_its_ending_may_be_in_capitals(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(records()), tmp_path / "T.PARQUET")
    table = read_table(tmp_path / "T.PARQUET")
    assert table.cells[STEM].latency_ms == 1.403 and table.overhead_ms == 0.02


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latency_ms": float("nan")}, "row 1: latency_ms must be a number, not 'nan'"),
        ({"latency_ms": float("inf")}, "row 1: latency_ms must be a number, not 'inf'"),
        ({"latency_ms": None}, "row 1: latency_ms must be a number, not ''"),
        ({"latency_ms": -1.0}, "row 1: latency_ms must not be negative"),
        ({"note": "x"}, "unknown column(s) note"),
        ({"cin": 1.5}, "row 1: cin, cout, height, width, stride must be whole numbers"),
    ],
)
def test_a_parquet_table_is_held_to_the_same_rules(tmp_path, change, said):
    rows = records()
    for name in change:
        for row in rows:
            row.setdefault(name, "")
    rows[0].update(change)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "t.parquet")
    assert said in str(caught.value)


def test_lists_within_a_parquet_table_are_no_numbers(tmp_path):
    rows = [{**row, "latency_ms": [1.0]} for row in records()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="latency_ms must be a number"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.csv.gz"])
def test_other_files_are_no_tables(tmp_path, name):
    with pytest.raises(UserError, match=r"a \.csv, \.parquet or \.json file"):
        read_table(tmp_path / name)
