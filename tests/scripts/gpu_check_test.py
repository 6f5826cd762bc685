"""The code of scripts/gpu_check.sh that needs no GPU: limits, what is written when, the table, exit codes.

With --build DIR of the preset simt, also its slots, on the executor at small sizes."""
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

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "scripts"), os.path.join(ROOT, "tools", "bench")]
import gpu_check  # noqa: E402
import gpu_check_ranks  # noqa: E402
import gpu_check_report  # noqa: E402
import gpu_check_sanitizer  # noqa: E402

BUILD = None


def row(name, ms, **more):
    keys = ("gb_per_s", "tflops", "roofline_ms", "of_roofline", "predicted_ms", "of_predicted", "error", "memory_bytes")
    return {"name": name, "shape": "8x8 bf16", "ms": ms, **dict.fromkeys(keys), **more}


class FakeRun(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def check(self, slots, seconds=60):
        options = argparse.Namespace(build=self.folder, out=os.path.join(self.folder, "out"), seconds=seconds, spent=0,
                                     small=True, peers=None, commit="abc")
        with contextlib.redirect_stdout(io.StringIO()):
            return gpu_check.check(options, slots)

    def written(self):
        with open(os.path.join(self.folder, "out", "result.json")) as file:
            return json.load(file)

    # Kills: a limit that is not kept, a process left behind, results that are written at the end.
    def test_a_slot_that_hangs_is_stopped_with_its_children_and_those_before_it_are_written(self):
        mark = os.path.join(self.folder, "mark")

        def hang(run_):
            self.assertEqual(self.written()["slots"]["first"]["status"], "good")
            return run_.json_of("sh", "-c", f"(sleep 3; touch {mark}) & sleep 60")

        begin = time.monotonic()
        report = self.check([("first", "", 5, lambda run_: {"good": True}), ("hangs", "", 1, hang),
                             ("last", "", 5, lambda run_: {"good": True, "rows": [{**row("copy", 1.0), "peers": {}}]})])
        self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual([slot["status"] for slot in report["slots"].values()], ["good", "stopped at its limit", "good"])
        self.assertEqual(self.written(), report)
        time.sleep(3)
        self.assertFalse(os.path.exists(mark))

    # Kills: an error of one slot that ends the others; a failure that is called good.
    def test_a_slot_that_fails_is_told_apart_from_one_that_finds_something(self):
        def fail(run_):
            return run_.json_of("false")

        report = self.check([("fails", "", 5, fail), ("bad", "", 5, lambda run_: {"good": False, "summary": ["two differ"]}),
                             ("none", "", 5, lambda run_: {"good": None, "summary": []}),
                             ("garbage", "", 5, lambda run_: run_.json_of("echo", "not json"))])
        self.assertEqual([slot["status"] for slot in report["slots"].values()],
                         ["failed", "bad", "not possible here", "failed"])
        text = gpu_check_report.markdown(report)
        for part in ("exit code 1 of false", "* two differ"):
            self.assertIn(part, text)

    # Kills: left-out slots that make a good check fail, or that nobody names; a check of nothing that is called good; a slot
    # that the whole time cut short and one stopped at its own limit taken for each other.
    def test_only_slots_that_ran_decide_the_exit_code_and_the_others_are_named(self):
        def sleep(run_):
            return run_.json_of("sleep", "60")

        def good(run_):
            return {"good": True}

        report = self.check([("first", "", 5, good), ("cut", "", 50, sleep), ("late", "", 5, good)], seconds=1)
        self.assertEqual(self.written()["left_out"], ["cut", "late"])
        self.assertIn("cut short", report["slots"]["cut"]["status"])
        self.assertIn("Left out, as the time was over: cut, late.", gpu_check_report.markdown(report))
        self.assertEqual(gpu_check.exit_code(report), 0)
        self.assertEqual(gpu_check.exit_code(self.check([("late", "", 5, good)], seconds=-1)), 1)
        report = self.check([("first", "", 5, good), ("hangs", "", 1, sleep)])
        self.assertEqual((report["left_out"], gpu_check.exit_code(report)), ([], 1))
        report = self.check([("first", "", 5, good), ("bad", "", 5, lambda run_: {"good": False})])
        self.assertEqual(gpu_check.exit_code(report), 1)

    # Kills: seconds of a build that are forgotten; rows that the whole time cut off, called different.
    def test_a_build_counts_and_what_the_whole_time_cut_off_is_not_called_wrong(self):
        options = argparse.Namespace(build=self.folder, out=self.folder, seconds=100, spent=99.5, small=True, peers=None,
                                     commit="abc")
        run_ = gpu_check.Run(options)
        self.assertLess(run_.left(), 0.5)
        run_.end = run_.slot_end = time.monotonic()
        self.assertTrue(gpu_check.judged_rows(run_, [True, None]))
        self.assertFalse(gpu_check.judged_rows(run_, [True, None, False]))
        with self.assertRaises(gpu_check.Late):
            gpu_check.judged_rows(run_, [None])
        run_.end += 10
        self.assertFalse(gpu_check.judged_rows(run_, [True, None]))
        self.assertFalse(gpu_check.judged_rows(run_, []))

    # Kills: slots that begin behind the end.
    def test_what_has_not_begun_in_time_is_left_out_and_says_so(self):
        report = self.check([("slow", "", 5, lambda run_: time.sleep(0.2) or {"good": True}),
                             ("late", "", 5, lambda run_: {"good": True})], seconds=0.1)
        self.assertIn("left out", report["slots"]["late"]["status"])
        self.assertNotIn("seconds", report["slots"]["late"])

    def program(self, text):
        os.makedirs(os.path.join(self.folder, "tools"))
        path = os.path.join(self.folder, "tools", "sffn")
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + text)
        os.chmod(path, 0o755)

    # Kills: two ranks with the same host id, an error without what the ranks said, a hang that takes the slot's time.
    @unittest.skipUnless(shutil.which("mpirun"), "there is no mpirun")
    def test_two_ranks_that_fail_or_hang_say_so_in_the_result_and_the_table(self):
        self.program('''[ "$1" = --version ] && exit
[ "$1" = bench ] && exec sleep 60
if [ -n "$OMPI_COMM_WORLD_RANK" ]; then echo "rank $OMPI_COMM_WORLD_RANK calls itself $NCCL_HOSTID" >&2; exit 1; fi
mkdir "$4"
for step in 1 2 3 4 5 6; do echo '{"step": '$step', "loss": 2, "grad_norm": 1}'; done >"$4/metrics.jsonl"
''')
        begin = time.monotonic()
        report = self.check([("ranks", "two", 14, gpu_check_ranks.ranks)])
        self.assertLess(time.monotonic() - begin, 30)
        self.assertEqual(self.written()["machine"]["commit"], "abc")
        slot = report["slots"]["ranks"]
        self.assertEqual(slot["status"], "bad")
        self.assertEqual(len(slot["result"]["rows"]), 3)
        for ran in slot["result"]["rows"]:
            self.assertFalse(ran["agree"])
            self.assertIn("exit code 1\n", ran["error"])
            self.assertRegex(ran["error"], "rank 0 calls itself 0|rank 1 calls itself 1")
        self.assertIn("exit code", slot["result"]["links"]["error"])
        text = gpu_check_report.markdown(report)
        self.assertIn("| avg_k | expert=2, dispatch=gather, expert_chunk=96 | **no** | - | - |", text)
        self.assertRegex(text, "rank 0 calls itself 0|rank 1 calls itself 1")

    # Kills: the last step alone, an absolute error, one tolerance for both, a lost step that nobody misses.
    def test_the_worst_step_decides(self):
        one = [{"loss": 100.0, "grad_norm": 0.01} for _ in range(gpu_check_ranks.RANK_STEPS)]

        def held(**first):
            return gpu_check_ranks.hold_against([{**one[0], **first}] + one[1:], one)

        self.assertEqual(held(), {"agree": True, "loss": 0, "grad_norm": 0})
        self.assertTrue(held(loss=100.0009)["agree"])
        self.assertAlmostEqual(held(loss=99.99)["loss"], 1e-4)
        self.assertFalse(held(loss=99.99)["agree"])
        self.assertTrue(held(grad_norm=0.0100005)["agree"])
        self.assertFalse(held(grad_norm=0.010002)["agree"])
        self.assertFalse(held(loss=float("nan"))["agree"])
        with self.assertRaises(RuntimeError):
            gpu_check_ranks.hold_against(one[1:], one)


