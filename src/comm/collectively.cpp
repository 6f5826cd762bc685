#include "comm/collectively.h"

#include <algorithm>
#include <new>

namespace sffn {

void collectively(Communicator& comm, const std::function<void()>& body) {
  int code = 0;
  std::string message;
  try {
    body();
  } catch (const Error& e) {
    code = static_cast<int>(e.code());
    message = e.what();
  } catch (const std::bad_alloc&) {
    code = static_cast<int>(ExitCode::kRunFailed);
    message = "memory: not enough on this machine; use a smaller model or micro_batch";
  }
  const std::vector<int> codes = comm.gather_values(code);
  const auto first = std::find_if(codes.begin(), codes.end(), [](int c) { return c != 0; });
  if (first == codes.end()) return;

  const int root = static_cast<int>(first - codes.begin());
  const bool all_failed = std::none_of(codes.begin(), codes.end(), [](int c) { return c == 0; });
  if (comm.rank() == root && !all_failed) message = cat("rank ", root, ": ", message);
  int64_t length = static_cast<int64_t>(message.size());
  comm.broadcast_bytes(&length, sizeof length, root);
  message.resize(length);
  comm.broadcast_bytes(message.data(), message.size(), root);
  throw AgreedError(static_cast<ExitCode>(*first), message);
}

}  // namespace sffn
