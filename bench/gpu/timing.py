"""Times sides against each other: CUDA graphs of many launches between events, replayed A B C A B C …, medians.

A side is a list of calls over different buffers, so many that together they do not fit the L2 cache; a graph goes round
all of them. Where a side cannot be captured its calls are issued one by one, and its row says so ("graph": false).
"""

import statistics
import subprocess
import threading
import time

import torch

ROUNDS = 9
GRAPH_US = 1500.0  # least length of one graph: launch gaps and the timer's step vanish in it
LEAST_CALLS = 3
LONG_US = 3000.0  # calls this long hide their launches without a graph, whose private memory might not fit


def sets_needed(bytes_per_set, l2_bytes, most=64):
    """How many buffer sets make two caches full."""
    return max(2, min(most, -(-2 * l2_bytes // max(1, bytes_per_set))))


class Clock:
    """SM clock (MHz), power (W) and temperature (°C) while it runs, by nvidia-smi. Reads only; changes nothing."""

    def __init__(self, enabled):
        self.samples, self.process = [], None
        if not enabled:
            return
        query = "--query-gpu=clocks.sm,power.draw,temperature.gpu"
        try:
            self.process = subprocess.Popen(
                ["nvidia-smi", query, "--format=csv,noheader,nounits", "-i", "0", "-lms", "100"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.samples.append((time.monotonic(), *(float(x) for x in line.split(","))))
            except ValueError:
                pass  # "[N/A]"

    def since(self, start):
        rows = [s[1:] for s in self.samples if s[0] >= start]
        if not rows:
            return None
        clock, watts, celsius = (statistics.median(column) for column in zip(*rows))
        return dict(sm_mhz=clock, watts=round(watts, 1), celsius=celsius, samples=len(rows))

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class _Side:
    def __init__(self, calls):
        self.calls, self.graph, self.why, self.launches = calls, None, None, len(calls)

    def prepare(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in self.calls[:2]:
                call()  # compilation, handles, lazy loading
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            for call in self.calls:
                call()
            last.record()
        torch.cuda.synchronize()
        each = max(1.0, 1e3 * first.elapsed_time(last) / len(self.calls))
        rounds = max(1, round(GRAPH_US / (each * len(self.calls))))
        wanted = max(LEAST_CALLS, min(256, rounds * len(self.calls)))
        self.order = [self.calls[i % len(self.calls)] for i in range(wanted)]
        self.launches = wanted
        if each >= LONG_US:
            self.why = "calls are long"
            return
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in self.order:
                    call()
            self.graph = graph
        except Exception as error:  # what cannot be captured is timed call by call, and says so
            self.why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            torch.cuda.synchronize()

    def once(self):
        """Microseconds per call."""
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        if self.graph:
            self.graph.replay()
        else:
            for call in self.order:
                call()
        last.record()
        last.synchronize()
        return 1e3 * first.elapsed_time(last) / self.launches


def compare(sides, clock=None, rounds=ROUNDS):
    """sides: name → calls. Returns name → {us, low_us, high_us, launches, graph} (or {error}), and the clocks."""
    start, ready, out = time.monotonic(), {}, {}
    for name, calls in sides.items():
        try:
            side = _Side(calls)
            side.prepare()
            ready[name] = side
        except torch.cuda.OutOfMemoryError:
            out[name] = dict(error="out of memory")
            torch.cuda.empty_cache()
        except Exception as error:
            out[name] = dict(error=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    samples = {name: [] for name in ready}
    for turn in range(-1, rounds):
        for name, side in ready.items():
            value = side.once()
            if turn >= 0:
                samples[name].append(value)
    for name, values in samples.items():
        values.sort()
        out[name] = dict(us=round(statistics.median(values), 3), low_us=round(values[0], 3),
                         high_us=round(values[-1], 3), rounds=rounds, launches=ready[name].launches,
                         graph=ready[name].graph is not None)
        if ready[name].graph is None:
            out[name]["why_no_graph"] = ready[name].why
    return out, (clock.since(start) if clock else None)
