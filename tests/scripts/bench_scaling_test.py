"""The tables of scripts/bench_scaling.py."""
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import bench_scaling  # noqa: E402

LINK = {"per_node": 4.0, "node_gbs": 2.0, "node_us": 10.0}


class Tables(unittest.TestCase):
    # Kills: a figure that loses its digits, or ranks that become a fraction.
    def test_figures_read_back_as_the_program_writes_them(self):
        text = "per_node=4,node_gbs=2.125,node_us=12.5"
        self.assertEqual(bench_scaling.text_of(bench_scaling.figures(text)), text)
        self.assertEqual(bench_scaling.text_of({"tflops": 0.0412345, "gbs": 9.0}), "tflops=0.04123,gbs=9")

    # Kills: a mean for the median; a key taken from one round alone.
    def test_medians_are_of_each_figure_by_itself(self):
        self.assertEqual(bench_scaling.median_of([{"a": 1, "b": 9}, {"a": 2, "b": 1}, {"a": 99, "b": 2}]), {"a": 2, "b": 2})

    # Kills: the measured time for the predicted one; a sign; a division by nothing.
    def test_an_error_is_that_of_the_prediction(self):
        self.assertEqual(bench_scaling.error(3.0, 2.0), "+50 %")
        self.assertEqual(bench_scaling.error(1.0, 2.0), "-50 %")
        self.assertEqual(bench_scaling.error(1.0, 0.0), "–")

    # Kills: one message a call; a unit; sums of gradients that take no time.
    def test_collectives_take_their_messages_their_bytes_and_their_sums(self):
        rows = {("all_gather", 6e6): 4.0, ("tree_reduce_scatter", 6e6): 6.0}
        table = bench_scaling.collective_table({4: rows}, {4: LINK}, {4: {"tflops": 1.0, "gbs": 10.0}})
        self.assertEqual(table[2].split(" | ")[3:], ["3.030", "4.000", "-24 % |"])  # 3 · 10 µs + 6 MB / 2 GB/s
        self.assertEqual(table[3].split(" | ")[3:], ["6.430", "6.000", "+7 % |"])  # and 6 MB · (5 + 2 / 3) / 10 GB/s

    # Kills: a memory pass that the program's model counts otherwise.
    def test_sums_move_the_bytes_that_the_plan_counts(self):
        counted = re.search(r"sent\.bytes \* \((\d+) \+ 2 /", (ROOT / "src/train/scaling.cpp").read_text())
        self.assertEqual(int(counted[1]), bench_scaling.OF_A_SUM)

    # Kills: a row of another layout beside it.
    def test_a_layout_stands_beside_its_own_prediction(self):
        row = lambda step, exposed: {"step_ms": step, "exposed_communication_ms": exposed,
                                     "least_communication_ms": exposed / 2}
        predicted = {2: {1: row(10.0, 1.0), 2: row(20.0, 4.0)}}
        table = bench_scaling.step_table(predicted, {(2, 1): row(10.0, 2.0), (2, 2): row(10.0, 4.0)})
        self.assertEqual(table[2], "| 2 | 1 | 10.0 | 10.0 | +0 % | 1.0 | 2.0 | -50 % | 1.0 | +0 % |")
        self.assertEqual(table[3], "| 2 | 2 | 20.0 | 10.0 | +100 % | 4.0 | 4.0 | +0 % | 2.0 | +100 % |")


if __name__ == "__main__":
    unittest.main()
