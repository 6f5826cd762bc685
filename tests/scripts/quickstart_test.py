"""scripts/quickstart.sh, with stand-ins for the build, mpirun and the driver that record what they are told."""
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

RECORD = '#!/usr/bin/env bash\nprintf \'%s\\n\' "${0##*/} $*" >>"$CALLS"\n'
STAND_INS = {
    "dpkg-query": "#!/bin/sh\necho installed\n",
    "cmake": RECORD,
    "mpirun": RECORD,
    "nvcc": RECORD,
    "nvidia-smi": '#!/bin/sh\ni=0; while [ "$i" -lt "$GPUS" ]; do echo "GPU $i: a card"; i=$((i + 1)); done\n',
}


class Quickstart(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copytree(os.path.join(ROOT, "scripts"), os.path.join(self.folder, "scripts"))
        for name, text in STAND_INS.items():
            self.write(os.path.join("bin", name), text)
        for preset in ("cpu", "cuda"):
            self.write(f"build-{preset}/tools/sffn", RECORD.replace("${0##*/}", "$0"))
        for part in ("prose", "code"):
            self.write(f"data/quickstart/{part}/manifest.json", "{}")

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def run_with(self, gpus, without=()):
        for name in without:
            os.remove(os.path.join(self.folder, "bin", name))
        calls = os.path.join(self.folder, "calls")
        environment = {"PATH": os.path.join(self.folder, "bin") + ":/usr/bin:/bin", "CALLS": calls, "GPUS": str(gpus),
                       "CUDA_HOME": self.folder}
        done = subprocess.run([os.path.join(self.folder, "scripts/quickstart.sh")], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(calls) as file:
            return file.read().splitlines(), done.stdout

    def check(self, calls, preset, ranks):
        self.assertIn(f"cmake --preset {preset}", calls)
        sffn = f"build-{preset}/tools/sffn"
        launched = [call for call in calls if call.startswith("mpirun ")]
        self.assertEqual(len(launched), 4)  # two models trained and evaluated
        for call in launched:
            self.assertIn(f"-np {ranks} ", call)
            self.assertIn(f" {sffn} ", call)
        other = "cpu" if preset == "cuda" else "cuda"
        self.assertFalse([call for call in calls if f"build-{other}" in call or f"preset {other}" in call])

    # Kills: a GPU that is not looked for, more ranks than GPUs, a step that goes to the other build.
    def test_a_visible_gpu_is_built_for_and_used_by_one_rank_each(self):
        for gpus, ranks in ((1, 1), (2, 2), (8, 2)):
            with self.subTest(gpus=gpus):
                calls, _ = self.run_with(gpus)
                self.check(calls, "cuda", ranks)
                os.remove(os.path.join(self.folder, "calls"))

    # Kills: the CUDA build where the driver shows no card, or is not there.
    def test_without_a_gpu_two_ranks_of_the_cpu_train(self):
        self.check(self.run_with(0)[0], "cpu", 2)
        os.remove(os.path.join(self.folder, "calls"))
        self.check(self.run_with(0, without=("nvidia-smi",))[0], "cpu", 2)

    # Kills: words of the shell where an option lacks its value.
    def test_an_option_without_a_value_is_one_line(self):
        for arguments in (["--steps"], ["--run", ""]):
            done = subprocess.run([os.path.join(self.folder, "scripts/quickstart.sh"), *arguments], text=True, timeout=60,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(done.stderr, f"error: scripts/quickstart.sh: {arguments[0]} needs a value\n")

    # Kills: the CPU taken without a word.
    @unittest.skipIf(shutil.which("nvcc", path="/usr/bin:/bin"), "the distribution's toolkit is on this machine")
    def test_a_gpu_without_a_toolkit_is_said(self):
        calls, out = self.run_with(1, without=("nvcc",))
        self.check(calls, "cpu", 2)
        self.assertIn("a GPU is visible, but no CUDA toolkit", out)


if __name__ == "__main__":
    unittest.main()
