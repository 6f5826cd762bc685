"""The code of scripts/kernel_resources.py that needs no nvcc: what it reads of ptxas, and which files it compiles again."""
import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "scripts")]
import kernel_resources  # noqa: E402

LOG = """\
ptxas info    : Compiling entry function '_ZN4sffn4cuda10add_kernelIfEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN4sffn4cuda10add_kernelIfEEvPT_
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 384 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN4sffn4cuda10add_kernelIfEEvPT_' for 'sm_90a'
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _ZN4sffn4cuda10add_kernelIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 384 bytes smem
"""


class KernelResources(unittest.TestCase):
    # Kills: the stack of a function that the kernel calls taken for the kernel's, loads left out of the spills.
    def test_a_row_holds_what_ptxas_says_of_the_kernel_itself(self):
        rows = kernel_resources.table_rows("add.cu", kernel_resources.parse(LOG))
        self.assertEqual(rows, ["| add.cu | `add_kernel<float>` | 128 / 96 | 384 | 8 / 0 | 16 / 0 |"])

    # Kills: a spill on one architecture that passes for none.
    def test_a_kernel_that_spills_on_one_architecture_spills(self):
        spills = kernel_resources.table_rows("add.cu", kernel_resources.parse(LOG))
        clean = ["| add.cu | `other_kernel` | 128 / 96 | 384 | 8 / 0 | 0 |"]
        self.assertEqual(kernel_resources.spilling(spills + clean), {("add.cu", "`add_kernel<float>`"): [16, 0]})

    # Kills: a kernel known to spill that may spill more, or on another architecture; one that spills less and fails.
    def test_a_spill_beyond_that_of_the_table_is_named_with_its_architecture(self):
        row = "| add.cu | `add_kernel<float>` | 128 | 0 | 8 | {} |".format
        self.assertEqual(kernel_resources.more_spilled([row("16 / 0")], [row("16 / 8")]), [])
        for compiled, table, architecture, numbers in (("16 / 4", "16 / 0", "sm_90a", (4, 0)), ("20 / 0", "16 / 0", "sm_80", (20, 16)),
                                                  ("24", "24 / 20", "sm_90a", (24, 20))):
            found = kernel_resources.more_spilled([row(compiled)], [row(table)])
            self.assertEqual(found, ["add.cu `add_kernel<float>` spills {} bytes a thread on {}; in the table: {}".format(
                numbers[0], architecture, numbers[1])])
        self.assertEqual(len(kernel_resources.more_spilled([row("4")], [])), 2)

    # Kills: headers that are not followed, or those of the system that are.
    def test_a_file_is_compiled_again_when_a_header_of_a_header_changes(self):
        with tempfile.TemporaryDirectory() as folder:
            before, kernel_resources.ROOT = kernel_resources.ROOT, folder
            self.addCleanup(setattr, kernel_resources, "ROOT", before)
            for name, text in (("a.cu", '#include "b.h"\n#include <vector>\n'), ("b.h", '#include "c.h"\n'), ("c.h", "int x;\n")):
                with open(os.path.join(folder, name), "w") as file:
                    file.write(text)
            path = os.path.join(folder, "a.cu")
            first = kernel_resources.fingerprint(path, "13.0")
            self.assertEqual(kernel_resources.fingerprint(path, "13.0"), first)
            self.assertNotEqual(kernel_resources.fingerprint(path, "13.1"), first)
            with open(os.path.join(folder, "c.h"), "a") as file:
                file.write("int y;\n")
            self.assertNotEqual(kernel_resources.fingerprint(path, "13.0"), first)


if __name__ == "__main__":
    unittest.main()
