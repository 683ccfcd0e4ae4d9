"""Several programs after one start: a process that has the imports forks for each of them.

Each runs in a process of its own, as from a shell: its own modules, folder, environment, output and exit code.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What most commands and benchmarks take seconds to load: they fork from a process that has loaded it.
PRELOAD = """
import os, runpy, sys
import onnx.utils, onnxruntime.quantization, scipy.optimize, scipy.stats, timm.utils, torch, torch._dynamo, torch.onnx
import tvm, tvm.relax.frontend.onnx, xgboost
import tvmfbnet.autotune.engine, tvmfbnet.cli.main, tvmfbnet.deploy.bench, tvmfbnet.deploy.parity
import tvmfbnet.latency.regressor, tvmfbnet.pipeline.run, tvmfbnet.pipeline.tuning, tvmfbnet.profiling.parts
import tvmfbnet.quantisation.post_training, tvmfbnet.search.search, tvmfbnet.training.train
"""
COMMAND = """
sys.argv = ["-m", *task]
runpy.run_module("tvmfbnet", run_name="__main__", alter_sys=True)
"""

# Reads a JSON line for each program and answers with another once it has ended.
_PROGRAM = """
import gc, json, os, sys, tempfile, traceback
preload, run = sys.argv[1:]
shared = {"__name__": "forked"}
exec(preload, shared)
gc.collect()
gc.freeze()  # so that forks share the memory of what is loaded
asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
for line in iter(asked.readline, ""):
    task, folder, environment = json.loads(line)
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        code = 0
        try:
            if folder is not None:
                os.chdir(folder)
            if environment is not None:
                os.environ.clear()
                os.environ.update(environment)
            exec(run, {**shared, "task": task})
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in files:
        file.seek(0)
    print(json.dumps([status, *(file.read() for file in files)]), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Forking:
    """The process that has run ``preload``, and forks to run the code ``run`` on a ``task``."""

    def __init__(self, preload, run):
        words = [sys.executable, "-c", _PROGRAM, preload, run]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(words, **pipes, text=True, process_group=0)

    def run(self, task, folder=None, environment=None, seconds=900):
        """Runs the code to its end, in a folder and an environment if they are given."""
        asked = json.dumps([task, None if folder is None else str(folder), environment])
        self._process.stdin.write(asked + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)  # with the fork
            raise TimeoutError(f"{task} still runs after {seconds} s")
        answer = self._process.stdout.readline()
        assert answer, f"the process with the imports ended with {self._process.wait()}"
        return Ended(*json.loads(answer))

    def stop(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def forking(preload, run):
    """A :class:`Forking` that ends with the block."""
    process = Forking(preload, run)
    try:
        yield process
    finally:
        process.stop()


def run_forked(preload, run, tasks, seconds=900):
    """Runs code once for each task, as ``task``, in forks of a process that ran ``preload``."""
    with forking(preload, run) as process:
        return [process.run(task, seconds=seconds) for task in tasks]


@functools.cache
def _commands():
    """The process that commands of this one's tests fork from; it ends with this one."""
    process = Forking(PRELOAD, COMMAND)
    atexit.register(process.stop)
    return process


def run_command(words, folder=None, environment=None, seconds=900):
    """Runs a command of ours to its end, in this process's folder and environment unless others are given.

    It starts with all that it may load: not for tests of what is loaded, and when.
    """
    return _commands().run(list(map(str, words)), folder or Path.cwd(), environment or dict(os.environ), seconds)
