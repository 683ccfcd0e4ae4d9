"""What a command can know to be wrong in a moment, it says before TVM or torch is loaded or anything is begun."""

import atexit
import functools
import json
import os
import zipfile
from pathlib import Path

import pytest
import yaml
from forked import Forking, run_command

from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.provisioning.loopback import free_port, local_tracker
from tvmfbnet.targets.definition import load_target

ARCH = "k3_e1/k3_e1,skip"
# What commands load at once, none of which is heavy: what each of them loads besides is what is tested.
PRELOAD = """
import json, sys
import tvmfbnet.api.run, tvmfbnet.api.tune, tvmfbnet.latency.table_io, tvmfbnet.provisioning.loopback
from tvmfbnet.cli.main import main
"""
# Runs a command as the shell does, and says then what it had loaded.
RUN = """
try:
    main(task)
finally:
    print(json.dumps([name for name in ("tvm", "torch", "xgboost") if name in sys.modules]))
"""


@pytest.fixture
def desk(tmp_path, tiny_space_file, monkeypatch):
    """A folder of work: a target whose tracker is away, one without its compiler, images whose classes do not match."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part, name in (("train", "cats"), ("val", "dogs")):
        folder = tmp_path / "images" / part / name
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
        for kind in ("cat", "dog"):
            (tmp_path / "pets" / part / kind).mkdir(parents=True)
            (tmp_path / "pets" / part / kind / "a.png").touch()
    away = {
        **{"name": "away", "description": "a board", "exercised": False, "tvm": {"kind": "llvm"}},
        "transport": {"kind": "tracker", "port": free_port(), "key": "away"},
    }
    (tmp_path / "away.yaml").write_text(yaml.safe_dump(away))
    linkless = {**away, "name": "linkless", "toolchain": {"kind": "cxx", "command": "no-such-c++"}}
    (tmp_path / "linkless.yaml").write_text(yaml.safe_dump(linkless))
    far = {**load_target("qemu_arm").model_dump(mode="json"), "toolchain": {"kind": "cxx", "command": "no-such-c++"}}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump({**far, "name": "far"}))
    recipe = {"description": "a run", "target": "away.yaml", "space": "tiny.yaml", "data": "imagefolder:images"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "search": {}, "train": {}}))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "empty.pt").touch()
    with zipfile.ZipFile(tmp_path / "whole.pt", "w") as archive:
        archive.writestr("net/data.pkl", bytes(4096))
    (tmp_path / "torn.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-40])
    return tmp_path


def error_of(done):
    """The error line of a command that must fail, and what was loaded for it."""
    assert done.returncode == 2, done.stderr
    *notes, error = done.stderr.strip().splitlines()
    assert error.startswith("error: "), done.stderr
    return error, json.loads(done.stdout.splitlines()[-1]), notes


def said_by(*words, seconds=300):
    """What :func:`error_of` gives for a command."""
    return error_of(_light().run([str(word) for word in words], Path.cwd(), dict(os.environ), seconds))


@functools.cache
def _light():
    """The process that commands fork from."""
    process = Forking(PRELOAD, RUN)
    atexit.register(process.stop)
    return process


COMPILE = ("compile", ARCH, "--space", "tiny.yaml", "--out", "package", "--target")
SEARCH = ("search", "--space", "tiny.yaml", "--target", "host", "--data")
TRAIN = ("train", ARCH, "--space", "tiny.yaml", "--data")


WRONG = [
    (("tune", "--space", "tiny.yaml", "--target", "away.yaml"), ["no tracker at 127.0.0.1:"]),
    (("tune", "--space", "tiny.yaml", "--target", "linkless.yaml"), ["no-such-c++", "no tracker at"]),
    (("tune", "--space", "tiny.yaml", "--target", "simulated:gflops=1,gbps=1"), ["no device to compile for, tune"]),
    (("tune", "--space", "tiny.yaml", "--target", "far.yaml"), ["no-such-c++, which target far links with"]),
    (("tune", "--space", "tiny.yaml", "--target", "host", "--tuning-logs", "file"), ["file is not a folder"]),
    (("tune", "--space", "tiny.yaml", "--target", "host", "--blocks", "k9_*"), ["matches --blocks 'k9_*'"]),
    ((*COMPILE, "away.yaml"), ["no tracker at"]),
    ((*COMPILE, "linkless.yaml", "--build-only"), ["no-such-c++"]),
    ((*COMPILE, "host", "--checkpoint", "net.pt"), ["net.pt is missing: give the file of the trained weights"]),
    ((*COMPILE, "host", "--checkpoint", "file"), ["file is no checkpoint: give the file of the trained weights"]),
    ((*COMPILE, "host", "--checkpoint", "empty.pt"), ["empty.pt is empty: give the file"]),
    ((*COMPILE, "away.yaml", "--checkpoint", "torn.pt"), ["2 problems", "torn.pt is cut short", "no tracker at"]),
    (("bench", "package", "--target", "away.yaml"), ["package holds no package"]),
    (("latency", "validate", "--space", "tiny.yaml", "--target", "away.yaml"), ["no tracker at"]),
    (("latency", "validate", "--space", "tiny.yaml", "--target", "host"), ["nothing was measured for target host"]),
    ((*SEARCH, "imagefolder:images"), ["images/val does not hold the same classes"]),
    ((*SEARCH, "imagefolder:absent"), ["data folder absent/train is missing"]),
    ((*SEARCH, "imagefolder:pets?classes=none.txt"), ["neither a number nor a readable file of class names"]),
    ((*SEARCH, "imagefolder:pets?classes=5"), ["?classes=5: there are 2 classes"]),
    ((*SEARCH, "fashion_mnist:absent", "--out", "file/s"), ["2 problems:", "is missing", "file is not a folder"]),
    ((*TRAIN, "imagefolder:images"), ["images/val does not hold the same classes"]),
    (
        (*TRAIN, "fashion_mnist:absent", "--out", "file/t"),
        ["2 problems:", "is missing", "file is not a folder"],
    ),
    (("device", "build", "--target", "host", "--out", "file/programs"), ["file is not a folder"]),
    (("device", "build", "--target", "far.yaml"), ["no-such-c"]),
    (("device", "push", "--target", "far.yaml", "--ssh", "me@127.0.0.1"), ["no-such-c"]),
    (("device", "start", "--target", "away.yaml", "--ssh", "me@127.0.0.1"), ["no tracker at"]),
]


@pytest.mark.usefixtures("desk")
def test_it_is_said_before_anything_heavy_is_loaded():
    for words, said in WRONG:
        error, loaded, _ = said_by(*words)
        assert not loaded, (words, error)
        assert all(part in error for part in said), (words, error)


def test_a_table_without_the_spaces_head_says_so_and_names_the_way_out(desk, tiny_space, tiny_data):
    other = tiny_space.with_classes(1000).with_last_channels(24)
    write_table(LatencyTable({part: Cell(1.0) for part in other.distinct_parts()}, 0.005), desk / "phone.csv")
    words = ["search", "--space", "tiny.yaml", "--data", tiny_data, "--latency-table", "phone.csv"]
    error, loaded, _ = said_by(*words)
    assert "lacks 3 part(s): head_conv/" in error and not {"tvm", "torch"} & set(loaded), error
    assert "its width (last_channels) is 24 in the table and 8 in the space" in error, error
    assert "its number of classes is 1000 in the table and 10 in the space" in error, error
    assert "add --predict-missing to have them predicted" in error, error
    done = run_command([*words, "--predict-missing", "--dry-run"])
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (("host",), {}, "was compiled for board (aarch64-linux-gnu, cortex-a72), not for host (native)"),
        (("rpi4",), {"threads": 4}, "was compiled for 4 thread(s), and target rpi4 uses 1"),
        (("rpi4", "--dtype", "float32"), {"dtype": "float16"}, "computes in float16, and target rpi4 in float32"),
        (("rpi4",), {"dtype": "bfloat16"}, "dtype 'bfloat16' is not supported"),
        (("rpi4", "--runtime", "abacus"), {}, "unknown runtime 'abacus': known are tvm, onnxruntime"),
        (("rpi4", "--runtime", "onnxruntime"), {}, "target rpi4 is a device behind a tracker"),
    ],
)
def test_a_package_for_another_target_is_refused_before_anything_heavy_is_loaded(desk, words, changes, said):
    described = {
        **{"arch": ARCH, "space": "tiny", "input_shape": [1, 1, 28, 28], "target": "board", "tvm_version": "0.27.0"},
        **{"tvm_target": load_target("rpi4").tvm, "threads": 1, "dtype": "float32"},
        **{"kernels_needed": 0, "kernels_found": 0, "kernels_missing": [], **changes},
    }
    (desk / "package").mkdir()
    (desk / "package/package.json").write_text(json.dumps(described))
    error, loaded, _ = said_by("bench", "package", "--target", *words)
    assert not loaded and said in error, error


@pytest.mark.usefixtures("desk")
def test_a_run_checks_its_whole_recipe_and_tells_all_that_is_wrong_at_once(desk):
    error, loaded, _ = said_by("run", "recipe.yaml")
    assert "images/val does not hold the same classes" in error and "no tracker at" in error, error
    assert not {"tvm", "torch"} & set(loaded) and not (desk / "runs").exists() and not (desk / "tuning_logs").exists()
    values = yaml.safe_load((desk / "recipe.yaml").read_text())
    (desk / "recipe.yaml").write_text(yaml.safe_dump({**values, "train": {"device": "cuda:99"}}))
    error, loaded, _ = said_by("run", "recipe.yaml", "--out", "file/run", "--tuning-logs", "file")
    assert error.startswith("error: 5 problems: ") and "no torch device 'cuda:99' here" in error, error


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "words",
    [
        ("latency", "export", "--target", "mine", "--space", "tiny.yaml", "--out", "file/table.csv"),
        ("latency", "fit", "--target", "mine", "--out", "file/model.json"),
        ("latency", "import", "table.csv", "--target", "other", "--tuning-logs", "file"),
    ],
)
def test_where_a_result_cannot_be_written_is_found_out_before_it_is_computed(desk, words):
    folder = desk / "tuning_logs" / "mine"
    folder.mkdir(parents=True)
    (folder / "table.csv").write_text("part,block\nbroken")  # whoever reads this says something else
    error, _, _ = said_by(*words)
    assert "file is not a folder" in error, error


@pytest.mark.rpc
def test_a_key_that_nobody_serves_is_told_within_seconds_and_the_command_that_serves_it(desk):
    with local_tracker("another") as endpoint:
        target = yaml.safe_load((desk / "away.yaml").read_text())
        target["transport"]["port"] = endpoint.port
        target["timeouts"] = {"connect": 600}
        (desk / "away.yaml").write_text(yaml.safe_dump(target))
        error, loaded, _ = said_by("tune", "--space", "tiny.yaml", "--target", "away.yaml", seconds=60)
    assert not loaded and "no device serves key 'away'" in error
    assert "`tvmfbnet device start --ssh USER@HOST --target away.yaml`" in error
    assert not (desk / "tuning_logs").exists()
