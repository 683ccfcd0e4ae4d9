"""Calls the library as a user's program does, and prints what it left changed in the process.

``python process_state.py FOLDER``: the folder has ``table.csv`` and a data set. Prints one JSON object: ``changed``
names every part of the process's state that differs after a call, by the call, ``kept`` says whether the allocator was
told to keep freed memory.
"""

from __future__ import annotations

import importlib
import inspect
import json
import locale
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

# Third-party modules change the state as they are loaded, which is theirs to answer for.
LOADED_BEFORE = ("onnxscript", "torch.onnx", "torch.onnx._internal.exporter._core", "torchvision.transforms.v2")
LOADED_BEFORE += ("timm.scheduler", "timm.utils", "xgboost", "scipy.stats", "scipy.optimize", "PIL.Image", "onnx")

SPACE, ARCH = "fbnet_mini", "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"


# Other packages' loggers change as these load more of themselves.
LOGGERS = ("root", "tvmfbnet", "torch", "torch.onnx", "onnxscript", "onnx_ir", "asyncio", "tornado", "RPCTracker")


def logging_state():
    loggers = {name: logging.getLogger(None if name == "root" else name) for name in LOGGERS}
    return {
        name: (logger.level, logger.propagate, logger.disabled, list(map(repr, logger.handlers)))
        for name, logger in loggers.items()
    }


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def open_files():
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists the folder
            links.append(str(descriptor.readlink()))
    # ONNX Runtime opens a database of its own as it is imported.
    return sorted(link for link in links if not link.startswith("/proc/") and "/.onnxruntime/" not in link)


def state():
    """Everything of the process that a call could change for those who come after it, by name."""
    from tvmfbnet import advice, progress

    signals = {number: repr(signal.getsignal(number)) for number in signal.valid_signals()}
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        "environment": dict(os.environ),
        "signal handlers": signals,
        "wakeup descriptor": signal.set_wakeup_fd(-1),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "numpy generator": repr(np.random.get_state()),
        "python generator": random.getstate(),
        "torch settings": (
            *(torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()),
            *(torch.get_float32_matmul_precision(), torch.is_anomaly_enabled(), torch.is_inference_mode_enabled()),
        ),
        "numpy settings": (np.geterr(), np.get_printoptions()),
        "inspect.stack": repr(inspect.stack),
        "blocked modules": sorted(name for name, module in sys.modules.items() if module is None),
        "import path": (list(sys.path), [repr(finder) for finder in sys.meta_path]),
        "hooks": repr((sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook)),
        "streams": repr((sys.stdin, sys.stdout, sys.stderr, sys.stdout.errors, sys.stderr.errors)),
        "loggers": logging_state(),
        "warning filters": list(map(repr, warnings.filters)),
        "limits": limits,
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "folder": str(Path.cwd()),
        "temporary folder": tempfile.gettempdir(),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "children": children(),
        "threads": sorted(thread.name for thread in threading.enumerate() if not thread.daemon),
        "open files": open_files(),
        "advice": dict(advice._given.get()),
        "observer": repr(progress._observer.get()),
    }


def search(tf, folder):
    settings = {"epochs": 2, "batch_size": 32, "samples": 4, "candidates": 2, "bn_images": 32, "threads": 1}
    space = tf.Space.load(SPACE)
    table = tf.LatencyTable.load(str(folder / "table.csv"))
    result = tf.search(space, f"fashion_mnist:{folder}", table, settings, out=folder / "search")
    assert result.best.predicted_ms > 0
    settings = {"epochs": 1, "batch_size": 32, "threads": 1}
    assert tf.train(ARCH, space, f"fashion_mnist:{folder}", settings, out=folder / "training").checkpoint.is_file()


def bench(tf, folder):
    """Compiles, checks and times on this machine: starts a tracker, a server and workers."""
    package = tf.compile(ARCH, SPACE, "host", out=folder / "timed", tuning_logs=folder / "tuning_logs")
    assert package.bench().latency_ms > 0


def main():
    folder = Path(sys.argv[1])
    for module in LOADED_BEFORE:
        importlib.import_module(module)
    import tvmfbnet as tf
    from tvmfbnet.training import memory

    kept, changed = [], {}
    memory._set = lambda *policy: kept.append(policy) or True
    for call in (search, bench):
        if call is bench:
            import tvm.relax.frontend.onnx  # noqa: F401
        before = state()
        call(tf, folder)
        after = state()
        differing = [name for name in before if before[name] != after[name]]
        changed[call.__name__] = {name: [repr(before[name]), repr(after[name])] for name in differing}
    print(json.dumps({"changed": changed, "kept": bool(kept)}))


if __name__ == "__main__":
    main()
