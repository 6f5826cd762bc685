// The order of system calls of real saves, on a real file system; and the checker on traces that were made wrong.
#include "core/file.h"
#include "support/catch.h"
#include "support/process.h"
#include "support/temp_folder.h"

#include "faults/trace.h"

#include <algorithm>
#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

using Calls = std::vector<SystemCall>;
constexpr int kSteps = 4;

bool strace_works() {
  const ProcessResult result = run_process({"strace", "-o", "/dev/null", "true"});
  if (result.code != 0) WARN("strace cannot trace here, the order of system calls is not checked: " << result.output);
  return result.code == 0;
}

Calls trace_run(int ranks, const TempFolder& folder) {
  const std::string calls =
      "trace=openat,write,pwrite64,writev,fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat";
  const ProcessResult result =
      run_process(mpirun(ranks, {"strace", "-ff", "-ttt", "-T", "-y", "-s", "64", "-e", calls, "-o", folder / "trace",
                                 test_program("faults", "save_load_driver"), folder / "run", std::to_string(kSteps)}));
  INFO(result.output);
  REQUIRE(result.code == 0);
  std::vector<std::string> files;
  for (const std::string& name : list_directory(folder.path())) {
    if (name.starts_with("trace.")) files.push_back(folder / name);
  }
  return read_traces(files);
}

// A protocol that went wrong, as its trace would show it.
struct Mutant {
  const char* what;
  std::function<void(Calls&, const std::string& run)> make;
};

bool is_fsync_of(const SystemCall& c, const std::string& part) {
  return c.name == "fsync" && c.path.find(part) != std::string::npos;
}
void drop_fsyncs(Calls& calls, const std::string& part) {
  calls.erase(std::remove_if(calls.begin(), calls.end(), [&](const SystemCall& c) { return is_fsync_of(c, part); }),
              calls.end());
}
double time_of_rename(const Calls& calls, const std::string& target) {
  for (const SystemCall& c : calls) {
    if (c.name.starts_with("rename") && c.target.ends_with(target)) return c.start;
  }
  return 0;
}

const std::vector<Mutant>& mutants() {
  static const std::vector<Mutant> list{
      {"no fsync anywhere", [](Calls& calls, const std::string&) { drop_fsyncs(calls, ""); }},
      {"one rank's file is not fsynced",
       [](Calls& calls, const std::string&) { drop_fsyncs(calls, "optimizer-00000"); }},
      {"the record is not fsynced", [](Calls& calls, const std::string&) { drop_fsyncs(calls, "checksums.json"); }},
      {"the new folder is not fsynced",
       [](Calls& calls, const std::string&) {
         std::erase_if(calls, [](const SystemCall& c) { return c.name == "fsync" && c.path.ends_with(".tmp"); });
       }},
      {"the parent is not fsynced",
       [](Calls& calls, const std::string& run) {
         std::erase_if(calls, [&](const SystemCall& c) { return c.name == "fsync" && c.path == run + "/checkpoints"; });
       }},
      {"bytes follow the fsync",
       [](Calls& calls, const std::string&) {
         for (SystemCall& c : calls) {
           if (is_fsync_of(c, "model.safetensors")) c.start = c.end = c.start - 5;
         }
       }},
      {"the record comes first",
       [](Calls& calls, const std::string&) {
         for (SystemCall& c : calls) {
           if (c.path.ends_with("checksums.json") && c.name == "write") c.start = c.end = c.start - 5;
         }
       }},
      {"the old step goes first",
       [](Calls& calls, const std::string&) {
         const double committed = time_of_rename(calls, "/step-00000003");
         for (SystemCall& c : calls) {
           if (c.target.ends_with("/step-00000001.deleting")) c.start = c.end = committed - 1e-6;
         }
       }},
      {"the step is acknowledged first",
       [](Calls& calls, const std::string&) {
         for (SystemCall& c : calls) {
           if (c.text == "saved step 2\\n") c.start = c.end = c.start - 5;
         }
       }},
  };
  return list;
}

void check_ranks(int ranks) {
  if (!strace_works()) return;
  TempFolder folder(TempFolder::kDisk);
  const Calls calls = trace_run(ranks, folder);
  const OrderReport report = check_order(calls, folder / "run");
  for (const std::string& violation : report.violations) UNSCOPED_INFO(violation);
  REQUIRE(report.violations.empty());
  REQUIRE(report.commits == kSteps);
  for (const Mutant& mutant : mutants()) {
    Calls wrong = calls;
    mutant.make(wrong, folder / "run");
    std::sort(wrong.begin(), wrong.end(), [](const SystemCall& a, const SystemCall& b) { return a.end < b.end; });
    INFO(mutant.what);
    CHECK_FALSE(check_order(wrong, folder / "run").violations.empty());
  }
}

}  // namespace

// Kills: a missing fsync of a file, of the record, of either folder; a record, a deletion or an acknowledgement too
// early.
TEST_CASE("one rank's saves reach the disk in an order that loses nothing", "[faults]") { check_ranks(1); }

// Kills: a record or rename that does not wait for another rank's fsync.
TEST_CASE("the saves of two ranks reach the disk in an order that loses nothing", "[faults]") { check_ranks(2); }
