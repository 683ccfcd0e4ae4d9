"""Published latencies are read as blocks' keys, and simulated ones are compared after one scale."""

import numpy as np
import pytest

from tvmfbnet.errors import RuntimeUnavailableError
from tvmfbnet.space.registry import load_space

TABLE = """part,block,cin,cout,height,width,stride,latency_ms
stem,conv_k3,3,16,224,224,2,9
block,k3_e1,16,16,112,112,1,2
block,skip,16,16,112,112,1,0.1
block,k3_e1_g2,16,16,112,112,1,4
"""


def test_blocks_that_do_something_are_read_and_compared(benchmark_script, tmp_path, capsys):
    module, table = benchmark_script("published_blocks"), tmp_path / "table.csv"
    table.write_text(TABLE)
    published = module.published_ms(table)
    assert published == {("k3_e1", 16, 16, 112, 112, 1): 2.0, ("k3_e1_g2", 16, 16, 112, 112, 1): 4.0}
    parts = {part.block: part for part in module.blocks_of(load_space("fbnet")) if part.cin == part.cout == 16}
    module.compare({parts["k3_e1"]: 1.0, parts["k3_e1_g2"]: 3.0, parts["k3_e6"]: 5.0}, published)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("2 blocks: Spearman 1.000, MAPE ")


def test_the_best_scale_is_that_of_the_smallest_error(benchmark_script):
    scale, error = benchmark_script("published_blocks").best_scale(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 9.0]))
    assert scale == 2.0 and error == pytest.approx(1 / 9)


def test_a_folder_without_the_runtime_is_told(benchmark_script, tmp_path):
    pytest.importorskip("flatbuffers")
    with pytest.raises(RuntimeUnavailableError, match=r"schema_py_generated.py is missing: simulated_rivals"):
        benchmark_script("tflite_block").import_schema(tmp_path)
