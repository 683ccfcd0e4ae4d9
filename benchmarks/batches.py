"""Does a batch pay? One net with several batch sizes, and ONNX Runtime with the same, on this machine, one thread each.

    tvmfbnet tune --target host,batch=8 --space fbnet_mini --arch ARCH --quality quick    # so for every batch
    python benchmarks/batches.py ARCH --space fbnet_mini --batches 1 8

Nets have random weights and are compiled from the tuning database alone; nothing is tuned here. All sizes and both
runtimes take turns. Prints for each size the median time of an image with its 10th and 90th percentile, the same as a
share of one image's at the first size, and the median of the ratios to ONNX Runtime in neighbouring turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import report_figure
from nets_vs_onnxruntime import both, milliseconds

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# Milliseconds of one runtime's share of a turn.
_SPELL_MS = 20


def main() -> None:
    """Prints one line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch")
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--target", default="host", help="its batch is replaced")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    arch, space = resolve_arch(options.arch, load_space(options.space))
    with TemporaryDirectory() as folder:
        calls, counts = {}, {}
        for batch in options.batches:
            target = resolve(load_target(f"{options.target},batch={batch}"))
            database = existing_database(target, options.tuning_logs)
            package = compile_net(untrained_net(arch, space), target, database, Path(folder) / str(batch))
            print(f"batch {batch}: {package.kernels.tuned} of {package.kernels.needed} conv kernels found", flush=True)
            calls[batch] = both(package)
            counts[batch] = [max(1, int(_SPELL_MS / max(milliseconds(call, 3), 1e-3))) for call in calls[batch]]
        rows: dict[int, list[list[float]]] = {batch: [] for batch in calls}
        for _ in range(options.turns):
            for batch, pair in calls.items():
                spells = zip(pair, counts[batch], strict=True)
                rows[batch].append([1e3 * milliseconds(call, count) / batch for call, count in spells])
    first = np.median(np.array(rows[options.batches[0]])[:, 0])
    for batch, pairs in rows.items():
        ours, theirs = np.array(pairs).T
        low, middle, high = np.percentile(ours, (10, 50, 90))
        report_figure(f"batch {batch}, latency over ONNX Runtime's", ours / theirs, "ratio", better="lower")
        report_figure(f"batch {batch}, time of an image", ours, "us", better="lower")
        print(
            f"batch {batch}: {middle:.1f} us an image ({low:.1f} to {high:.1f}), {middle / first:.2f} of batch "
            f"{options.batches[0]}'s; ONNX Runtime {np.median(theirs):.1f} us, ratio {np.median(ours / theirs):.2f}"
        )


if __name__ == "__main__":
    with as_command():
        main()
