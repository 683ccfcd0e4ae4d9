"""The process that builds candidates (:mod:`tvmfbnet.autotune.builder_pool`): TVM's worker, tied to its parent.

``python -m tvmfbnet.autotune.builder REQUESTS ANSWERS PARENT LIFELINE FOLDER``: two file descriptors, the parent's
process id, a pipe that closes when the parent dies, and the folder for temporary files, so that the parent or the next
run can remove them. A hung build, and the compiler it runs, die with the parent as well.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile

from tvmfbnet.rpc import lifeline
from tvmfbnet.rpc.without_torch import leave_out_torch


def main() -> None:
    """Builds until the parent closes the pipe or dies."""
    parent, pipe, folder = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    lifeline.hold(pipe, parent, group=True)
    leave_out_torch()
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    del sys.argv[3:]

    from tvm.exec import popen_worker

    popen_worker.main()


def load() -> None:
    """Preloads the modules that the first build would wait for, and spares them from garbage collections."""
    import tvm.driver
    import tvm.s_tir.transform  # noqa: F401

    import tvmfbnet.compiler.cold_weights  # noqa: F401

    gc.freeze()


if __name__ == "__main__":
    main()
