#include "comm/agree.h"

#include <algorithm>

namespace sffn {

std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine) {
  const std::vector<uint64_t> lengths = comm.gather_values(static_cast<uint64_t>(mine.size()));
  const size_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::string> texts(lengths.size());
  if (longest == 0) return texts;
  std::string padded = mine, all(longest * lengths.size(), '\0');
  padded.resize(longest);
  comm.all_gather_bytes(all.data(), padded.data(), longest);
  for (size_t r = 0; r < texts.size(); ++r) texts[r] = all.substr(r * longest, lengths[r]);
  return texts;
}

std::string broadcast_text(Communicator& comm, const std::string& text, int root) {
  uint64_t length = text.size();
  comm.broadcast_bytes(&length, sizeof length, root);
  std::string result = comm.rank() == root ? text : std::string(length, '\0');
  if (length > 0) comm.broadcast_bytes(result.data(), length, root);
  return result;
}

Failure first_failure(Communicator& comm, const Failure& mine) {
  const std::vector<int> codes = comm.gather_values(static_cast<int>(mine.code));
  const auto failed = std::find_if(codes.begin(), codes.end(), [](int code) { return code != 0; });
  if (failed == codes.end()) return {};
  const int rank = static_cast<int>(failed - codes.begin());
  const std::string what = broadcast_text(comm, mine.what, rank);
  return {static_cast<ExitCode>(*failed), rank == 0 ? what : cat("rank ", rank, ": ", what)};
}

}  // namespace sffn
