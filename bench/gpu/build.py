"""Builds what the check runs, from sources, into a folder of its own. Needs a C++ compiler; with a GPU also nvcc.

  galvani_cuda.so or galvani_emulated.so   the backend: by CMake where there is one, else by nvcc and g++ directly
  planner.so                               the planner behind plan_abi.h
  conformance                              one device instruction per case
  gpu_check                                random programs against float64 on whatever backend it is given
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from abi import ROOT

NATIVE = ROOT / "native"
CXX = os.environ.get("CXX") or shutil.which("g++") or "c++"
CXX_FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", f"-I{NATIVE}", f"-I{ROOT}"]
JOBS = int(os.environ.get("GALVANI_CHECK_JOBS") or os.cpu_count() or 1)


def find_nvcc():
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [os.environ.get("CUDACXX"), shutil.which("nvcc"), home and f"{home}/bin/nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((c for c in candidates if c and Path(c).exists()), None)


def compute_capability():
    """'90' for compute capability 9.0; None without a GPU."""
    try:
        text = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=20, check=True).stdout
        return text.splitlines()[0].strip().replace(".", "")
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def run(command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


class Objects:
    """Compiles files side by side; a file is compiled again when it or any header is newer than its object."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        headers = [p for e in ("*.h", "*.cuh") for p in (*NATIVE.rglob(e), *Path(__file__).parent.glob(e))]
        self.newest_header = max(p.stat().st_mtime for p in headers)
        self.pool = ThreadPoolExecutor(JOBS)

    def add(self, source, *command):
        name = str(Path(source).relative_to(ROOT)).replace("/", "_")
        target = self.folder / f"{name}.o"
        newest = max(Path(source).stat().st_mtime, self.newest_header)
        said = target.with_suffix(".txt")  # of the compiler, for whom the object was up to date

        def compile_it():
            if not (target.exists() and said.exists() and target.stat().st_mtime > newest):
                said.write_text(run([*command, "-c", source, "-o", target]))
            return said.read_text()

        return target, self.pool.submit(compile_it)


def link(target, objects, flags=()):
    """Waits for the objects; returns what the compilers said."""
    said = "".join(done.result() for _, done in objects)
    run([CXX, *[o for o, _ in objects], "-o", target, *flags])
    return said


def cpu_object(objects, source):
    flags = list(CXX_FLAGS)
    if source.name.endswith("_avx512.cc"):
        flags += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"]
    elif source.name.endswith("_avx2.cc"):
        flags += ["-mavx2", "-mfma", "-mf16c"]
    return objects.add(source, CXX, *flags)


def kernels():
    return sorted((NATIVE / "ops/gpu").glob("*.cu"))


def device_sources():
    return [p for p in sorted((NATIVE / "ops/gpu").glob("*.cc")) if p.name != "emu.cc" and "_test" not in p.name]


