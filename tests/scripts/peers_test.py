"""Rows of other programs beside ours: joining, what is cut off, and PyTorch's, with a stand-in for PyTorch."""
import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "scripts"), os.path.join(ROOT, "tools", "bench")]
import gpu_check  # noqa: E402
import gpu_check_ops  # noqa: E402
import gpu_check_report  # noqa: E402
import peers  # noqa: E402

# Everything that pytorch_ops.py calls, doing nothing; a call of _grouped_mm takes SLOW seconds, or ends the program.
TORCH = """import os, time
class Tensor:
    type = "cpu"
    def numel(self): return 1 << 20
    element_size = numel
    def __getattr__(self, name): return lambda *a, **k: Tensor()
    __matmul__ = __rmul__ = __mul__ = __floordiv__ = __add__ = lambda self, other: Tensor()
class _dynamo:
    reset = staticmethod(lambda: None)
class autograd:
    grad = staticmethod(lambda *a, **k: Tensor())
def _grouped_mm(*a, **k):
    if os.environ["SLOW"] == "crash": os._exit(7)
    time.sleep(float(os.environ["SLOW"]))
    return Tensor()
def compile(f, **k): return f
bfloat16 = int32 = None
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return lambda *a, **k: Tensor()
"""


def row(name, ms, shape="8x8 bf16", **more):
    keys = ("gb_per_s", "tflops", "roofline_ms", "of_roofline", "predicted_ms", "of_predicted", "error", "memory_bytes")
    return {"name": name, "shape": shape, "ms": ms, **dict.fromkeys(keys), **more}


