"""The batch scripts of scripts/slurm, with launchers that record what they are told in place of the cluster's."""
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "scripts", "slurm")
SCRIPTS = ("gpu.sh", "cpu.sh")

# What it was called with, a line a call; with WAITS it lasts until USR1 comes. The name it was called by is the launcher.
LAUNCHER = """#!/usr/bin/env bash
printf '%s\\n' "$OMP_NUM_THREADS threads: ${0##*/} $*" >>"$CALLS"
if [ -n "${WAITS:-}" ]; then
  trap 'echo "USR1: ${0##*/}" >>"$CALLS"; sleep 0.3; exit ${CODE:-0}' USR1
  echo ready >>"$CALLS"
  while true; do sleep 0.05; done
fi
exit ${CODE:-0}
"""


class Slurm(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.calls = os.path.join(self.folder, "calls")
        for name in ("srun", "mpirun", "scontrol", "sffn"):
            path = os.path.join(self.folder, name)
            with open(path, "w") as file:
                file.write(LAUNCHER if name != "scontrol" else '#!/bin/sh\necho "scontrol $*" >>"$CALLS"\n')
            os.chmod(path, 0o755)
        self.sffn = os.path.join(self.folder, "sffn")
        self.environment = {
            "PATH": self.folder + os.pathsep + os.environ["PATH"], "CALLS": self.calls, "SFFN": self.sffn,
            "CONFIG": "configs/quickstart.json", "RUN": "runs/a", "NCCL_SOCKET_IFNAME": "ib0", "SLURM_JOB_ID": "77",
            "SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "6"}

    def start(self, script, *arguments, **changes):
        environment = {name: value for name, value in {**self.environment, **changes}.items() if value is not None}
        return subprocess.Popen([os.path.join(FOLDER, script), *arguments], cwd=ROOT, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run_script(self, script, *arguments, **changes):
        process = self.start(script, *arguments, **changes)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def called(self):
        if not os.path.exists(self.calls):
            return []
        with open(self.calls) as file:
            return file.read().splitlines()

    def wait_for(self, line):
        end = time.monotonic() + 20
        while line not in self.called():
            self.assertLess(time.monotonic(), end, self.called())
            time.sleep(0.02)

    # Kills: a directive behind the first command, which Slurm does not read; a script that lacks one of those it relies on.
    def test_slurm_reads_all_directives_and_bash_the_rest(self):
        for name in os.listdir(FOLDER):
            subprocess.run(["bash", "-n", os.path.join(FOLDER, name)], check=True)
        for script in SCRIPTS:
            with open(os.path.join(FOLDER, script)) as file:
                lines = file.read().splitlines()
            head = next(i for i, line in enumerate(lines) if not line.startswith("#"))
            directives = [line.split(" ", 1)[1] for line in lines[:head] if line.startswith("#SBATCH")]
            self.assertEqual(len(directives), sum(line.startswith("#SBATCH") for line in lines))
            self.assertLessEqual({"--signal=B:USR1@300", "--requeue", "--open-mode=append"}, set(directives))
            self.assertTrue({"--nodes", "--ntasks-per-node", "--cpus-per-task"} <= {d.split("=")[0] for d in directives})
            self.assertEqual(any(d.startswith("--gpus-per-node=8") for d in directives), script == "gpu.sh")

    # Kills: ranks dealt round the nodes, cores that Slurm does not hand on to a step, options that do not reach sffn.
    def test_srun_starts_a_rank_a_task_node_by_node_with_its_cores(self):
        for launch in (None, "pmix", "pmi2"):
            for script, backend in zip(SCRIPTS, ("cuda", "cpu")):
                code, out, err = self.run_script(script, "--set", "name=two words", LAUNCH=launch)
                self.assertEqual((code, out, err), (0, "", ""))
                self.assertEqual(self.called()[-1],
                                 f"6 threads: srun --mpi={launch or 'pmix'} --distribution=block --cpus-per-task=6 "
                                 f"--cpu-bind=cores --kill-on-bad-exit=1 {self.sffn} train configs/quickstart.json "
                                 f"--run runs/a --resume auto --backend {backend} --set name=two words")
        self.assertEqual(len(self.called()), 6)

    # Kills: ranks that do not fill one node after the other, variables that stay on the first node.
    def test_mpirun_maps_the_ranks_of_the_allocation_and_takes_the_environment_along(self):
        self.assertEqual(self.run_script("gpu.sh", LAUNCH="mpirun")[0], 0)
        self.assertEqual(self.called(), [
            "6 threads: mpirun -np 16 --map-by ppr:8:node:PE=6 --bind-to core -x NCCL_SOCKET_IFNAME -x OMP_NUM_THREADS "
            f"{self.sffn} train configs/quickstart.json --run runs/a --resume auto --backend cuda"])

    # Kills: a launcher that is started without what it needs; an error of several lines, or with another exit code.
    def test_what_is_missing_is_one_line_and_exit_code_2(self):
        for script in SCRIPTS:
            for changes, part in (({"CONFIG": None}, "CONFIG is not set"), ({"RUN": None}, "RUN is not set"),
                                  ({"RUN": ""}, "RUN is not set"), ({"CONFIG": "no.json"}, "no file no.json"),
                                  ({"SFFN": "no/sffn"}, "no/sffn"), ({"LAUNCH": "ssh"}, "known: pmix, pmi2, mpirun"),
                                  ({"SLURM_JOB_ID": None}, "sbatch")):
                code, out, err = self.run_script(script, **changes)
                self.assertEqual((code, out, err.count("\n")), (2, "", 1), (changes, err))
                self.assertIn(part, err)
        self.assertEqual(self.called(), [])

    # Kills: a script that ends before its ranks have saved, a run that is not taken up again, one that always is.
    def test_a_signal_goes_to_the_launcher_and_the_job_back_into_the_queue(self):
        for number in (signal.SIGUSR1, signal.SIGTERM):
            for launcher, launch in (("srun", "pmix"), ("mpirun", "mpirun")):
                process = self.start("cpu.sh", LAUNCH=launch, WAITS="1")
                self.wait_for("ready")
                process.send_signal(number)
                _, err = process.communicate(timeout=30)
                self.assertEqual((process.returncode, err), (0, ""))
                self.assertEqual(self.called()[-2:], [f"USR1: {launcher}", "scontrol requeue 77"])
                os.remove(self.calls)

    # Kills: a job that fails again and again; an exit code that is lost in the batch script.
    def test_a_run_that_fails_gives_its_exit_code_and_is_not_started_again(self):
        self.assertEqual(self.run_script("cpu.sh", CODE="3")[0], 3)
        process = self.start("cpu.sh", CODE="1", WAITS="1")
        self.wait_for("ready")
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertFalse(any(line.startswith("scontrol") for line in self.called()))


if __name__ == "__main__":
    unittest.main()
