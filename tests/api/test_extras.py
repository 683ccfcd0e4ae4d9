"""Without an extra, what does not need it works, and what does says in one line which extra to install."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tvmfbnet import extras
from tvmfbnet.errors import MissingExtraError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.space.counts import count_part

ROOT = Path(__file__).resolve().parents[2]
ARCH = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"

# Python for which the modules and distributions named by its first argument are not installed.
HIDING = """
import sys

class Hiding:
    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def find_distributions(self, *context):
        listed = getattr(self.finder, "find_distributions", lambda *_: ())(*context)
        return (one for one in listed if one.name not in self.hidden)

    def __getattr__(self, name):
        return getattr(self.finder, name)

hidden = set(sys.argv.pop(1).split(","))
sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]
"""
COMMAND = "from tvmfbnet.cli.main import main\nmain(sys.argv[1:])\n"


BROUGHT_BY = importlib.metadata.packages_distributions()


def without(modules, code, *arguments, **environment):
    hidden = {*modules, *(name for module in modules for name in BROUGHT_BY[module])}
    words = [sys.executable, "-c", HIDING + code, ",".join(hidden), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def refused(extra, code, *arguments, **environment):
    """One line that names the extra, and exit code 2."""
    done = without(next(e.modules for e in extras.EXTRAS if e.name == extra), code, *arguments, **environment)
    said = done.stderr.splitlines()
    assert done.returncode == 2 and said, done.stderr + done.stdout
    assert said[-1].startswith("error: ") and f"pip install 'tvmfbnet[{extra}]'" in said[-1], done.stderr
    assert "Traceback" not in done.stderr
    return said


@pytest.fixture
def table(tiny_space, tmp_path):
    cells = {part: Cell(1e-6 + 1e-7 * count_part(part).macs) for part in tiny_space.distinct_parts()}
    write_table(LatencyTable(cells, 0.01), tmp_path / "table.csv")
    return tmp_path / "table.csv"


SETTINGS = "epochs: 2\nbatch_size: 32\nsamples: 4\ncandidates: 2\nbn_images: 32\nthreads: 1\n"


def test_a_search_on_a_table_needs_no_extra(tiny_space_file, tiny_data, table, tmp_path):
    modules = [module for extra in extras.EXTRAS for module in extra.modules]
    (tmp_path / "search.yaml").write_text(SETTINGS)
    arguments = ("--space", tiny_space_file, "--data", tiny_data, "--latency-table", table)
    done = without(
        modules, COMMAND, "search", *arguments, "--config", tmp_path / "search.yaml", "--out", tmp_path / "a"
    )
    assert done.returncode == 0 and "found " in done.stdout, done.stderr
    code = "import tvmfbnet as tf\nspace, data, table, out = sys.argv[1:]\nspace = tf.Space.load(space)\n"
    code += "settings = {'epochs': 2, 'batch_size': 32, 'samples': 4, 'candidates': 2, 'bn_images': 32, 'threads': 1}\n"
    code += "result = tf.search(space, data, tf.LatencyTable.load(table), settings, out=out)\nprint(result.best.arch)\n"
    again = without(modules, code, tiny_space_file, tiny_data, table, tmp_path / "b")
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert f"found {again.stdout.strip()}" in done.stdout, "the command and the function find the same"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", "--target", "host", "--space", "fbnet_mini"],
        ["tune", "--target", "host", "--space", "fbnet_mini", "--dry-run"],
        ["compile", ARCH, "--space", "fbnet_mini", "--target", "host", "--out", "package"],
        ["compile", ARCH, "--space", "fbnet_mini", "--target", "host", "--out", "package", "--build-only"],
        ["tracker"],
        ["device", "build", "--target", "host"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_what_needs_tvm_says_so(arguments, tmp_path):
    said = refused("tune", f"import os\nos.chdir({str(tmp_path)!r})\n" + COMMAND, *arguments)
    assert len(said) == 1 and not list(tmp_path.iterdir()), "said before anything is written"


def test_names_that_need_tvm_say_so():
    code = "import tvmfbnet as tf\n"
    code += (
        "try: tf.Package\nexcept tf.MissingExtraError as error: sys.exit(print('error:', error, file=sys.stderr) or 2)"
    )
    assert len(refused("tune", code)) == 1


def test_figures_and_reports_say_so(tmp_path):
    assert len(refused("report", COMMAND, "report", tmp_path)) == 1
    assert len(refused("report", COMMAND, "sample", tmp_path, "--figure", tmp_path / "front.png")) == 1
    assert len(refused("report", COMMAND, "run", "demo", "--out", tmp_path / "run")) == 1
    assert not list(tmp_path.iterdir())


def test_a_parquet_table_says_so(table, tmp_path):
    words = ["arch", "describe", ARCH, "--space", "fbnet_mini", "--latency-table"]
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    assert len(refused("parquet", COMMAND, *words, tmp_path / "table.parquet")) == 1


def test_a_runtime_that_was_asked_for_says_so():
    code = "from tvmfbnet.deploy.runtimes.registry import rivals\nfrom tvmfbnet.errors import UserError\n"
    code += "from tvmfbnet.targets.definition import load_target\nhost = load_target('host')\n"
    code += "assert rivals(None, host) == [], 'one that was not asked for is left out'\n"
    code += "try: rivals(('onnxruntime',), host)\n"
    code += "except UserError as error: sys.exit(print('error:', error, file=sys.stderr) or 2)"
    assert len(refused("onnxruntime", code)) == 1


def test_several_processes_say_so(tiny_space_file, tiny_data, tmp_path):
    words = ["train", "k3_e1/k3_e1,k3_e1", "--space", tiny_space_file, "--data", tiny_data, "--out", tmp_path / "t"]
    refused("distributed", COMMAND, *words, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")


def test_the_tensorboard_logger_says_so(tiny_space_file, tiny_data, table, tmp_path):
    (tmp_path / "search.yaml").write_text(SETTINGS + "loggers: [csv, tensorboard]\n")
    words = ["search", "--space", tiny_space_file, "--data", tiny_data, "--latency-table", table]
    refused("tensorboard", COMMAND, *words, "--config", tmp_path / "search.yaml", "--out", tmp_path / "search")


def test_a_strategy_that_needs_optuna_says_so_before_anything_is_written(tiny_space_file, tiny_data, table, tmp_path):
    words = ["search", "--space", tiny_space_file, "--data", tiny_data, "--latency-table", table, "--epochs", "2"]
    refused("nsga2", COMMAND, *words, "--strategy", "nsga2", "--out", tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_boxes_that_nothing_judges_say_so_before_anything_is_written(tmp_path):
    code = "import tvmfbnet as tf\nfrom tvmfbnet.data.datasets import load_data\n"
    code += "try: load_data('fashion_scenes?task=detection', 32, 32, 1)\n"
    code += "except tf.MissingExtraError as error: sys.exit(print('error:', error, file=sys.stderr) or 2)"
    assert len(refused("detection", code)) == 1


def test_every_extra_is_tested_above():
    tested = set(re.findall(r'refused\(\s*"(\w+)"', Path(__file__).read_text()))
    assert tested >= {extra.name for extra in extras.EXTRAS}


def test_the_extras_are_those_of_the_package_and_all_installs_all():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    of_users = declared.keys() - {"all", "dev", "docs"}
    assert {extra.name for extra in extras.EXTRAS} == of_users
    (everything,) = declared["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == of_users
    assert "tvmfbnet[all]" in declared["dev"], "scripts/setup installs all"
    for extra in extras.EXTRAS:
        required = {re.match(r"[\w-]+", text)[0].lower() for text in declared[extra.name]}
        for module in extra.modules:
            # An editable or vendored module has several; one of them is enough.
            assert {name.lower() for name in BROUGHT_BY[module]} & required, f"{extra.name} does not bring {module}"


def test_a_broken_installation_keeps_its_own_message():
    with pytest.raises(ModuleNotFoundError) as caught, extras.explained():
        raise ModuleNotFoundError("No module named 'tvm.nowhere'", name="tvm.nowhere")
    assert not isinstance(caught.value, MissingExtraError)
    with pytest.raises(ModuleNotFoundError), extras.explained():
        raise ModuleNotFoundError("No module named 'left_pad'", name="left_pad")


def test_what_is_installed_is_not_refused():
    extras.require(*(extra.name for extra in extras.EXTRAS))