class Peers(unittest.TestCase):
    # Kills: rows joined by name alone, a ratio upside down, a peer's message taken for a row.
    def test_rows_are_joined_by_name_and_shape(self):
        report = {"groups": {"A": [row("copy", 2.0), row("add", 1.0)]}}
        lines = peers.parse_lines('warning: slow\n{"name": "copy", "shape": "8x8 bf16", "ms": 3.0}\n'
                                  '{"name": "copy", "shape": "9x8 bf16", "ms": 1.0}\n[1]\n{"name": "copy"}\n'
                                  '{"name": "add", "shape": "8x8 bf16", "error": "no memory"}\n'
                                  '{"name": "add", "shape": "8x8 bf16", "ms": 0.5, "peer": "other"}\n', "file")
        rows, strangers = peers.join(report, lines)
        self.assertEqual(rows[0]["peers"], {"file": {"ms": 3.0, "ratio": 1.5}})
        self.assertEqual(rows[1]["peers"], {"other": {"ms": 0.5, "ratio": 0.5}})
        self.assertEqual(strangers, 1)
        self.assertEqual(rows[0]["group"], "A")

    # Kills: commands that do not learn where the rows are, a failing command that ends the others.
    def test_every_command_of_the_file_is_run_with_the_rows(self):
        with tempfile.TemporaryDirectory() as folder:
            ours, commands = os.path.join(folder, "ours.json"), os.path.join(folder, "peers.txt")
            with open(ours, "w") as file:
                json.dump({"matmul": [row("matmul", 1.0)], "ops": []}, file)
            script = os.path.join(folder, "peer.py")
            with open(script, "w") as file:
                file.write("import json, sys\nrow = json.load(open(sys.argv[1]))['matmul'][0]\n"
                           "print(json.dumps({'name': row['name'], 'shape': row['shape'], 'ms': 4.0}))\n")
            with open(commands, "w") as file:
                file.write(f"# a comment\nfalse\n\n{sys.executable} {script} {{rows}}\n")
            ran = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "bench", "peers.py"), "--ours", ours,
                                  "--commands", commands, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 check=True)
        found = json.loads(ran.stdout)["rows"][0]["peers"]
        self.assertEqual(list(found.values()), [{"ms": 4.0, "ratio": 4.0}])
        self.assertIn("exit code 1", ran.stderr)

    # Kills: a planned row that is missing without a word, an error that looks like no row, a crash taken for lack of time.
    def test_what_is_missing_says_why(self):
        lines = [{"name": name, "shape": "8x8 bf16", "peer": "torch", "planned": True} for name in "abcd"]
        lines += [{"name": "a", "shape": "8x8 bf16", "peer": "torch", "ms": 1.0},
                  {"name": "b", "shape": "8x8 bf16", "peer": "torch", "error": "no memory: 5"},
                  {"name": "c", "shape": "8x8 bf16", "peer": "torch", "cut_off": True}]
        text = "\n".join(map(json.dumps, lines)) + "\nnoise\n[1]\n"
        why = {key[0]: found for key, found in peers.parse_missing(text, "file", "failed: exit code 9").items()}
        self.assertEqual(why, {"b": {"torch": "failed: no memory: 5"}, "c": {"torch": "cut off"},
                               "d": {"torch": "failed: exit code 9"}})
        report = {"groups": {"A": [row(name, 1.0) for name in "abcde"]}}
        joined, _ = peers.join(report, peers.parse_lines(text, "file"), peers.parse_missing(text, "file"))
        cells = [line.split(" | ")[-1] for line in peers.table(joined).splitlines()[2:]]
        self.assertEqual(cells, ["1.0000 (1.00) |", "failed |", "cut off |", "cut off |", "- |"])

    # Kills: a stopped command whose rows are called absent, or whose children go on and hold the pipe.
    def test_a_command_that_is_stopped_leaves_its_mark_and_no_process(self):
        report = {"groups": {"A": [row("copy", 1.0), row("add", 1.0)]}}
        begin = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()):
            printed, stopped = peers.run_command(
                """echo '{"name": "copy", "shape": "8x8 bf16", "ms": 2, "peer": "p"}'; sleep 30 | cat; echo""", "rows", 0.5)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertTrue(stopped)
        joined, _ = peers.join(report, peers.parse_lines(printed, "sh"), peers.cut_off_rows(report, printed, "sh"))
        self.assertEqual(joined[0]["peers"], {"p": {"ms": 2.0, "ratio": 2.0}})
        self.assertNotIn("missing", joined[0])
        self.assertEqual(joined[1]["missing"], {"p": "cut off"})
        self.assertEqual(peers.cut_off_rows(report, "", "sh"),
                         {(name, "8x8 bf16"): {"sh": "cut off"} for name in ("copy", "add")})


