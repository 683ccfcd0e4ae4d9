"""Output goes where it can, and what keeps it from going there is one line, never a traceback."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import typer

from tvmfbnet.cli.main import app, main
from tvmfbnet.cli.search import parse_latency
from tvmfbnet.cli.shares import parse_share
from tvmfbnet.cli.tune import parse_duration
from tvmfbnet.pruning.config import PruneConfig
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.training.config import TrainConfig

COMMAND = [sys.executable, "-m", "tvmfbnet.cli.main"]


def run(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    return subprocess.run([*COMMAND, *arguments], **options)


def assert_one_line(result, *parts):
    lines = result.stderr.decode("utf-8").splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("arguments", [["spaces", "list"], ["spaces", "show", "fbnet", "--json"], ["--version"]])
def test_a_full_disk_is_one_line(arguments):
    with Path("/dev/full").open("wb") as full:
        assert_one_line(run(*arguments, stdout=full), "cannot write the output: No space left on device")


def test_an_error_that_nobody_can_read_keeps_its_exit_code():
    with Path("/dev/full").open("wb") as full:
        assert run("spaces", "show", "nowhere", stderr=full).returncode == 2
    assert run("spaces", "show", "nowhere", stderr=None, preexec_fn=lambda: os.close(2)).returncode == 2


@pytest.mark.parametrize("arguments", [["spaces", "list"], ["spaces", "show", "fbnet", "--json"]])
def test_a_reader_that_has_gone_is_no_failure(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        result = run(*arguments, stdout=pipe)
    assert (result.returncode, result.stderr) == (141, b"")


def test_an_encoding_that_lacks_a_character_gets_an_escape(tmp_path):
    space = tmp_path / "grün.yaml"
    space.write_text(
        "description: für → Gerät\ninput: {channels: 1, height: 32, width: 32}\nclasses: 2\nstem: {channels: 8}\n"
        "stages: [{channels: 8, layers: 1}]\nlast_channels: 32\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run("spaces", "show", str(space), env=environment)
    assert result.returncode == 0 and result.stderr == b""
    assert b"f\\xfcr \\u2192" in result.stdout
    assert_one_line(run("spaces", "show", str(tmp_path / "ö.yaml"), env=environment), "\\xf6.yaml")


def test_microseconds_can_be_read_where_the_encoding_lacks_their_letter():
    code = "from tvmfbnet.cli.streams import prepare; prepare(); print('31.7 µs, ü')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    assert printed == b"31.7 us, \\xfc\n"


LONG = "n" * 300
NO_IMAGES = f"imagefolder:{LONG}"
MINI_ARCH = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"


@pytest.mark.parametrize(
    "arguments",
    [
        ["spaces", "show", f"{LONG}.yaml"],
        ["targets", "show", LONG],
        ["targets", "show", f"{LONG}.yaml"],
        ["run", LONG],
        ["report", LONG],
        ["latency", "show", "--target", LONG, "--space", "fbnet_mini"],
        ["latency", "show", "--target", "host", "--space", "fbnet_mini", "--tuning-logs", LONG],
        ["latency", "fit", "--table", f"{LONG}.csv"],
        ["arch", "describe", "fbnet_c", "--latency-table", f"{LONG}.csv"],
        ["search", "--space", "fbnet_mini", "--target", "host", "--data", NO_IMAGES, "--tuning-logs", LONG],
        ["search", "--space", "fbnet_mini", "--target", "host", "--data", NO_IMAGES, "--config", f"{LONG}.yaml"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_name_too_long_for_a_file_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize("kind", ["file", "dangling", "cycle"])
def test_an_out_that_is_no_folder_is_one_line(tmp_path, kind, capsys):
    out = tmp_path / "out"
    if kind == "file":
        (tmp_path / "file").touch()
        out.symlink_to(tmp_path / "file")
    else:
        out.symlink_to(tmp_path / ("nowhere" if kind == "dangling" else "out"))
    with pytest.raises(SystemExit) as end:
        main(["run", "demo", "--out", str(out)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and str(out) in said and said.count("\n") == 1


def parameters(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Every parameter of every command: the words that lead to it, its name and its type with the option's details."""
    for nested in group.registered_groups:
        yield from parameters(nested.typer_instance, (*path, str(nested.name)))
    for command in group.registered_commands:
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
            yield (*path, str(command.name)), parameter.name, parameter.annotation


# Checked as settings, whose bounds another test watches.
SETTINGS = {
    ("search",): {*SearchConfig.model_fields},
    ("train",): {*TrainConfig.model_fields},
    ("prune",): {*TrainConfig.model_fields, *PruneConfig.model_fields},
}


def test_every_number_on_the_command_line_has_bounds():
    seen, boundless = 0, []
    for path, name, annotation in parameters(app):
        kind, *details = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        if not {kind, *get_args(kind)} & {int, float}:
            continue
        seen += 1
        if name in SETTINGS.get(path, ()):
            continue
        if not any(detail.parser or None not in (detail.min, detail.max) for detail in details):
            boundless.append((*path, name))
    assert seen > 20
    assert not boundless


@pytest.mark.parametrize("parse", [parse_latency, parse_duration, parse_share])
@pytest.mark.parametrize("text", ["inf", "nan", "1e999", "9" * 400, "1_0", "١٢", "-1", "0", "", "1,5", "0x10"])
def test_latencies_durations_and_shares_are_plain_numbers_of_this_world(parse, text):
    with pytest.raises(typer.BadParameter):
        parse(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "nowhere", "--figure"],
        ["latency", "validate", "--target", "host", "--space", "fbnet_mini", "--figure"],
    ],
    ids=["sample", "validate"],
)
def test_a_figure_that_cannot_be_drawn_is_found_out_first(arguments, tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    for name, said in {
        "front.bmp": "a name ending in .png, .svg or .pdf",
        str(tmp_path / "folder.png"): "is a folder",
    }.items():
        with pytest.raises(SystemExit) as end:
            main([*arguments, name])
        assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_found_out_first(capsys):
    with pytest.raises(SystemExit):
        main(["latency", "export", "--target", "nowhere", "--out", "t.xlsx"])
    assert "a .csv, .parquet or .json file" in capsys.readouterr().err
