"""The list of all benchmarks, with their quick and full forms; a test holds that no script of the folder is left out.

Quick forms take what any machine has, small spaces and few repeats: they show whether something changed, and are no
figures to quote. Full forms are those of docs/results.
"""

from __future__ import annotations

from suite.forms import Benchmark, Form

# A net of `fbnet_mini` in which every kind of kernel occurs.
_MINI = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"
_PROCESSOR = "simulated:gflops=16,gbps=3,kernel_us=5"

_TUNED_MINI = (f"tune --target host --space fbnet_mini --arch {_MINI} --quality quick",)
_TUNED_MINI_BATCH = (f"tune --target host,batch=8 --space fbnet_mini --arch {_MINI} --quality quick",)
_TUNED_MINI_INT8 = (f"tune --target host --dtype int8 --space fbnet_mini --arch {_MINI} --quality quick",)
_TUNED = ("tune --target host --space fbnet",)
_TUNED_INT8 = ("tune --target host --dtype int8 --space fbnet --arch fbnet_c",)
_MINI_PACKAGE = (f"compile {_MINI} --space fbnet_mini --target sim_a76 --out {{work}}/mini_sim_a76",)
_COMPILED_MINI = (f"compile {_MINI} --space fbnet_mini --target host --build-only --out {{work}}/mini_untuned",)
_COMPILED_TUNED_MINI = (f"compile {_MINI} --space fbnet_mini --target host --out {{work}}/mini_tuned",)
_SIM_PACKAGES = ("compile fbnet_c --space fbnet --target sim_a76 --out {work}/fbnet_c_sim_a76",)

_LLVM = {"llvm-mca-19": "Debian's package llvm-19"}
_QEMU = {**_LLVM, "qemu-aarch64": "Debian's package qemu-user"}
_HW_NAS_BENCH = "a table of HW-NAS-Bench, as `tvmfbnet latency export` writes it"
_PUBLISHED = "latencies of HW-NAS-Bench, CSV"
_MACRO = {"nas-bench-macro_cifar10.json": "published with NAS-Bench-Macro"}
_ACCEL = {"accel-nasbench_dataset_jsons.tar.gz": "published with Accel-NASBench"}
_TABLES = {f"{name}.csv": _HW_NAS_BENCH for name in ("pixel3", "raspi4", "edgegpu")}
_DEVICES = {f"fbnet224_{name}.csv": _PUBLISHED for name in ("pixel3", "raspi4")}
_ARM_WHEELS = {
    "arm-python": "scripts/arm_python makes it",
    "wheels": "aarch64 wheels; benchmarks/simulated_rivals.py says which",
}

# All but those that take a minute to compile a net.
_QUICK_RIVALS = "onnxruntime openvino mnn ncnn litert"

_HOURS = "it trains nets for hours"

