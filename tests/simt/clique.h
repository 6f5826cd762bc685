// Ranks of one NCCL communicator: they meet on the streams that run them, copy, and find each what another did wrong.
// What NCCL leaves to hang or corrupt memory is a failure of the clique, which every rank learns: other collectives on
// other ranks, other sizes, transfers that wait for one another, ranks that leave while others wait for them.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace simt {

enum class Transfer : uint8_t { kAllGather, kBroadcast, kSend, kReceive };

struct Operation {
  Transfer kind;
  const void* from;
  void* to;
  size_t bytes;  // that one rank contributes
  int peer;      // or root
  std::string str() const;
};

class Clique {
 public:
  // patience: how long a rank waits for one that is elsewhere.
  Clique(int size, std::chrono::seconds patience);

  // Returns when every rank has joined. False: why() says what is wrong.
  bool join(int rank, int size, int device);
  // Rank's launch: collectives one after another, then sends and receives together. Runs where its stream does.
  void run(int rank, const std::vector<Operation>& operations);
  void leave(int rank);  // returns when every rank leaves
  void abort(int rank);
  std::string why();  // empty: nothing is wrong

 private:
  struct Message {
    const void* data;
    size_t bytes;
    bool taken;
  };
  struct Meeting {
    std::vector<const Operation*> offers;
    int arrived = 0, left = 0;
    bool over = false;
  };
  struct Waiting {
    std::string what;
    const std::function<bool()>* until;
  };
  using Lock = std::unique_lock<std::mutex>;

  void fail(const std::string& what);  // the first one counts
  // False when the clique has failed, which it does where no rank can go on.
  bool wait(Lock& lock, int rank, const std::string& what, const std::function<bool()>& until);
  void fail_if_stuck();
  bool meet(Lock& lock, int rank, const Operation& mine);
  void complete(const Meeting& meeting);
  bool exchange(Lock& lock, int rank, const std::vector<Operation>& operations);
  bool receive(Lock& lock, int rank, const Operation& operation);

  const std::chrono::seconds patience_;
  std::mutex guard_;
  std::condition_variable changed_;
  int joined_ = 0, left_ = 0;
  std::vector<int> devices_;  // by rank; -1: not there yet
  std::vector<int64_t> met_;  // collectives that each rank has come to
  std::map<int64_t, Meeting> meetings_;
  std::map<std::pair<int, int>, std::deque<Message*>> mail_;  // by sender and receiver
  std::map<int, Waiting> waiting_;                            // by rank
  std::string failure_;
};

}  // namespace simt
