// A run that only saves: resumes the newest sound step, checks every element of it, then saves each step to the last.
//   save_load_driver RUN LAST_STEP [--enable-fault-injection]
// Exit code: that of the error, or 1 when an element is wrong.
#include "comm/mpi.h"
#include "core/fault.h"
#include "core/log.h"
#include "support/fingerprints.h"
#include "train/checkpoint/run_lock.h"

#include <cstdlib>
#include <cstring>
#include <string>

using namespace sffn;

namespace {

void save_steps(Communicator& comm, const std::string& run, int64_t last) {
  const RunLock lock(comm, run);
  if (comm.rank() == 0) log::also_to_file(run + "/log.txt");
  test::State state(comm, test::small_model(), false);
  const Resume resume = choose_resume(comm, run, "auto");
  int64_t step = 0;
  if (resume.checkpoint) {
    step = resume.checkpoint->step;
    resume_from(comm, *resume.checkpoint, state.parameters(), state.moments());
    if (state.wrong(step) != 0) throw RunError(run, cat(state.wrong(step), " elements are wrong"));
  }
  CheckpointWriter writer(comm, run, {2, 0, 3, {}}, resume);
  while (step < last) {
    state.fill(++step);
    writer.save(step, state.contents(), step == last);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  mpi_start();
  const auto comm = make_mpi_communicator();
  log::start(comm->rank());
  try {
    if (argc > 3 && std::strcmp(argv[3], "--enable-fault-injection") == 0) enable_fault_injection(comm->rank());
    save_steps(*comm, argv[1], std::atoll(argv[2]));
  } catch (const Error& e) {
    log::error(e.what());
    comm->abort(static_cast<int>(e.code()));
  }
  mpi_finish();
}