def cuda_backend(folder, arch):
    """By CMake, else directly. Returns (path, how)."""
    target = folder / "galvani_cuda.so"
    project, nvcc = NATIVE / "device/cuda", find_nvcc()
    if shutil.which("cmake"):
        run(["cmake", "-S", project, "-B", folder / "cmake", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DGALVANI_CUDA_ARCHS={arch}",
             f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}", "-DCMAKE_BUILD_TYPE=Release"])
        run(["cmake", "--build", folder / "cmake", "--parallel", str(JOBS)])
        return target, "cmake"
    objects = Objects(folder / "cuda")
    common = [nvcc, "-std=c++20", "-O3", f"-I{NATIVE}", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden",
              f'-DGALVANI_CUDA_TARGETS="sm_{arch}"']
    sources = [(p, "90a" if p.name.endswith("_wgmma.cu") else arch) for p in kernels()] + [(project / "cuda.cu", arch)]
    parts = [objects.add(p, *common, f"-gencode=arch=compute_{a},code=sm_{a}") for p, a in sources]
    parts += [objects.add(p, CXX, *CXX_FLAGS) for p in device_sources()]
    for _, done in parts:
        done.result()
    run([nvcc, "-shared", "-cudart=static", *[o for o, _ in parts], "-o", target, "-ldl"])
    return target, "nvcc"


def emulated_backend(folder):
    objects = Objects(folder / "emulated")
    parts = [objects.add(p, CXX, *CXX_FLAGS, "-Wno-psabi", "-x", "c++") for p in kernels()]
    sources = [*device_sources(), NATIVE / "ops/gpu/emu.cc", *sorted((NATIVE / "device/emulated").glob("*.cc"))]
    parts += [objects.add(p, CXX, *CXX_FLAGS) for p in sources]
    target = folder / "galvani_emulated.so"
    link(target, parts, ["-shared", "-ldl", "-lpthread"])
    return target


def planner(folder):
    objects = Objects(folder / "host")
    sources = [Path(__file__).parent / "plan_abi.cc", NATIVE / "device/attn_plan.cc", NATIVE / "core/status.cc"]
    target = folder / "planner.so"
    link(target, [cpu_object(objects, p) for p in sources], ["-shared"])
    return target


def conformance(folder, arch):
    """arch None: the emulator's."""
    source = NATIVE / "ops/gpu/conformance/conformance.cu"
    target = folder / ("conformance" if arch else "conformance_emulated")
    if arch:
        real = "90a" if arch == "90" else arch
        run([find_nvcc(), "-std=c++20", "-O2", f"-I{NATIVE}", f"-gencode=arch=compute_{real},code=sm_{real}", source, "-o",
             target])
    else:
        objects = Objects(folder / "emulated")
        link(target, [objects.add(source, CXX, *CXX_FLAGS, "-Wno-psabi", "-x", "c++"),
                      objects.add(NATIVE / "ops/gpu/emu.cc", CXX, *CXX_FLAGS)])
    return target


def gpu_check(folder):
    """Random programs on the backend that it is told to open."""
    objects = Objects(folder / "host")
    # The list of native/device/check/CMakeLists.txt.
    rooms = [*(NATIVE / "device/check").glob("*.cc"), *(NATIVE / "core").glob("*.cc"), *(NATIVE / "ops").glob("attention*.cc"),
             NATIVE / "ops/scratch.cc", NATIVE / "device/attn_plan.cc"]
    sources = sorted(p for p in rooms if not p.name.endswith(("_test.cc", "_fuzz.cc")))
    target = folder / "gpu_check"
    link(target, [cpu_object(objects, p) for p in sources], ["-ldl", "-lpthread"])
    return target


def compile_only(folder, arch):
    """What nvcc says of every kernel without a GPU: registers, spills, warnings."""
    objects, out = Objects(folder / f"sm_{arch}"), {}
    parts = {}
    for p in kernels():
        real = "90a" if p.name.endswith("_wgmma.cu") else arch
        parts[p.stem] = objects.add(p, find_nvcc(), "-std=c++20", "-O3", f"-I{NATIVE}", "--expt-relaxed-constexpr",
                                    "-Xptxas=-v", f"-gencode=arch=compute_{real},code=sm_{real}")
    for name, (_, done) in parts.items():
        said = done.result()
        used = [int(line.split("Used ")[1].split(" ")[0]) for line in said.splitlines() if "Used " in line]
        spills = [line for line in said.splitlines() if "spill" in line and not line.strip().startswith("0 bytes stack")]
        out[name] = dict(kernels=len(used), most_registers=max(used, default=None), spilling=len(spills))
    return out


def main():
    """build.py FOLDER REPORT (--gpu | --dry-run): every part on its own; a failure costs that part alone."""
    folder, report, dry = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3] == "--dry-run"
    folder.mkdir(parents=True, exist_ok=True)
    arch = None if dry else compute_capability()
    record = dict(stage="build", done=False, arch=arch, cxx=CXX, nvcc=find_nvcc(), parts={})
    plan = [("backend", (lambda: (emulated_backend(folder), "g++")) if dry else (lambda: cuda_backend(folder, arch))),
            ("planner", lambda: planner(folder)),
            ("conformance_emulated", lambda: conformance(folder, None))]
    if not dry:
        plan.append(("conformance", lambda: conformance(folder, arch)))
    plan.append(("gpu_check", lambda: gpu_check(folder)))
    if dry and find_nvcc():
        plan.append(("compile sm_90", lambda: compile_only(folder, "90")))

    def write(done=False):
        record["done"] = done
        report.with_suffix(".part").write_text(json.dumps(record, indent=1) + "\n")
        os.replace(report.with_suffix(".part"), report)

    def work(name, make):
        start = time.monotonic()
        try:
            made = make()
            part = dict(ok=True)
            if name == "backend":
                part |= dict(path=str(made[0]), how=made[1])
            elif isinstance(made, dict):
                part |= dict(kernels=made)
            else:
                part["path"] = str(made)
        except Exception as error:
            part = dict(ok=False, error=str(error)[-4000:])
        part["seconds"] = round(time.monotonic() - start, 1)
        with lock:
            record["parts"][name] = part
            print(f"  {name}: {'ok' if part['ok'] else 'FAILED'}, {part['seconds']} s", flush=True)
            if not part["ok"]:
                print(part["error"], flush=True)
            write()

    lock = threading.Lock()
    backend = threading.Thread(target=work, args=plan[0])  # nvcc's files are few and long: beside the others
    backend.start()
    for name, make in plan[1:]:
        work(name, make)
    backend.join()
    write(done=True)
    sys.exit(0 if all(p["ok"] for p in record["parts"].values()) else 1)


if __name__ == "__main__":
    main()