BENCHMARKS = (
    # Nets, against ONNX Runtime and other runtimes.
    Benchmark(
        "nets_vs_onnxruntime",
        "onnxruntime.md",
        Form((f"{_MINI} --space fbnet_mini --turns 20",), (_TUNED_MINI,)),
        Form(("fbnet_c fbnet_a --turns 40",), (_TUNED,)),
    ),
    Benchmark(
        "cut_tiles",
        "tuning.md",
        Form(("--shapes 7x184-1104 --candidates 2 --rounds 1",)),
        Form(("",)),
    ),
    Benchmark(
        "rivals",
        "onnxruntime.md",
        Form(
            (f"{_MINI} --space fbnet_mini --wheels {{inputs}}/rivals --rounds 20 --runtimes {_QUICK_RIVALS}",),
            (_TUNED_MINI,),
        ),
        Form(
            ("fbnet_c --space fbnet --wheels {inputs}/rivals", "fbnet_a --space fbnet --wheels {inputs}/rivals"),
            (_TUNED,),
        ),
    ),
    Benchmark(
        "batches",
        "batches.md",
        Form((f"{_MINI} --turns 20",), (*_TUNED_MINI, *_TUNED_MINI_BATCH)),
        Form((f"{_MINI} --batches 1 8 --turns 60",), (*_TUNED_MINI, *_TUNED_MINI_BATCH)),
    ),
    Benchmark(
        "packages_in_turn",
        "arm-kernels.md",
        Form(
            ("{work}/mini_untuned {work}/mini_tuned --rounds 50 --calls 20",),
            (_COMPILED_MINI, _TUNED_MINI, _COMPILED_TUNED_MINI),
        ),
        "its packages are of two revisions, and one checkout compiles those of one",
    ),
    Benchmark(
        "int8_net",
        "int8.md",
        Form((f"--space fbnet_mini --arch {_MINI} --rounds 30",), (_TUNED_MINI, _TUNED_MINI_INT8)),
        Form(("--space fbnet --arch fbnet_c --rounds 60",), (_TUNED, _TUNED_INT8)),
    ),
    Benchmark(
        "mixed_net",
        "mixed-dtypes.md",
        Form((f"--space fbnet_mini --arch {_MINI}",), (_TUNED_MINI, _TUNED_MINI_INT8)),
        Form(("--space fbnet --arch fbnet_c",), (_TUNED, _TUNED_INT8)),
    ),
    Benchmark(
        "threads",
        "threads.md",
        "it tunes a net for each number of threads, which takes longer than two minutes",
        Form(("fbnet_c --space fbnet --threads 1 2 --logs {work}/threads",), cores=2),
    ),
    Benchmark("int8_kernels", "int8.md", Form(("",), (_TUNED_MINI_INT8,)), Form(("",), (_TUNED_INT8,))),
    Benchmark(
        "packed_taps", "int8.md", Form(("--shapes 14x384k3s1 28x192k5s1 --schedules 10 --rounds 15",)), Form(("",))
    ),
    Benchmark("sums_on_stack", "int8.md", Form(("--every 12",)), Form(("--every 1", "--every 1 --dtype float32"))),
    # Tuning.
    Benchmark(
        "tuning_throughput",
        "tuning.md",
        Form(("--space fbnet_mini --blocks 'block/k3_e3/*' --trials 48 --stock",), cores=2),
        Form(("--trials 128",), cores=2),
    ),
    Benchmark(
        "trial_builds",
        "tuning.md",
        Form((f"--space fbnet_mini --arch {_MINI} --schedules 1",)),
        Form(("--schedules 2",)),
    ),
    Benchmark(
        "tuning_depth",
        "tuning.md",
        "it tunes with ten times the trials",
        Form(("--blocks 8 --out {work}/tuning_depth",), (_TUNED,), cores=2),
    ),
    Benchmark(
        "learn_from",
        "transfer.md",
        "it tunes a set of blocks for each seed on both sides",
        Form(("--out {work}/learn_from",), cores=2),
    ),
    Benchmark("blocked_layout", "blocked-layout.md", "it tunes each kernel in three layouts", Form(("",))),
    Benchmark("gpu_first_candidates", "emulated.md", "PoCL's builds take minutes", Form(("pocl",), cores=2)),
    # Latency tables.
    Benchmark(
        "regressor",
        "regressor.md",
        Form((f"'{_PROCESSOR}' --space fbnet_mini --splits 2",)),
        Form(("{inputs}/pixel3.csv {inputs}/raspi4.csv {inputs}/edgegpu.csv",), inputs=_TABLES),
    ),
    Benchmark(
        "choosing",
        "active-learning.md",
        Form((f"'{_PROCESSOR}' --space fbnet_mini --first 8 --step 8 --until 16 --draws 1",)),
        Form(("{inputs}/pixel3.csv {inputs}/raspi4.csv {inputs}/edgegpu.csv --first 8",), inputs=_TABLES),
    ),
    Benchmark("protocols", "additivity.md", "it needs a whole space tuned", Form(("--nets 40",), (_TUNED,), cores=2)),
    Benchmark(
        "peak_memory",
        "peak-memory.md",
        Form(("--space fbnet_mini --archs 2", "--space fbnet --over-live 200")),
        Form(("--space fbnet_mini --archs 20", "--space fbnet --over-live 1000", "--space mobile_se --over-live 1000")),
    ),
    Benchmark(
        "half_sums",
        "float16.md",
        "it compiles every kernel of a space several times",
        Form(("--space fbnet_mini", "--space fbnet --arch fbnet_c")),
    ),
    # Search and training.
    Benchmark(
        "supernet_steps",
        "search-steps.md",
        Form(("--space fbnet_mini --batch 32 --threads 1 --rounds 5 --forms mixture,save_memory,two_path,sampled",)),
        Form(("--space fbnet_cifar --batch 64 --threads 2",), cores=2),
    ),
    Benchmark(
        "gpu_steps",
        "search-steps.md",
        "on a CPU it says what supernet_steps says",
        "it is for GPUs, whose name the file of figures does not hold",
    ),
    Benchmark(
        "loader_throughput",
        "search-steps.md",
        Form(("--space fbnet_mini --data 'generated?images=2000' --rounds 20",)),
        Form(("--space fbnet_mini --data fashion_mnist --rounds 40",)),
    ),
    Benchmark(
        "search_strategies",
        "search-strategies.md",
        Form(
            ("--macro {inputs}/nas-bench-macro_cifar10.json --budgets 24 --seeds 2 --records {work}/quick.jsonl",),
            inputs=_MACRO,
        ),
        Form(
            (
                "--macro {inputs}/nas-bench-macro_cifar10.json --accel {inputs}/accel-nasbench_dataset_jsons.tar.gz "
                "--records {work}/search_strategies.jsonl",
            ),
            inputs={**_MACRO, **_ACCEL},
        ),
    ),
    Benchmark(
        "front",
        "front.md",
        Form(("--table {inputs}/nas-bench-macro_cifar10.json --seeds 1 --evaluations 48",), inputs=_MACRO),
        Form(("--table {inputs}/nas-bench-macro_cifar10.json --seeds 10 --evaluations 48,96",), inputs=_MACRO),
    ),
    Benchmark(
        "latency_targets",
        "search-quality.md",
        "it searches five times",
        Form(
            (f"--space fbnet_mini --data fashion_mnist --latency-table '{_PROCESSOR}' --out {{work}}/targets",), cores=2
        ),
    ),
    Benchmark(
        "search_quality", "search-quality.md", _HOURS, Form(("--task cluttered --out {work}/search_quality",), cores=2)
    ),
    Benchmark(
        "supernet_ranking", "search-task.md", _HOURS, Form(("--task cluttered --out {work}/supernet_ranking",), cores=2)
    ),
    Benchmark(
        "short_trainings", "search-task.md", _HOURS, Form(("--task cluttered --out {work}/short_trainings",), cores=2)
    ),
    Benchmark("task_spread", "search-task.md", _HOURS, Form(("--task cluttered --out {work}/task_spread",), cores=2)),
    Benchmark(
        "cross_device",
        "cross-device.md",
        _HOURS,
        Form(
            ("--table phone={inputs}/pixel3.csv --table board={inputs}/raspi4.csv --out {work}/cross_device",),
            inputs=_TABLES,
            cores=2,
        ),
    ),
    Benchmark(
        "ticket_study",
        "tickets.md",
        Form(
            (
                "--out {work}/ticket_study --seeds 1 --images 400 --test-images 400 --epochs 1 --rounds 1 "
                "--search-epochs 2 --channel-rounds 1 --latency-shares 0.5 --timing-rounds 20",
            )
        ),
        Form(("--out {work}/ticket_study",)),
    ),
    Benchmark(
        "training_options",
        "training-options.md",
        Form(("--out {work}/training_options --seeds 1 --images 320 --epochs 1 --options none mixup distilled",)),
        Form(("--out {work}/training_options",)),
    ),
    Benchmark("int8_accuracy", "int8.md", "it trains nets", Form(("--out {work}/int8_accuracy",))),
    # Simulated and emulated devices.
    Benchmark("core_throughput", "simulated-cores.md", Form(programs=_LLVM), Form(programs=_LLVM)),
    Benchmark(
        "same_bits", "simulated-tuning.md", Form(("--core a72",), programs=_QEMU), Form(("--core a72",), programs=_QEMU)
    ),
    Benchmark(
        "simulated_host",
        "simulated-cores.md",
        Form(("--kernels 2 --schedules 8 --mca znver3 --out {work}/simulated_host.json",), programs=_QEMU),
        Form(("--out {work}/simulated_host_full.json",), programs=_QEMU),
    ),
    Benchmark(
        "simulator_cost",
        "simulator-cost.md",
        Form(("{work}/mini_sim_a76 --target sim_a76 --calls 20",), (_MINI_PACKAGE,), programs=_QEMU),
        Form(("{work}/fbnet_c_sim_a76 --target sim_a76 --calls 5",), (_SIM_PACKAGES,), programs=_QEMU),
    ),
    Benchmark(
        "arm_inner_loops",
        "arm-kernels.md",
        Form(("--core a76 --space fbnet_mini --block k3_e6 --candidates 2",), programs=_LLVM),
        Form(tuple(f"--core {core} --space fbnet --block k3_e6" for core in ("a76", "a72", "a55")), programs=_LLVM),
    ),
    Benchmark(
        "arm_instructions", "int8.md", Form(("--cpus cortex-a76 --resolutions 7 --most 3",)), Form(("--space fbnet",))
    ),
    Benchmark(
        "simulated_devices",
        "simulated-cores.md",
        "it simulates every kernel of a space",
        Form(
            tuple(
                f"--core {core} --published {{inputs}}/fbnet224_{device}.csv --tries 4 "
                f"--out {{work}}/devices_{core}.json"
                for core, device in (("a75", "pixel3"), ("a72", "raspi4"))
            ),
            inputs=_DEVICES,
            programs=_QEMU,
        ),
    ),
    Benchmark(
        "simulated_tflite",
        "simulated-cores.md",
        "it simulates every block of a space",
        Form(
            tuple(
                f"--core {core} --published {{inputs}}/fbnet224_{device}.csv --arm-python {{inputs}}/arm-python "
                f"--wheels {{inputs}}/wheels --out {{work}}/tflite_{core}.json"
                for core, device in (("a75", "pixel3"), ("a72", "raspi4"))
            ),
            inputs={**_DEVICES, **_ARM_WHEELS},
            programs=_QEMU,
        ),
    ),
    Benchmark(
        "simulated_rivals",
        "arm-kernels.md",
        "it simulates whole nets of several runtimes",
        Form(
            ("{work}/fbnet_c_sim_a76 --target sim_a76 --arm-python {inputs}/arm-python --wheels {inputs}/wheels",),
            (_SIM_PACKAGES,),
            inputs=_ARM_WHEELS,
            programs=_QEMU,
        ),
    ),
    Benchmark(
        "emulated_space",
        "emulated.md",
        "it tunes a space under emulation",
        Form(("qemu_arm", "qemu_arm --dtype float16 --cpu cortex-a76 --trials 1 --batch 2"), programs=_QEMU, cores=2),
    ),
    # Contracts: nothing lost, nothing wrong.
    Benchmark("faults", "faults.md", "each fault takes seconds", Form(("--faults 160", "--tune --faults 48"), cores=2)),
    Benchmark("kill_sweep", "faults.md", "each kill takes a run", Form(("--kills 20",), cores=2)),
    Benchmark(
        "target_contract", "additivity.md", "it keeps the whole machine busy", Form(("--space fbnet_mini",), cores=2)
    ),
)

HELPERS = {
    "run": "it runs the others",
    "figures": "how the others report to run.py",
    "blocked_kernels": "kernels of blocked_layout",
    "emulated_machine": "files of simulated_rivals and simulated_tflite",
    "emulated_runtime": "runs inside the emulator for simulated_rivals",
    "first_candidates": "candidates for several benchmarks",
    "fleet": "the devices and faults of faults",
    "hot_loops": "a tool: it shows where a net's time goes and has no figure of its own",
    "latency_files": "tables for several benchmarks",
    "litert_model": "makes a model for int8_net and simulated_rivals",
    "litert_net": "runs LiteRT for int8_net",
    "rival_runtimes": "how each runtime of rivals takes a net",
    "published_blocks": "published latencies, and how simulated ones compare",
    "search_tasks": "tasks that searches are judged on",
    "searching": "options of the benchmarks of the search",
    "silences": "a tool: it runs a command and shows its longest silence",
    "simulating": "simulated devices for several benchmarks",
    "tflite_block": "makes models for simulated_tflite",
    "tflite_net": "makes a model for simulated_rivals",
    "ticket_nets": "trains the nets of ticket_study",
    "truth_tables": "tables for search_strategies and front",
}