class Sanitizer(unittest.TestCase):
    LISTED_TAGS = "Tags for matching test cases:\n   2  [blocks]\n   1  [brand_new]\n  12  [ops]\n   1  [rope]\n4 tags\n"
    LISTED_TESTS = """Matching test cases:
  products [of] blocks are
    sums
      [blocks][ops]
  blocks turn
      [ops]
      [blocks][rope]
  turning turns
      [rope][ops]
  what is new
      [brand_new][ops]
  many ops
      [ops]
  no tag at all
6 matching test cases
"""

    # Kills: a new tag that is forgotten, a test that runs under each of its tags, tests that are missed.
    def test_every_test_is_in_one_specification_the_riskiest_first(self):
        self.assertEqual(gpu_check_sanitizer.tags_of(self.LISTED_TAGS), ["[blocks]", "[brand_new]", "[ops]", "[rope]"])
        specifications, unknown = gpu_check_sanitizer.plan(gpu_check_sanitizer.tags_of(self.LISTED_TAGS),
                                                           gpu_check_sanitizer.tests_of(self.LISTED_TESTS))
        self.assertEqual(specifications, [
            ("[blocks]", "[blocks]~[cpu]", 2), ("[rope]", "[rope]~[cpu]~[blocks]", 1),
            ("[brand_new]", "[brand_new]~[cpu]~[blocks]~[rope]", 1),
            ("[ops]", "[ops]~[cpu]~[blocks]~[rope]~[brand_new]", 1),
            ("no tag", "~[cpu]~[blocks]~[rope]~[brand_new]~[ops]", 1)])
        self.assertIn("[attention]", unknown)
        self.assertNotIn("[blocks]", unknown)

    # Kills: tags that were not reached and that nobody names, a tag that is gone and was called clean.
    def test_what_was_not_reached_is_named(self):
        jobs = [("memcheck", "[blocks]", "", 21), ("racecheck", "[blocks]", "", 0), ("memcheck", "[rope]", "", 4)]
        result = gpu_check_sanitizer.summary(jobs, [0, None, None], [])
        self.assertEqual((result["good"], result["late"]), (True, ["racecheck [blocks]", "memcheck [rope]"]))
        self.assertEqual(result["summary"], ["clean: 1 of 1", "memcheck reached 21 of 25 tests",
                                             "not done in time: racecheck [blocks], memcheck [rope]"])
        self.assertFalse(gpu_check_sanitizer.summary(jobs, [0, 0, 9], [])["good"])
        self.assertFalse(gpu_check_sanitizer.summary(jobs, [0, 0, 0], ["[gone]"])["good"])

    # Kills: tags of the lists that no test has any more.
    def test_the_tags_are_those_of_the_tests(self):
        if BUILD is None:
            self.skipTest("no --build")
        program = os.path.join(BUILD, "tests", "test_ops")
        tags, tests = (subprocess.run([program, option, "~[cpu]"], stdout=subprocess.PIPE, text=True, check=False).stdout
                       for option in ("--list-tags", "--list-tests"))
        specifications, unknown = gpu_check_sanitizer.plan(gpu_check_sanitizer.tags_of(tags),
                                                           gpu_check_sanitizer.tests_of(tests))
        self.assertEqual(unknown, [])
        self.assertIn(f"\n{sum(count for _, _, count in specifications)} matching test cases", tests)


