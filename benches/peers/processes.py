"""The processes that are compared: ours, and the peers in their environments, asked line by line."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINES = HERE / "engines"


@dataclass(frozen=True)
class Variant:
    """One thing to measure: a name for the tables, the class it competes in, and how to start it."""

    name: str
    precision: str  # f32, bf16x3, f16, bf16 or int8
    ours: bool
    command: tuple  # THREADS stands for the number of threads, 0 for the engine's own choice


class Process:
    """A running variant. It waits without using the CPU until it is asked."""

    def __init__(self, command, cgroup=None, log=None):
        self.command = [str(part) for part in command]
        # The process enters its group before anything of it runs: engines size their teams by the quota they see.
        if cgroup is not None:
            entered = f'echo $$ > {cgroup}/cgroup.procs && exec "$0" "$@"'
            self.command = ["/bin/sh", "-c", entered, *self.command]
        with open(log or os.devnull, "w") as errors:
            stderr = errors if log else None
            self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.version = self._line().removeprefix("ready ")

    def _line(self):
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended: {self.child.wait()}")
        return line.strip()

    def ask(self, order):
        """The answer to an order."""
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()
        return self._line()

    def times(self, count):
        """Milliseconds of so many passes."""
        return [float(value) for value in self.ask(f"time {count}").split()]

    def others_cpu(self, work):
        """What `work` gives, and the cores that the rest of the machine used meanwhile."""
        start, ours, everyone = time.perf_counter(), cpu_seconds(self.child.pid), cpu_seconds()
        result = work()
        others = (cpu_seconds() - everyone) - (cpu_seconds(self.child.pid) - ours)
        # The clock ticks are coarse: one of each reading may be an error.
        return result, max(0, others - 0.02) / (time.perf_counter() - start)

    def close(self):
        """Ends the process."""
        self.child.stdin.close()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Burners:
    """Processes that do nothing but use CPU, as busy neighbours do."""

    def __init__(self, count):
        loop = "while True: pass"
        self.children = [subprocess.Popen([os.sys.executable, "-c", loop]) for _ in range(count)]
        time.sleep(0.2)

    def close(self):
        """Ends them."""
        for child in self.children:
            child.kill()
            child.wait()


class Quota:
    """A control group of our own with a CPU quota (cgroup v2 or v1). Raises OSError where none may be made."""

    def __init__(self, cores, period_us=100_000):
        name = f"text2vec-bench-{os.getpid()}"
        v2, v1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")
        if (v2 / "cgroup.controllers").exists():
            self.path = v2 / name
            self.path.mkdir()
            (self.path / "cpu.max").write_text(f"{int(cores * period_us)} {period_us}")
        else:
            self.path = v1 / name
            self.path.mkdir()
            (self.path / "cpu.cfs_period_us").write_text(str(period_us))
            (self.path / "cpu.cfs_quota_us").write_text(str(int(cores * period_us)))

    def throttled(self):
        """How often processes in it had to wait, as the kernel counts."""
        lines = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(lines["nr_throttled"])

    def close(self):
        """Removes it; the processes in it have ended."""
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def cpu_seconds(pid=None):
    """CPU time used so far, by a process or (stolen time included) by the whole machine."""
    if pid is None:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
    else:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """MiB resident now and at most, of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(fields[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
