"""Every option of every command takes its own default, and says clearly what it does not take."""

import subprocess
import sys

import pytest
import typer.main

from tvmfbnet.cli.main import app
from tvmfbnet.data.kinds import DATA_HELP, FORMS, KINDS


def commands(group, path=()):
    """Every command with its words."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_all_commands_are_looked_at():
    assert {("bench",), ("tune",), ("run",), ("latency", "fit"), ("device", "push")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_an_option_is_by_default_is_a_value_that_it_takes(words):
    """A default goes through the option's own parser, as a value from the command line does."""
    command = COMMANDS[words]
    context = command.make_context("tvmfbnet", [], resilient_parsing=True)
    for option in command.params:
        default = option.get_default(context)
        if default is not None:
            option.process_value(context, default)


def test_the_help_of_data_names_every_kind_of_data_set():
    options = [
        option.help
        for words, command in COMMANDS.items()
        for option in command.params
        if "--data" in option.opts and words != ("sample",)  # where the data set of a search lies now
    ]
    assert len(options) >= 3 and {DATA_HELP} == set(options)
    assert all(form in DATA_HELP for form in FORMS.values()) and set(KINDS) == set(FORMS)


@pytest.mark.parametrize("value", ["0s", "0", "soon", "-5s"])
def test_a_duration_that_is_none_is_one_line(value, tmp_path):
    words = ["bench", str(tmp_path), "--target", "host", f"--sustained={value}"]
    done = subprocess.run(
        [sys.executable, "-m", "tvmfbnet.cli.main", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert ("is no time at all" if value.startswith("0") else "is not a duration") in done.stderr