class Options(unittest.TestCase):
    # Kills: a committed folder of the same day that is overwritten.
    def test_the_default_folder_is_the_next_that_is_free(self):
        with tempfile.TemporaryDirectory() as folder:
            first = gpu_check.default_out(folder)
            for number in (2, 3):
                os.mkdir(gpu_check.default_out(folder))
                self.assertEqual(gpu_check.default_out(folder), f"{first}-{number}")

    # Kills: a limit that is not taken, an order that --slots changes.
    def test_slots_are_chosen_with_their_limits(self):
        chosen = [(name, limit) for name, _, limit, _ in gpu_check.slots_of("C,sanitizer=400")]
        self.assertEqual(chosen, [("sanitizer", 400.0), ("C", 30.0)])
        self.assertEqual(len(gpu_check.slots_of("")), len(gpu_check.SLOTS))
        for wrong in ("D", "C=soon"):
            with self.assertRaises(ValueError):
                gpu_check.slots_of(wrong)


class Commit(unittest.TestCase):
    # Kills: the commit of a folder above, a changed tree that bears a commit's name.
    @unittest.skipUnless(shutil.which("git"), "there is no git")
    def test_a_changed_tree_is_marked_and_a_folder_without_git_has_none(self):
        with tempfile.TemporaryDirectory() as folder:
            inner = os.path.join(folder, "copy")
            os.mkdir(inner)
            path = os.path.join(folder, "file")

            def git(*words):
                subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e", *words], check=True,
                               stdout=subprocess.DEVNULL)

            with open(path, "w") as file:
                file.write("a")
            git("init", "-q")
            git("add", "file")
            git("commit", "-qm", "a")
            self.assertRegex(gpu_check.commit_of(folder), "^[0-9a-f]+$")
            with open(path, "a") as file:
                file.write("b")
            self.assertRegex(gpu_check.commit_of(folder), "^[0-9a-f]+-dirty$")
            self.assertIsNone(gpu_check.commit_of(inner))


