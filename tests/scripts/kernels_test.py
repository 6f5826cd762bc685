"""tests/simt/kernels.py, which holds the kernels that ran against the sources, and scripts/test.sh, which prints its list."""
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "simt"))
import kernels  # noqa: E402

SOURCE = """// a __global__ void of_a_comment(int)
template <class T, class Cut>
__global__ void __launch_bounds__(Cut<T>::kThreads, Cut<T>::least(true) == 1 ? 2 : 1)
    add_norm(T* y, Cut cut) { helper(y); }
__global__ void turn_kernel(float* x);
static __global__ __launch_bounds__(256) void plain(std::array<int, 2> counts) {}
"""
SYMBOLS = """0000000000000100 T simt::run_grid(dim3 const&, dim3 const&, unsigned long, void const*, std::function<void ()> const&)
0000000000000110 t void sffn::(anonymous namespace)::add_norm<float, sffn::(anonymous namespace)::Cut<8> >(float*, sffn::Cut<8>)
0000000000000120 t void sffn::add_norm<int, std::plus<int> >(int*, std::plus<int>)
0000000000000130 t sffn::(anonymous namespace)::plain(std::array<int, 2ul>)
0000000000000140 t sffn::(anonymous namespace)::plain(std::array<int, 2ul>) [clone .cold]
0000000000000150 W void sffn::add_norm<f(int)::{lambda(int)#1}, bool>(bool*) 
0000000000000160 t void sffn::add_norm<int>(int*)::{lambda(int)#1}::operator()(int) const
0000000000000170 t void sffn::launch<&sffn::plain>(void (*)(std::array<int, 2ul>))
0000000000000180 t sffn::plain_of(int)
0000000000000190 W std::_Function_handler<void (), sffn::plain(std::array<int, 2ul>)::{lambda()#1}>::_M_invoke(std::_Any_data const&)
00000000000001a0 W sffn::turn_kernel(float*)
00000000000001b0 b sffn::turn_kernel(float*)::count
"""


class Kernels(unittest.TestCase):
    # Kills: bounds that are taken for a name, comments that are read, a name without "_kernel" that is not seen.
    def test_the_global_functions_of_a_source_are_found(self):
        self.assertEqual(kernels.global_functions(SOURCE), {"add_norm", "turn_kernel", "plain"})

    # Kills: kernels dropped for std:: in their types; lambdas within a kernel, launches of it and cold parts counted as one.
    def test_a_symbol_is_a_kernel_where_its_function_has_the_name(self):
        found, base = kernels.kernels_of(SYMBOLS, kernels.global_functions(SOURCE))
        self.assertEqual(base, 0x100)
        self.assertEqual(sorted(address for address, _ in found), [0x110, 0x120, 0x130, 0x150, 0x1a0])

    def judge(self, record, source=SOURCE):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("a.cu", "record")]
            for path, text in zip(paths, (source, record)):
                with open(path, "w") as file:
                    file.write(text)
            printed = io.StringIO()
            nm = mock.Mock(stdout=SYMBOLS)
            with mock.patch.object(kernels, "SOURCES", paths[0]), contextlib.redirect_stdout(printed), \
                 mock.patch.object(kernels.subprocess, "run", return_value=nm):
                code = kernels.main("program", paths[1])
            with open(paths[1] + ".short") as file:
                return code, printed.getvalue(), file.read()

    # Kills: launches of two processes that are not added, a kernel that never ran and is hidden by its other types, a kernel
    # of the sources that the program lacks.
    def test_a_kernel_that_never_ran_or_is_not_there_fails(self):
        all_ran = "16 3\n32 1\n48 2\n80 1\n160 1\n16 4\n"
        code, printed, short = self.judge(all_ran)
        self.assertEqual(code, 0, printed)
        self.assertRegex(printed, r" 7  void sffn::\(anonymous namespace\)::add_norm<float")
        self.assertRegex(short, r"^5 kernels of 3 __global__ functions, 0 of them never run; types and launches: .*record.list"
                                r"\nadd_norm x3 +plain x1 +turn_kernel x1\n$")
        code, _, short = self.judge(all_ran.replace("32 1\n", ""))
        self.assertEqual(code, 1)
        self.assertIn("add_norm x3 NOT ALL RUN", short)
        code, printed, short = self.judge(all_ran, SOURCE + "__global__ void forgotten(int);")
        self.assertEqual(code, 1)
        for text in (printed, short):
            self.assertIn("not in the program: forgotten", text)


class TestScript(unittest.TestCase):
    def run_with(self, ctest):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(os.path.join(ROOT, "scripts"), os.path.join(folder, "scripts"))
            for name, text in (("dpkg-query", "echo installed"), ("cmake", ":"), ("python3", ":"), ("ctest", ctest)):
                path = os.path.join(folder, "bin", name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write("#!/bin/sh\n" + text + "\n")
                os.chmod(path, 0o755)
            for preset in ("simt", "simt-asan", "simt-tsan"):
                os.mkdir(os.path.join(folder, f"build-{preset}"))
            with open(os.path.join(folder, "build-simt-asan", "kernels_that_ran.short"), "w") as file:
                file.write("an old list\n")
            ran = subprocess.run([os.path.join(folder, "scripts", "test.sh"), "--simt"], stdout=subprocess.PIPE, text=True,
                                 env={**os.environ, "PATH": os.path.join(folder, "bin") + ":/usr/bin:/bin"}, check=False)
        return ran.returncode, ran.stdout

    # Kills: a list that is hidden, stands behind the summary or is of an older run; a failure of ctest that the pipe loses.
    def test_the_list_stands_before_the_summary_and_the_exit_code_is_that_of_ctest(self):
        end = "echo; echo '100% tests passed, 0 tests failed out of 3'; echo; echo 'Total Test time (real) = 1 sec'"
        write = 'case $2 in *-simt) printf "2 kernels\\na x1\\n" >$2/kernels_that_ran.short;; esac'
        code, printed = self.run_with(f'echo "test $2"; {write}; {end}')
        self.assertEqual(code, 0)
        self.assertTrue(printed.endswith("\n\n2 kernels\na x1\n\n100% tests passed, 0 tests failed out of 3\n\n"
                                         "Total Test time (real) = 1 sec\n"), printed)
        self.assertEqual((printed.count("kernels\n"), "old list" in printed), (1, False))
        code, printed = self.run_with(end + "; exit 8")
        self.assertEqual(code, 8)
        self.assertNotIn("old list", printed)


if __name__ == "__main__":
    unittest.main()
