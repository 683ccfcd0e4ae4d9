"""The OpenCL plugin finds its driver on phones whose library exports no OpenCL function, and survives failed builds.

A driver without half arithmetic is refused before anything is tuned.
"""

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
from device_samples import SMALL_SPACE
from forked import run_command
from test_emulated import skip_where_missing

from tvmfbnet.compiler.library import linker
from tvmfbnet.profiling.canary import CANARY_SIZE, build_canary, run_canary
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_facts import opencl_extensions
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.targets.definition import load_target, resolve

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]

# What Google's Pixel phones ship: two functions, behind which is the real library. With FAKE_BUILD set, no program can
# be built, and the driver says why at length.
PIXEL = r"""
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void* real;
static char text[20001];
static void note(const char* what) {
  FILE* file = fopen(NOTES, "a");
  fprintf(file, "%s\n", what);
  fclose(file);
}
static cl_int build(cl_program p, cl_uint n, const cl_device_id* d, const char* o,
                    void (CL_CALLBACK* f)(cl_program, void*), void* u) { return CL_BUILD_PROGRAM_FAILURE; }
static cl_int info(cl_program p, cl_device_id d, cl_program_build_info w, size_t size, void* value, size_t* needed) {
  if (value != NULL && size < sizeof(text)) return CL_INVALID_VALUE;
  if (value != NULL) memcpy(value, text, sizeof(text));
  if (needed != NULL) *needed = sizeof(text);
  return CL_SUCCESS;
}
static cl_int release(cl_kernel kernel) {
  if (kernel == NULL) note("released a null kernel");
  return CL_SUCCESS;
}
void enableOpenCL(void) {
  real = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
  for (int i = 0; i < 20000; ++i) text[i] = i % 80 == 79 ? '\n' : 'w';
  memcpy(text + 10000, "\nk.cl:7:3: error: too many \xff registers\n", 39);
  note("enabled");
}
void* loadOpenCLPointer(const char* name) {
  if (real == NULL) return NULL;
  if (getenv("FAKE_BUILD") != NULL) {
    if (strcmp(name, "clBuildProgram") == 0) return (void*)build;
    if (strcmp(name, "clGetProgramBuildInfo") == 0) return (void*)info;
    if (strcmp(name, "clReleaseKernel") == 0) return (void*)release;
  }
  return dlsym(real, name);
}
"""


def real_library():
    folders = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
    candidates = [Path(folder) / "libOpenCL.so.1" for folder in folders]
    return next((path for path in candidates if path.exists()), None)


@pytest.fixture
def pixel(tmp_path, monkeypatch):
    """A phone's folder of libraries, searched before this machine's; the file where the fake one writes notes."""
    if ctypes.util.find_library("OpenCL") is None or real_library() is None or shutil.which("cmake") is None:
        pytest.skip("OpenCL or cmake is missing; scripts/setup --emulation installs them")
    folder, notes = tmp_path / "lib", tmp_path / "notes"
    folder.mkdir()
    source, empty = tmp_path / "pixel.c", tmp_path / "empty.c"
    source.write_text(PIXEL)
    empty.write_text("int nothing_here;\n")
    defined = [f'-DREAL="{real_library()}"', f'-DNOTES="{notes}"']
    library = folder / "libOpenCL-pixel.so"
    subprocess.run(["cc", "-w", "-shared", "-fPIC", *defined, "-o", library, source, "-ldl"], check=True)
    for name in ("libOpenCL.so.1", "libOpenCL.so"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, empty], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return notes


@pytest.fixture
def canary(tmp_path):
    target = resolve(load_target("pocl"))
    build_canary(target, tmp_path / "canary.so", linker(target))
    return target, str(tmp_path / "canary.so")


def test_a_library_that_exports_no_opencl_function_serves_through_its_own_two(canary, pixel):
    target, library = canary
    with connect_device(target) as endpoint, RemoteWorker(endpoint, "opencl", 120) as worker:
        error, repeats = worker.call(run_canary, library, seconds=120)
    assert error < 1e-4 and all(0 < value < 1000 for value in repeats)
    assert pixel.read_text() == "enabled\n"


def fail_twice(session, library):
    """The whole messages of two calls of one kernel."""
    import tvm

    function, told = session.load(library)["main"], []
    for _ in range(2):
        try:
            sizes = ((CANARY_SIZE,), (CANARY_SIZE, CANARY_SIZE), (CANARY_SIZE,))
            function(*[tvm.runtime.empty(size, "float32", session.device) for size in sizes])
            session.device.sync()
        except Exception as error:
            told.append(str(error))
    return told


def test_a_kernel_that_the_driver_refuses_says_why_each_time_and_leaves_no_null_kernel(canary, pixel, monkeypatch):
    target, library = canary
    monkeypatch.setenv("FAKE_BUILD", "1")
    with connect_device(target) as endpoint, RemoteWorker(endpoint, "opencl", 120) as worker:
        told = worker.call(fail_twice, library, seconds=120)
    assert len(told) == 2
    for message in told:
        last = message.strip().splitlines()[-1]
        assert "refused kernel" in last and "error: too many ? registers" in last
        assert len(message) > 16_000, "the driver's log is cut short"
    assert "null kernel" not in pixel.read_text()


def test_float16_on_a_driver_without_halves_is_refused_in_one_line_before_anything_is_tuned(tmp_path):
    skip_where_missing("pocl")
    target = resolve(load_target("pocl"))
    with connect_device(target) as endpoint, RemoteWorker(endpoint, "opencl", 120) as worker:
        extensions = worker.call(opencl_extensions, seconds=120)
    assert "cl_khr_byte_addressable_store" in extensions, "the plugin tells none"
    if "cl_khr_fp16" in extensions:
        pytest.skip("this driver computes with halves")
    (tmp_path / "small.yaml").write_text(SMALL_SPACE)
    options = ["--space", str(tmp_path / "small.yaml"), "--blocks", "k3_e1", "--tuning-logs", str(tmp_path / "logs")]
    result = run_command(["tune", "--target", "pocl", "--dtype", "float16", *options])
    assert result.returncode == 2
    assert "the OpenCL driver of pocl has no cl_khr_fp16, so it runs no kernel in float16" in result.stderr
    assert not list((tmp_path / "logs").rglob("trials.jsonl"))