class Report(unittest.TestCase):
    # Kills: a column that another key fills, a null that is printed as a number, a kernel lost from the sum of the rest.
    def test_the_table_holds_the_numbers_of_the_slots(self):
        kernels = [{"kernel": f"kernel_{i}", "launches": 2, "ms": 1.0 + i, "share": 0.01, "gb_per_s": 1000.0, "tflops": None,
                    "roofline_ms": 0.5, "of_roofline": 0.25} for i in range(20)]
        ours = {"tokens_per_second": 500000.4, "step_ms": 131.07, "model_tflops": 399.0, "mfu": 0.4034, "memory_bytes": 3.25e10,
                "optimizer_ms": 1.25, "outside_kernels_ms": 2.5, "profile": kernels}
        report = {"machine": {"card": "NVIDIA H200", "date": "2026-01-02", "torch": None}, "slots": {
            "E": {"title": "a step", "status": "good", "seconds": 3.0, "limit_s": 9, "result": {
                "step": ours, "predicted_h200": [626e3, 736e3], "torch": {"tokens_per_second": 480000.0, "step_ms": 136.5}}},
            "compare": {"title": "c", "status": "bad", "limit_s": 9, "result": {"rows": [
                {"name": "avg_k", "precision": "bf16", "agree": False,
                 "first": {"name": "hidden.0", "error": 0.5, "tolerance": 0.05}, "worst": None}]}},
            "ranks": {"title": "r", "status": "good", "limit_s": 9, "result": {"links": {"network": "per_node=2"}, "rows": [
                {"name": "dense", "parallel": ["zero=1"], "agree": True, "loss": 1e-7, "grad_norm": 2e-6}]}},
            "A": {"title": "a", "status": "good", "limit_s": 9, "result": {"suspect": ["copy 8"], "rows": [
                {**row("copy", 0.25, gb_per_s=4300.0, of_roofline=0.9), "peers": {"torch": {"ms": 0.5, "ratio": 2.0}}},
                {**row("add", 0.125), "peers": {}}]}}}}
        text = gpu_check_report.markdown(report)
        for part in ("| sffn | 500000 | 131.070 | 399.0 | 40.3% |", "| 626000, 736000 |", "| PyTorch | 480000 | 136.500 |",
                     "Memory 32.5 GB", "| `kernel_0` | 2 | 1.000 | 1.0% | 1000 | - | 25.0% |",
                     "| 5 others | 10 | 90.000 | 5.0% |", "hidden.0: 5.0e-01 of 5e-02", "| avg_k | bf16 | **no** |",
                     "| copy | 8x8 bf16 | 0.2500 | - | 4300 | - | 0.900 | - | - | 0.5000 (2.00) |",
                     "| add | 8x8 bf16 | 0.1250 | - | - | - | - | - | - | - |", "copy 8",
                     "| dense | zero=1 | yes | 1.0e-07 | 2.0e-06 |", "`per_node=2`"):
            self.assertIn(part, text)
        self.assertNotIn("kernel_15`", text)
        report["slots"]["E"]["result"]["torch"] = {"cut_off": True}
        self.assertIn("| PyTorch | cut off | cut off |", gpu_check_report.markdown(report))
        self.assertNotIn("None", text)


class OnTheExecutor(unittest.TestCase):
    # Kills: an option or key that the program does not have, a slot whose rows the table cannot show.
    def test_the_slots_run_on_the_executor_at_small_sizes(self):
        if BUILD is None:
            self.skipTest("no --build")
        with tempfile.TemporaryDirectory() as folder:
            ran = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "gpu_check.py"), "--build", BUILD, "--out",
                                  folder, "--small", "--slots", "compare,ranks,A,E-124m,D-64,B,C", "--seconds",
                                  "500"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(ran.returncode, 0, ran.stdout)
            with open(os.path.join(folder, "result.json")) as file:
                slots = json.load(file)["slots"]
            with open(os.path.join(folder, "README.md")) as file:
                text = file.read()
        names = {slot: {row["name"] for row in slots[slot]["result"]["rows"]} for slot in ("A", "B", "C", "D-64")}
        self.assertLessEqual({"copy", "gather_rows", "read_l2", "reduce_rows_bulk", "matmul"}, names["A"])
        self.assertEqual({"attention_forward", "attention_backward"}, names["B"])
        self.assertLessEqual({"add_norm_backward", "cross_entropy", "adamw"}, names["C"])
        self.assertLessEqual({"dense_ffn_forward", "sffn_forward_grouped", "sffn_forward_backward_masked"}, names["D-64"])
        for layer in slots["D-64"]["result"]["rows"]:
            if layer["name"].startswith("sffn"):
                self.assertLess(layer["error"], 0.02)
        self.assertIn("adamw_kernel<", json.dumps(slots["E-124m"]["result"]))
        if shutil.which("mpirun"):
            self.assertIn("per_node=2", slots["ranks"]["result"]["links"]["network"])
        self.assertRegex(text, r"\| `\w+_kernel<[^`]+>` \| \d+ \|")  # the slowest, which are others on each machine
        for part in ("| sffn_forward_grouped |", "| avg_k | fp32 | yes |"):
            self.assertIn(part, text)


if __name__ == "__main__":
    if "--build" in sys.argv:
        at = sys.argv.index("--build")
        BUILD = sys.argv[at + 1]
        del sys.argv[at:at + 2]
    unittest.main()
