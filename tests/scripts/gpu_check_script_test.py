"""scripts/gpu_check.sh itself, with stand-ins for the driver of the card, the build and the slots."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run_script(*arguments, root=ROOT, path=os.environ["PATH"]):
    return subprocess.run([os.path.join(root, "scripts", "gpu_check.sh"), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "PATH": path})


class Script(unittest.TestCase):
    # Kills: a check that goes on without a GPU, an error of several lines.
    def test_without_a_gpu_there_is_one_line_and_exit_code_2(self):
        if shutil.which("nvidia-smi"):
            self.skipTest("this machine has a GPU's driver")
        ran = run_script()
        self.assertEqual((ran.returncode, ran.stdout, ran.stderr.count("\n")), (2, "", 1))
        self.assertIn("no GPU", ran.stderr)

    # Kills: an option without a value that ends with no word, or that takes the next option for its value.
    def test_an_option_without_a_value_is_one_line_and_exit_code_2(self):
        for arguments in (["--out"], ["--build", ""], ["--seconds", "--slots", "A"], ["--slots"], ["--peers"], ["--commit"]):
            ran = run_script(*arguments)
            self.assertEqual((ran.returncode, ran.stdout), (2, ""))
            self.assertEqual(ran.stderr, f"error: scripts/gpu_check.sh: {arguments[0]} needs a value\n")

    # Kills: a clock that starts behind the build, a build that takes it all and is followed by silence.
    def test_the_clock_starts_before_the_build(self):
        with tempfile.TemporaryDirectory() as folder:
            for part in ("scripts", os.path.join("tools", "bench")):
                shutil.copytree(os.path.join(ROOT, part), os.path.join(folder, part))
            os.mkdir(os.path.join(folder, "bin"))
            for name, text in (("dpkg-query", "echo installed"), ("nvidia-smi", "echo 'GPU 0: a card'"),
                               ("cmake", "[ $1 = --build ] || sleep 2")):
                with open(os.path.join(folder, "bin", name), "w") as file:
                    file.write("#!/bin/sh\n" + text + "\n")
                os.chmod(file.name, 0o755)
            path = os.path.join(folder, "bin") + ":" + os.environ["PATH"]
            ran = run_script("--seconds", "1", root=folder, path=path)
            self.assertEqual((ran.returncode, ran.stderr.count("\n")), (1, 1))
            self.assertRegex(ran.stderr, rf"error: the build took \d s of 1.*--build {re.escape(folder)}/build-cuda\n")
            self.assertRegex(ran.stdout, r"the build took \d s, which count")
            with open(os.path.join(folder, "scripts", "gpu_check.py"), "w") as file:
                file.write("import sys\nprint(sys.argv[1:])\n")
            ran = run_script("--slots", "A", root=folder, path=path)
            self.assertRegex(ran.stdout, r"\['--slots', 'A', '--build', '[^']+/build-cuda', '--spent', '[2-9]'\]")


if __name__ == "__main__":
    unittest.main()
