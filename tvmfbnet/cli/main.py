"""Entry point of ``tvmfbnet``: gathers the commands and turns every failure into one clear line and an exit code."""

from __future__ import annotations

import contextvars
import errno
import os
import sys
import traceback
from collections.abc import MutableMapping

import typer
from typer.exceptions import TyperException

from tvmfbnet import __version__, extras, interrupts
from tvmfbnet.cli import arch, device, latency, recipe, report, spaces, streams, targets, terminal
from tvmfbnet.cli.bench import bench_command
from tvmfbnet.cli.compile import compile_command
from tvmfbnet.cli.devices import devices_command
from tvmfbnet.cli.prune import prune_command
from tvmfbnet.cli.run import run_command
from tvmfbnet.cli.sample import sample_command
from tvmfbnet.cli.search import search_command
from tvmfbnet.cli.tracker import tracker_command
from tvmfbnet.cli.train import train_command
from tvmfbnet.cli.tune import tune_command
from tvmfbnet.errors import UserError

app = typer.Typer(
    name="tvmfbnet",
    help="Finds the most accurate ConvNet that meets a latency target on a real device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tvmfbnet {__version__}")
        raise typer.Exit


# Run again after a Ctrl-C, these resume; `latency validate` says so itself.
_RESUMABLE = frozenset({"run", "tune", "search", "train", "prune"})


@app.callback()
def _global_options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a failure."),
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    if debug:
        os.environ["TVMFBNET_DEBUG"] = "1"
    if context.invoked_subcommand in _RESUMABLE:
        interrupts.promise_resume()


app.command("run")(run_command)
app.add_typer(recipe.app, name="recipe")
app.add_typer(spaces.app, name="spaces")
app.add_typer(arch.app, name="arch")
app.add_typer(targets.app, name="targets")
app.command("tracker")(tracker_command)
app.command("devices")(devices_command)
app.add_typer(device.app, name="device")
app.add_typer(latency.app, name="latency")
app.command("search")(search_command)
app.command("sample")(sample_command)
app.command("train")(train_command)
app.command("prune")(prune_command)
app.command("tune")(tune_command)
app.command("compile")(compile_command)
app.command("bench")(bench_command)
app.add_typer(report.app, name="report")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line: exit code 0 on success, 2 for bad input (one line), 1 for an internal failure."""
    _bound_spinning(os.environ)  # read when torch is loaded, which is later
    streams.prepare()
    with interrupts.handled() as handler, terminal.as_command():
        code = _code_of(arguments)
        if handler.received:  # whatever a library made of it
            streams.flush()
            handler.end()
    unwritten = streams.flush()
    if unwritten is not None and code == 0:
        code = _output_lost(unwritten)
    if arguments is None and _SLOW_TO_END & sys.modules.keys() and "RANK" not in os.environ:
        streams.end(code)
    sys.exit(code)


def _bound_spinning(environment: MutableMapping[str, str]) -> None:
    """Has torch's threads wait for each other without spinning for long, unless the environment says how they wait.

    Where other work shares the cores, spinning slows training down several times. Where none does, threads that sleep
    at once do: waking them takes longer than many operations of a small net. GNU's threads take a number of tries.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"
        environment.setdefault("GOMP_SPINCOUNT", "5000")


# Taken apart in order, these keep the prompt away for seconds. All files are closed by then, and all children ended.
_SLOW_TO_END = frozenset({"torch", "tvm"})


def _code_of(arguments: list[str] | None) -> int:
    """Runs a command, says what went wrong, and gives the exit code."""
    try:
        code = _call(arguments)
    except UserError as error:
        return _fail(str(error), 2)
    except TyperException as error:  # a usage error: unknown command, option or value
        return _fail(error.format_message() if hasattr(error, "format_message") else str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", interrupts.EXIT_CODE)
    except OSError as error:
        unwritten = streams.flush()
        if unwritten is not None or (error.errno == errno.EPIPE and streams.reader_is_gone()):
            return _output_lost(unwritten or error)
        if error.errno in _OUTSIDE:
            return _fail(f"{error.filename}: {error.strerror}" if error.filename else _UNWRITTEN.format(error), 2)
        return _fail(_internal(error), 1)
    except Exception as error:
        return _fail(_internal(error), 1)
    return code if isinstance(code, int) else 0


_UNWRITTEN = "cannot write the output: {0.strerror}"


def _call(arguments: list[str] | None) -> object:
    """Runs a command; an error over a closed pipe comes out as itself, where typer would end the process in silence."""
    stdout, stderr = sys.stdout, sys.stderr
    try:
        with extras.explained():
            # What a command remembers for its advice is its own.
            return contextvars.copy_context().run(app, args=arguments, standalone_mode=False)
    except SystemExit as end:
        if isinstance(end.__context__, OSError):
            raise end.__context__ from None
        raise
    finally:
        sys.stdout, sys.stderr = stdout, stderr


# What the file system says to a user rather than to us: no such file, no permission, disk full, a name too long ...
_OUTSIDE = frozenset(
    {
        *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EMFILE),
    }
)


def _output_lost(error: OSError) -> int:
    """A reader that has gone needs no message; a full disk does."""
    if error.errno == errno.EPIPE:
        return streams.CLOSED_PIPE
    return _fail(_UNWRITTEN.format(error), 2)


def _internal(error: Exception) -> str:
    return f"internal failure: {type(error).__name__}: {error} (--debug shows where)"


def _fail(message: str, code: int) -> int:
    if interrupts.is_stopping():
        return interrupts.EXIT_CODE
    if os.environ.get("TVMFBNET_DEBUG") == "1":
        streams.complain(traceback.format_exc())
    streams.complain(f"error: {' '.join(message.split())}")
    return code


if __name__ == "__main__":
    main()