class PyTorch(unittest.TestCase):
    DENSE = row("dense_ffn_forward", 1.0, "N8 d8 k16 bf16")

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        for path, text in (("torch/__init__.py", TORCH), ("torch/nn/__init__.py", ""),
                           ("torch/nn/functional.py", "from torch import *\nfrom torch import __getattr__\n"),
                           ("torch/nn/attention.py", "class SDPBackend:\n    CUDNN_ATTENTION = FLASH_ATTENTION = 0\n"
                                                     "sdpa_kernel = None\n")):
            path = os.path.join(self.folder, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)

    def report(self, block):
        sparse = row("sffn_forward_grouped", 1.0, f"N8 d8 m64 k16 g{block} bf16")
        return {"device": "a card", "groups": {"D": [self.DENSE, sparse]}}

    def check(self, slow, limit=20, peers_file=None):
        """Slots D-4 and D-8, with 0.25 s for each of some ten calls of _grouped_mm where slow is 0.25."""
        def slot(block):
            def run(run_):
                run_.has_torch = True
                with mock.patch.object(run_, "json_of", lambda *_: self.report(block)):
                    return gpu_check_ops.ops("D", "tiny/dense.json")(run_)
            return run

        options = argparse.Namespace(build=self.folder, out=os.path.join(self.folder, "out"), seconds=60, spent=0, small=True,
                                     peers=peers_file, commit="abc")
        printed = io.StringIO()
        with mock.patch.dict(os.environ, PYTHONPATH=self.folder, SLOW=slow), contextlib.redirect_stdout(printed):
            report = gpu_check.check(options, [(f"D-{block}", "", limit, slot(block)) for block in (4, 8)])
        return report, printed.getvalue()

    # Kills: dense rows that are timed in every slot, or that the later tables leave blank; a file that is left behind.
    def test_the_dense_layer_is_timed_in_the_first_slot_alone(self):
        report, _ = self.check("0")
        first, second = (slot["result"]["rows"] for slot in report["slots"].values())
        self.assertEqual(set(first[0]["peers"]), {"torch eager", "torch compiled"})
        self.assertEqual((second[0]["peers"], second[0]["missing"]),
                         ({}, {"torch eager": "in D-4", "torch compiled": "in D-4"}))
        for rows in (first, second):
            self.assertEqual(set(rows[1]["peers"]), {"torch grouped_mm", "torch grouped_mm compiled"})
            self.assertNotIn("missing", rows[1])
        self.assertIn("| in D-4 | in D-4 |", gpu_check_report.markdown(report))
        self.assertEqual(set(os.listdir(os.path.join(self.folder, "out"))), {"log.txt", "result.json", "README.md"})

    # Kills: a slot whose peer was killed and that says nothing of it, in JSON, table or output; a user's program likewise.
    def test_a_peer_that_is_killed_leaves_its_mark(self):
        commands = os.path.join(self.folder, "peers.txt")
        with open(commands, "w") as file:
            file.write("true\n")
        report, printed = self.check("60", 4, commands)
        slot = report["slots"]["D-4"]
        self.assertEqual(slot["status"], "good")
        sparse = "sffn_forward_grouped N8 d8 m64 k16 g4 bf16"
        self.assertEqual({peer: rows for peer, rows in slot["result"]["cut_off"].items() if peer != "true"},
                         {"torch grouped_mm": [sparse], "torch grouped_mm compiled": [sparse]})
        self.assertEqual(len(slot["result"]["cut_off"]["true"]), 2)
        self.assertEqual(set(slot["result"]["rows"][0]["peers"]), {"torch eager", "torch compiled"})
        text = gpu_check_report.markdown(report)
        self.assertIn(f"torch grouped_mm, cut off as the time was over: {sparse}\n", text)
        self.assertIn("| - | - | cut off | cut off | cut off |", text)
        self.assertRegex(printed, r"D-4: good after [\d.]+ s; cut off: .*torch grouped_mm \(1\)")

    # Kills: a crash that is called lack of time.
    def test_a_peer_that_crashes_has_failed(self):
        report, _ = self.check("crash")
        sparse = report["slots"]["D-4"]["result"]["rows"][1]
        self.assertEqual(set(sparse["missing"].values()), {"failed: exit code 7"})
        self.assertNotIn("cut_off", report["slots"]["D-4"]["result"])

    # Kills: a child that stops by itself and does not say what it left.
    def test_what_the_program_leaves_out_it_names(self):
        path = os.path.join(self.folder, "rows.json")
        with open(path, "w") as file:
            json.dump(self.report(4), file)
        ran = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "bench", "pytorch_ops.py"), "--rows", path, "--seconds",
                              "1.5"], env={**os.environ, "PYTHONPATH": self.folder, "SLOW": "0.05"}, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, check=False)
        lines = list(map(json.loads, ran.stdout.splitlines()))
        self.assertEqual([line["peer"] for line in lines if "planned" in line],
                         ["torch eager", "torch compiled", "torch grouped_mm", "torch grouped_mm compiled"])
        self.assertEqual([line["peer"] for line in lines if "ms" in line], ["torch eager", "torch compiled", "torch grouped_mm"])
        self.assertEqual([line["peer"] for line in lines if "cut_off" in line], ["torch grouped_mm compiled"])
        self.assertEqual((ran.returncode, ran.stderr), (1, "stopped after --seconds; rows are missing\n"))


if __name__ == "__main__":
    unittest.main()
