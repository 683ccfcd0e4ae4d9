"""Several short programs after one start: a process that has the imports forks for each of them.

Each runs in a process of its own, as from a shell: its own modules, environment, output and exit code.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

_PROGRAM = """
import json, os, sys, tempfile, traceback
preload, run, tasks = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
shared = {"__name__": "forked"}
exec(preload, shared)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
told = []
for task in tasks:
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        code = 0
        try:
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
    told.append([status, *(file.read() for file in files)])
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(preload, run, tasks, seconds=900):
    """Runs code once for each task, as ``task``, in forks of a process that ran ``preload``."""
    words = [sys.executable, "-c", _PROGRAM, preload, run]
    done = subprocess.run(words, input=json.dumps(tasks), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return [Ended(*item) for item in json.loads(done.stdout)]
