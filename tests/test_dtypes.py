"""Every dtype that is registered says what the product needs to know of it, and is one line where it is unknown."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brief_target import brief_target

from tvmfbnet.api.arguments import as_target
from tvmfbnet.cli.main import main
from tvmfbnet.dtypes import DTYPES, FLOAT16, FLOAT32, bytes_of, dtype_named, random_tensor, require_dtype
from tvmfbnet.errors import UserError
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.features import conv_table
from tvmfbnet.latency.roofline import fit_base
from tvmfbnet.pipeline.recipe import load_recipe
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import ResolvedTarget, Target, in_dtype, load_target, resolve, target_key

# Of a journal and of a target before targets could have another dtype: what was measured must be found again.
OLD_CONTEXT = {
    **{"target": "host", "target_key": "0123456789abcdef", "tvm_version": "0.27.0", "ffi_version": "0.1.14"},
    **{"tvm_target": '{"kind":"llvm","mcpu":"znver3","num-cores":1}', "threads": 1, "dtype": "float32"},
    **{"layout": "NHWC", "protocol": "in_net", "device_model": "A CPU", "device_threads": 1, "device_cores": "0-1"},
}
OLD_CONTEXT_KEY, OLD_COMPILE_KEY, OLD_RPI4_KEY = "eff09fc4359b643c", "12a4e1e345c685fe", "8b6e015c39dd7d2f"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)
def test_a_dtype_names_types_that_numpy_has_and_says_why_its_parity_limit_is_what_it_is(dtype):
    for name in (dtype.name, dtype.boundary, dtype.accumulator, dtype.reference):
        assert np.dtype(name).name == name
    assert DTYPES[dtype.name] is dtype_named(dtype.name) is dtype
    assert dtype.bytes == dtype.numpy.itemsize <= bytes_of(dtype.accumulator)
    assert 0 < dtype.parity_limit < 0.1 and len(dtype.parity_reason.split()) > 5
    assert np.finfo(dtype.reference).eps < dtype.parity_limit, "PyTorch's own rounding would fail the check"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)
def test_the_docs_have_a_row_for_every_dtype(dtype):
    page = (Path(__file__).parents[1] / "docs/reference/targets.md").read_text()
    assert re.search(rf"^\| `{dtype.name}` \|", page, re.MULTILINE)


def test_the_key_of_a_float32_context_and_target_is_what_it_was():
    context = Context.from_dict(OLD_CONTEXT)
    assert (context.key, context.compile_side.key) == (OLD_CONTEXT_KEY, OLD_COMPILE_KEY)
    rpi4 = load_target("rpi4")
    assert target_key(ResolvedTarget.model_validate(dict(rpi4))) == OLD_RPI4_KEY
    assert replace(context, dtype="int8").key != OLD_CONTEXT_KEY


def test_an_unknown_dtype_is_one_line_that_lists_the_known_ones(tmp_path, capsys):
    for value in ("bfloat16", 16, ["float32"], None):
        with pytest.raises(ValueError, match=r"is not supported: nets are compiled and timed in float32 or float16"):
            require_dtype(value)
    with pytest.raises(UserError, match="dtype 'bfloat16' is not supported"):
        dtype_named("bfloat16")
    for name in ("words", "object", "U5", "f4,f4", "(3,)f4,", "", 7):
        with pytest.raises(ValueError, match="is not a numeric type"):
            bytes_of(name)
    assert [bytes_of(name) for name in ("bool", "int8", "float16", "int32", "float64")] == [1, 1, 2, 4, 8]
    (tmp_path / "half.yaml").write_text(brief_target() + "dtype: float8\n")
    with pytest.raises(SystemExit) as end:
        main(["targets", "show", str(tmp_path / "half.yaml")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "half.yaml: dtype: 'float8' is not supported" in line


def test_random_tensors_are_the_same_in_every_process():
    first, again = (random_tensor((2, 3), "float32") for _ in range(2))
    assert first.dtype == np.float32 and np.array_equal(first, again)
    assert not np.array_equal(first, random_tensor((2, 3), "float32", seed=1))


def test_a_target_without_a_dtype_is_float32():
    target = load_target("host")
    assert "dtype" not in json.loads(json.dumps(target.model_dump(mode="json", exclude_defaults=True)))
    assert isinstance(target, Target) and target.data_type is FLOAT32 and target.data_type.bytes == 4


def test_the_latency_model_weighs_memory_in_bytes():
    """On a device bound by memory alone, twice the bytes take twice the time, whatever the elements are."""
    parts = load_space("fbnet").distinct_parts()
    four, eight = conv_table(parts), conv_table(parts, 8)
    assert np.array_equal(2 * four.moved_bytes, eight.moved_bytes)
    assert np.array_equal(2 * four.weight_bytes, eight.weight_bytes) and np.array_equal(four.macs, eight.macs)

    def latency_ms(table):
        return table.by_part(table.macs / 1e7 + (table.moved_bytes + table.weight_bytes) / 2e6) + 0.01

    fitted, unseen = parts[::2], parts[1::2]
    base = fit_base(fitted, latency_ms(conv_table(fitted, 8)), element_bytes=8)
    error = np.exp(base.log_ms(unseen)) / latency_ms(conv_table(unseen, 8)) - 1.0
    assert np.abs(error).mean() < 0.05
    assert base.element_bytes == type(base).from_dict(base.to_dict()).element_bytes == 8


def test_a_target_is_taken_in_another_dtype_by_its_spelling_or_by_an_argument(tmp_path):
    half = load_target("rpi4,dtype=float16")
    assert (half.name, half.dtype, half.data_type) == ("rpi4", "float16", FLOAT16)
    assert half == as_target("rpi4", "float16") == as_target(load_target("rpi4"), "float16") != load_target("rpi4")
    assert as_target("rpi4,dtype=float16") == as_target("rpi4,dtype=float16", "float16") == half
    assert as_target(half) is half and isinstance(in_dtype(resolve(load_target("rpi4")), "float16"), ResolvedTarget)
    file = tmp_path / "mine.yaml"
    file.write_text(brief_target() + "dtype: float16\n")
    assert load_target(str(file)).dtype == "float16" and load_target(f"{file},dtype=float32").dtype == "float32"
    c = tmp_path / "c.yaml"
    c.write_text(re.sub(r"\{kind: llvm.*?\}", "{kind: c}", brief_target()))
    for refused in (lambda: load_target(f"{c},dtype=float16"), lambda: as_target(load_target(str(c)), "float16")):
        with pytest.raises(UserError, match=r"dtype is float16, which has kernels for .* not for tvm.kind c"):
            refused()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "--target", "host", "--space", "fbnet_mini", "--dtype", "float8"), "dtype 'float8' is not supported"),
        (("tune", "--target", "host,dtype=float32", "--space", "fbnet_mini", "--dtype", "float16"), "names float32"),
        (("latency", "fit", "--table", "t.csv", "--dtype", "float16"), "--table has what it has"),
        (
            ("search", "--space", "fbnet_mini", "--data", "x", "--latency-table", "t.csv", "--dtype", "float16"),
            "--latency-table has what it has",
        ),
        (("run", "demo", "--dtype", "half", "--print-config"), "dtype 'half' is not supported"),
    ],
)
def test_a_dtype_that_a_command_cannot_use_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and said in line


def test_a_recipe_names_a_dtype_and_run_another(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["run", "demo", "--dtype", "float16", "--print-config"])
    printed = tmp_path / "mine.yaml"
    printed.write_text(capsys.readouterr().out)
    _, recipe = load_recipe(str(printed))
    assert (recipe.dtype, recipe.spelled_target) == ("float16", "host,dtype=float16")
    assert load_recipe("demo")[1].spelled_target == "host"
