"""What the slots of scripts/gpu_check.py share: where things are, the time that is left, and commands within it."""
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CPUS = os.cpu_count() or 1
WORKERS = max(2, min(12, CPUS))  # processes of tests at a time; benchmarks run alone
sys.path.insert(0, os.path.join(ROOT, "tools", "bench"))  # peers.py


class Late(Exception):
    """A command that ran past its limit, with what it had printed."""

    def __init__(self, printed):
        super().__init__("stopped at the limit")
        self.printed = printed


def run(command, seconds, log, environment=None):
    """(exit code, stdout). The command's process group ends with it; stderr goes to the log."""
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                               env={**os.environ, **(environment or {})})
    try:
        printed, _ = process.communicate(timeout=max(seconds, 1))
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise Late(printed) from None


class Run:
    """What slots share: where things are, and the time that is left."""

    def __init__(self, options):
        self.build, self.out, self.small = options.build, options.out, options.small
        self.sffn = os.path.join(self.build, "tools", "sffn")
        self.peers_file, self.commit = options.peers, options.commit
        self.end = time.monotonic() + options.seconds - options.spent
        self.slot, self.slot_end = None, self.end
        self.timed_in = {}  # (name, shape) of what PyTorch has timed: the slot
        self.log = None
        self.has_torch = not self.small and subprocess.run(
            [sys.executable, "-c", "import torch; assert torch.cuda.is_available()"], stderr=subprocess.DEVNULL,
            check=False).returncode == 0

    def left(self):
        return self.slot_end - time.monotonic()

    def at_the_end(self, seconds):
        """Whether it is the whole time that ends in so many seconds, and not the limit of the slot alone."""
        return self.slot_end == self.end and self.left() <= seconds

    def command(self, *command, processes=1):
        """One of so many that run at a time; none begins when the time is over."""
        if self.left() <= 0:
            raise Late("")
        threads = {"OMP_NUM_THREADS": str(max(1, CPUS // processes))} if processes > 1 else None
        return run([str(part) for part in command], self.left(), self.log, threads)

    def json_of(self, *command):
        code, printed = self.command(*command)
        if code != 0:
            raise RuntimeError(f"exit code {code} of {' '.join(map(str, command))}")
        return json.loads(printed)


def in_parallel(jobs, work):
    """[work(job)] in the order of the jobs, several at a time; None for those that the time was too short for."""
    def judged(job):
        try:
            return work(job)
        except Late:
            return None

    with concurrent.futures.ThreadPoolExecutor(WORKERS // 2) as pool:
        return list(pool.map(judged, jobs))
