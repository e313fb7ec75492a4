"""The stages of check.sh: each a process group with its own time limit, killed alone, recorded as far as it came."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import table
from abi import ROOT, Abi
from build import compute_capability, find_nvcc

HERE = Path(__file__).resolve().parent
KERNELS = ["attn_mma", "attn_decode", "attn_wgmma"]
SIZES = [("small", 18), ("real", 26)]
TOOLS = ["memcheck", "racecheck", "synccheck", "initcheck"]


class Missing(Exception):
    """Why a stage cannot run here."""


class Check:
    def __init__(self):
        parser = argparse.ArgumentParser(prog="check.sh")
        parser.add_argument("--out", type=Path, default=Path("gpu-check"))
        parser.add_argument("--work", type=Path, help="where it builds (default: build/gpu-check of the clone)")
        parser.add_argument("--dry-run", action="store_true", help="all that can run without a GPU, on the emulator")
        parser.add_argument("--only", type=lambda s: s.split(","), default=None)
        parser.add_argument("--skip", type=lambda s: s.split(","), default=[])
        parser.add_argument("--minutes", type=float, help="of everything together (default 10; a dry run 40)")
        self.options = options = parser.parse_args()
        names = [name for name, *_ in STAGES]
        for name in [*(options.only or []), *options.skip]:
            if name not in names:
                parser.error(f"no stage '{name}'; there are {', '.join(names)}")
        self.dry, self.out = options.dry_run, options.out.resolve()
        self.arch = compute_capability()
        if not self.dry and self.arch is None:
            parser.error("no NVIDIA GPU is visible (nvidia-smi); --dry-run runs what needs none")
        self.work = (options.work or ROOT / "build" / ("gpu-check-dry" if self.dry else "gpu-check")).resolve()
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.broken = []  # kernels that must not be timed
        self.start = time.monotonic()
        self.slack = 4 if self.dry else 1  # emulation on a few cores takes its time
        self.deadline = self.start + 60 * (options.minutes or 10 * self.slack) - 5
        self.log = open(self.out / "log.txt", "w", buffering=1)
        self.report = dict(what="galvani GPU check", dry_run=self.dry, date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                           commit=self.commit(), stages={}, not_run=[])

    @staticmethod
    def commit():
        try:
            return subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True,
                                  check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    def say(self, text):
        print(text, flush=True)
        self.log.write(text + "\n")

    def save(self):
        part = self.out / "report.part"
        part.write_text(json.dumps(self.report, indent=1) + "\n")
        os.replace(part, self.out / "report.json")

    def not_run(self, what, why):
        """One line per thing that this run did not do."""
        self.report["not_run"].append(dict(what=what, why=why))
        self.say(f"  NOT RUN: {what}: {why}")
        self.save()

    def part(self, name):
        """Path of something built, or Missing."""
        built = self.report["stages"].get("build", {}).get("record", {}).get("parts", {})
        if not built and (self.work / "build.json").exists():  # an earlier run's, with --only
            built = json.loads((self.work / "build.json").read_text())["parts"]
        path = built.get(name, {}).get("path")
        if not path or not Path(path).exists():
            raise Missing(f"{name} was not built")
        return path

    def run(self, name, command, limit, record=None, env=None):
        """One process group; its output goes to the log and the terminal, its record into the report as it grows."""
        left = self.deadline - time.monotonic()
        if left < 5:
            self.not_run(name, "no time left")
            return None
        limit = min(limit, left)
        stage = self.report["stages"].setdefault(name, {})
        stage |= dict(status="running", limit_s=round(limit))
        if record and record.exists():
            record.unlink()
        self.save()
        begin = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   start_new_session=True, cwd=HERE, env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})})
        os.set_blocking(process.stdout.fileno(), False)
        output, tail = "", []

        def collect():
            nonlocal output
            try:
                text = process.stdout.read() or ""
            except TypeError:  # nothing there yet
                return
            output += text
            for line in text.splitlines():
                tail.append(line)
                self.say(line)
            del tail[:-40]

        saved, status = begin, "ok"
        while process.poll() is None:
            time.sleep(0.2)
            collect()
            now = time.monotonic()
            if now - begin > limit:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = "timeout"
                break
            if now - saved > 3:
                self.keep(stage, record)
                saved = now
        collect()
        if status == "ok" and process.returncode != 0:
            status = "failed"
        self.keep(stage, record)
        stage |= dict(status=status, returncode=process.returncode, seconds=round(time.monotonic() - begin, 1))
        if status != "ok":
            stage["tail"] = tail[-20:]
            self.say(f"  {name}: {status}")
        self.save()
        return output

    def keep(self, stage, record):
        if record and record.exists():
            try:
                stage["record"] = json.loads(record.read_text())
                self.save()
            except ValueError:
                pass  # caught between two writes: next time

    def main(self):
        for name, limit, work in STAGES:
            if (self.options.only and name not in self.options.only) or name in self.options.skip:
                self.not_run(name, "not asked for")
                continue
            if self.deadline - time.monotonic() < 5:
                self.not_run(name, "no time left")
                continue
            limit *= self.slack
            self.say(f"── {name} (at {time.monotonic() - self.start:.0f} s, limit {limit} s)")
            try:
                work(self, name, limit)
            except Missing as why:
                self.not_run(name, str(why))
            except Exception as error:  # a broken stage costs itself
                self.report["stages"].setdefault(name, {}).update(status="failed", error=f"{type(error).__name__}: {error}")
                self.say(f"  {name}: {type(error).__name__}: {error}")
                self.save()
        self.report["seconds"] = round(time.monotonic() - self.start, 1)
        self.save()
        text = table.render(self.report)
        self.say(text)
        return 0 if all(s.get("status") == "ok" for s in self.report["stages"].values()) else 1


def machine(check, name, limit):
    import platform

    import torch
    facts = dict(python=platform.python_version(), torch=torch.__version__, cores=os.cpu_count(), arch=check.arch,
                 cmake=shutil.which("cmake") is not None, nvcc=find_nvcc(), kernel=platform.release())
    if check.dry:
        check.not_run("machine: nvidia-smi", "dry run")
    else:
        query = "name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit,temperature.gpu,clocks_throttle_reasons.active"
        line = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"], capture_output=True,
                              text=True, timeout=limit).stdout.strip()
        facts["gpu"] = dict(zip(query.split(","), (x.strip() for x in line.split(","))))
        facts["triton"] = __import__("triton").__version__ if __import__("importlib.util").util.find_spec("triton") else None
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["torch_sees"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
        if facts["torch_sees"] is None:
            check.not_run("every comparison with torch", f"torch {torch.__version__} sees no GPU")
    if facts["nvcc"]:
        said = subprocess.run([facts["nvcc"], "--version"], capture_output=True, text=True).stdout
        facts["nvcc_version"] = said.strip().splitlines()[-2] if said else None
    check.report["machine"] = facts
    check.report["stages"][name] = dict(status="ok")
    for key, value in facts.items():
        check.say(f"  {key}: {value}")


def build(check, name, limit):
    record = check.work / "build.json"
    check.run(name, [sys.executable, "-B", HERE / "build.py", check.work, record, "--dry-run" if check.dry else "--gpu"], limit,
              record)
    if check.dry:
        check.not_run("build: galvani_cuda.so for this card", "dry run (kernels were compiled for sm_90 and sm_90a, not linked)"
                      if find_nvcc() else "dry run, and no nvcc here")


def layout(check, name, limit):
    compared = Abi().verify()
    check.report["stages"][name] = dict(status="ok", compared=compared)
    check.say(f"  {compared} sizes and offsets agree with the compiler")


def conformance(check, name, limit):
    hardware = "-" if check.dry else check.part("conformance")
    record = check.work / "conformance-report.json"
    check.run(name, [sys.executable, "-B", HERE / "conformance.py", hardware, check.part("conformance_emulated"),
                     check.out / "conformance.json", record], limit, record)
    if check.dry:
        check.not_run("conformance: recording what hardware answers", "dry run")


def correctness(check, name, limit):
    """Each kernel alone first: one that fails is kept out of the benches. Then small scenes, which reach the corners, and
    real ones, which reach the sizes. --again wants the same bits twice (races)."""
    program, library = check.part("gpu_check"), check.part("backend")
    runs = [(f"{name} {kernel}", ["--kernel", kernel, "--size", "small", "--seeds", "0..199"], 6) for kernel in KERNELS]
    runs += [(f"{name} {size}", ["--size", size, "--seeds", "0..99999"], seconds) for size, seconds in SIZES]
    if check.dry:
        runs = [(n, [*args[:-1], "0..9"], 60) for n, args, _ in runs if not n.endswith("real")]
        check.not_run("correctness: real sizes", "dry run")
    for run, args, seconds in runs:
        kernel = run.split(" ")[1]
        if kernel == "attn_wgmma" and not check.dry and check.arch != "90":
            check.not_run(run, f"attn_wgmma is for compute capability 9.0, this card has {check.arch}")
            check.broken.append(kernel)
            continue
        record = check.work / f"{run.replace(' ', '-')}.json"
        check.run(run, [program, "--backend", library, *args, "--again", "--seconds", seconds, "--json", record], seconds + 12,
                  record)
        status = check.report["stages"].get(run, {}).get("status")
        if kernel in KERNELS and status != "ok":
            check.broken.append(kernel)
            check.not_run(f"every time of {kernel}", f"its random programs ended with: {status}")


def bench(check, name, limit):
    record = check.work / f"{name}.json"
    command = [sys.executable, "-B", HERE / f"{name}.py", "--library", check.part("backend"), "--out", record, "--seconds",
               str(limit - 12)]
    if name in ("attention", "decode", "readouts"):
        command += ["--planner", check.part("planner")]
    if check.broken:
        command += ["--without", ",".join(check.broken)]
    check.run(name, command, limit, record, env=dict(TORCHINDUCTOR_CACHE_DIR=str(check.work / "inductor")))
    for entry in check.report["stages"].get(name, {}).get("record", {}).get("skipped", []):
        check.report["not_run"].append(dict(what=f"{name}: {entry['what']}", why=entry["why"]))
    if check.dry:
        check.not_run(f"{name}: every time", "dry run: results were compared on the emulator, nothing was timed")


def sanitizer(check, name, limit):
    if check.dry:
        raise Missing("dry run: compute-sanitizer needs a GPU")
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        raise Missing("compute-sanitizer is not installed")
    program, library = check.part("gpu_check"), check.part("backend")
    for which in TOOLS:
        output = check.run(f"{name} {which}", [tool, "--tool", which, "--error-exitcode", "9", program, "--backend", library,
                                               "--size", "small", "--seeds", "0..7", "--seconds", int(limit / len(TOOLS) - 8)],
                           limit / len(TOOLS))
        stage = check.report["stages"].get(f"{name} {which}", {})
        if output is not None and stage.get("status") == "failed" and "ERROR SUMMARY" not in output:
            stage["status"] = "refused"  # the tool, not the kernels
        summary = [line for line in (output or "").splitlines() if "SUMMARY" in line]
        stage["summary"] = summary[-1].strip("= ") if summary else None
    check.save()


def profile(check, name, limit):
    """Where the time of the attention kernels goes, by hardware counters where they can be read."""
    if check.dry:
        raise Missing("dry run: ncu needs a GPU")
    tool = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not Path(tool).exists():
        raise Missing("ncu is not installed")
    record = check.work / "profile.json"
    sections = ["SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "Occupancy", "WarpStateStats"]
    command = [tool, "--clock-control", "none", "--kernel-name", "regex:attn_", "--launch-count", "6", "--csv"]
    for section in sections:
        command += ["--section", section]
    command += [sys.executable, "-B", HERE / "profile_launches.py", "--library", check.part("backend"), "--planner",
                check.part("planner"), "--out", record]
    output = check.run(name, command, limit, record)
    lines = [line for line in (output or "").splitlines() if line.startswith('"')]
    check.report["stages"].setdefault(name, {})["counters"] = lines[:600]
    check.save()


# The most wanted first; limits leave room inside ten minutes, and a stage that ends early leaves its rest to the others.
STAGES = [
    ("machine", 20, machine),
    ("build", 150, build),
    ("layout", 20, layout),
    ("conformance", 30, conformance),
    ("correctness", 70, correctness),
    ("ceilings", 20, bench),
    ("attention", 170, bench),
    ("decode", 40, bench),
    ("readouts", 30, bench),
    ("dense", 60, bench),
    ("weights", 40, bench),
    ("sanitizer", 80, sanitizer),
    ("profile", 40, profile),
]

if __name__ == "__main__":
    sys.exit(Check().main())
