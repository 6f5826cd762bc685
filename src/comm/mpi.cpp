#include "comm/mpi.h"

#include "comm/arguments.h"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>

namespace sffn {
namespace {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw RunError(call, text);
}
#define SFFN_MPI(call, ...) check_mpi(call(__VA_ARGS__), #call)

// Freed by the destructor only where all ranks come by: not while an exception unwinds this one. MPI_Finalize frees the
// rest.
class OwnedComm {
 public:
  explicit OwnedComm(MPI_Comm comm) : comm_(comm), exceptions_(std::uncaught_exceptions()) {
    SFFN_MPI(MPI_Comm_set_errhandler, comm_, MPI_ERRORS_RETURN);
  }
  ~OwnedComm() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized && std::uncaught_exceptions() == exceptions_) MPI_Comm_free(&comm_);
  }
  OwnedComm(const OwnedComm&) = delete;
  OwnedComm& operator=(const OwnedComm&) = delete;
  MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_;
  int exceptions_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, size_t piece_bytes) : comm_(comm), piece_bytes_(piece_bytes) {
    SFFN_CHECK(piece_bytes_ >= 1 && piece_bytes_ <= kMpiPieceBytes, "pieces of ", piece_bytes_, " bytes");
    SFFN_MPI(MPI_Comm_rank, comm, &rank_);
    SFFN_MPI(MPI_Comm_size, comm, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_gather(Stream&, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    check_all_gather(all, mine, counts, rank_, size_);
    if (moves_nothing(all)) return;
    const std::vector<size_t> offsets = row_offsets(counts, row_bytes(all));
    auto* to = static_cast<std::byte*>(all.raw());
    if (offsets.back() <= piece_bytes_) {
      std::vector<int> bytes, displacements;
      for (int r = 0; r < size_; ++r) {
        bytes.push_back(static_cast<int>(offsets[index(r) + 1] - offsets[index(r)]));
        displacements.push_back(static_cast<int>(offsets[index(r)]));
      }
      const bool in_place = mine.raw() == to + offsets[index(rank_)];
      SFFN_MPI(MPI_Allgatherv, in_place ? MPI_IN_PLACE : mine.raw(), bytes[index(rank_)], MPI_BYTE, to, bytes.data(),
               displacements.data(), MPI_BYTE, comm_.get());
      return;
    }
    copy(to + offsets[index(rank_)], mine.raw(), mine.bytes());
    for (int r = 0; r < size_; ++r)
      broadcast_bytes(to + offsets[index(r)], offsets[index(r) + 1] - offsets[index(r)], r);
  }

  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    begin_all_to_all(stream, recv, recv_counts, send, send_counts)->finish(stream);
  }

  std::unique_ptr<Transfer> begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                             std::span<const int64_t> counts) override {
    check_all_gather(all, mine, counts, rank_, size_);
    auto messages = std::make_unique<Messages>(*this, stream);
    if (moves_nothing(all)) return messages;
    const std::vector<size_t> offsets = row_offsets(counts, row_bytes(all));
    auto* to = static_cast<std::byte*>(all.raw());
    for (int step = 1; step < size_; ++step) {
      const int peer = (rank_ + size_ - step) % size_;
      messages->receive(to + offsets[index(peer)], offsets[index(peer) + 1] - offsets[index(peer)], peer);
    }
    for (int step = 1; step < size_; ++step) messages->send(mine.raw(), mine.bytes(), (rank_ + step) % size_);
    copy(to + offsets[index(rank_)], mine.raw(), mine.bytes());
    return messages;
  }

  // Point to point, so that no displacement or decision depends on a 32-bit sum that only some ranks exceed.
  std::unique_ptr<Transfer> begin_all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts,
                                             const Tensor& send, std::span<const int64_t> send_counts) override {
    check_all_to_all(recv, recv_counts, send, send_counts, rank_, size_);
    auto messages = std::make_unique<Messages>(*this, stream);
    if (moves_nothing(recv)) return messages;
    const std::vector<size_t> to = row_offsets(recv_counts, row_bytes(recv));
    const std::vector<size_t> from = row_offsets(send_counts, row_bytes(send));
    auto* in = static_cast<std::byte*>(recv.raw());
    const auto* out = static_cast<const std::byte*>(send.raw());
    for (int step = 1; step < size_; ++step) {
      const int peer = (rank_ + size_ - step) % size_;
      messages->receive(in + to[index(peer)], to[index(peer) + 1] - to[index(peer)], peer);
    }
    for (int step = 1; step < size_; ++step) {
      const int peer = (rank_ + step) % size_;
      messages->send(out + from[index(peer)], from[index(peer) + 1] - from[index(peer)], peer);
    }
    copy(in + to[index(rank_)], out + from[index(rank_)], to[index(rank_) + 1] - to[index(rank_)]);
    return messages;
  }

  void broadcast(Stream&, Tensor inout, int root) override {
    check_root(root, size_);
    if (!moves_nothing(inout)) broadcast_bytes(inout.raw(), inout.bytes(), root);
  }

  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    SFFN_CHECK(bytes * index(size_) <= kMpiPieceBytes, bytes, " bytes a rank: this call is for small values");
    SFFN_MPI(MPI_Allgather, mine, static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes), MPI_BYTE,
             comm_.get());
  }

  void broadcast_bytes(void* data, size_t bytes, int root) override {
    check_root(root, size_);
    for_pieces(bytes, [&](size_t first, int piece) {
      SFFN_MPI(MPI_Bcast, static_cast<std::byte*>(data) + first, piece, MPI_BYTE, root, comm_.get());
    });
  }

  void barrier() override { SFFN_MPI(MPI_Barrier, comm_.get()); }

  std::unique_ptr<Communicator> split(int color, int key) override {
    // MPI wants colours from 0: the position among the sorted ones serves any.
    std::vector<int> colors = gather_values(color);
    std::sort(colors.begin(), colors.end());
    const auto place = std::lower_bound(colors.begin(), colors.end(), color) - colors.begin();
    MPI_Comm part = MPI_COMM_NULL;
    SFFN_MPI(MPI_Comm_split, comm_.get(), static_cast<int>(place), key, &part);
    return std::make_unique<MpiCommunicator>(part, piece_bytes_);
  }

  void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  static constexpr int kTag = 1;

  // Non-blocking messages, all begun before the first is waited for. An MPI library moves them on within its calls
  // only.
  class Messages final : public Transfer, Background {
   public:
    Messages(const MpiCommunicator& comm, Stream& stream) : comm_(comm), stream_(stream) { stream.look_after(*this); }
    // Before its end only where an exception unwinds the rank: nothing may be written any more.
    ~Messages() override {
      stream_.forget(*this);
      for (size_t i = 0; i < received_.size() && !done_; ++i) {
        (void)MPI_Cancel(&requests_[i]);
        (void)MPI_Request_free(&requests_[i]);
      }
    }
    Messages(const Messages&) = delete;

    // Every receive() before the first send().
    void receive(std::byte* data, size_t bytes, int peer) {
      comm_.for_pieces(bytes, [&](size_t first, int piece) {
        received_.push_back({peer, piece});
        SFFN_MPI(MPI_Irecv, data + first, piece, MPI_BYTE, peer, kTag, comm_.comm_.get(), &requests_.emplace_back());
      });
    }
    void send(const void* data, size_t bytes, int peer) {
      comm_.for_pieces(bytes, [&](size_t first, int piece) {
        SFFN_MPI(MPI_Isend, static_cast<const std::byte*>(data) + first, piece, MPI_BYTE, peer, kTag, comm_.comm_.get(),
                 &requests_.emplace_back());
      });
    }

    void advance() override {
      if (done_) return;
      int all = 0;
      statuses_.resize(requests_.size());
      SFFN_MPI(MPI_Testall, count(), requests_.data(), &all, statuses_.data());
      if (all != 0) end();
    }
    void finish(Stream&) override {
      if (done_) return;
      statuses_.resize(requests_.size());
      SFFN_MPI(MPI_Waitall, count(), requests_.data(), statuses_.data());
      end();
    }

   private:
    struct Received {
      int peer, bytes;
    };
    int count() const { return static_cast<int>(requests_.size()); }
    // A message shorter than expected is no error to MPI.
    void end() {
      done_ = true;
      for (size_t i = 0; i < received_.size(); ++i) {
        int bytes = 0;
        SFFN_MPI(MPI_Get_count, &statuses_[i], MPI_BYTE, &bytes);
        SFFN_CHECK(bytes == received_[i].bytes, "rank ", received_[i].peer, " sent ", bytes, " bytes to rank ",
                   comm_.rank_, ", which expected ", received_[i].bytes);
      }
    }

    const MpiCommunicator& comm_;
    Stream& stream_;
    std::vector<MPI_Request> requests_;  // of what is received, then of what is sent
    std::vector<MPI_Status> statuses_;
    std::vector<Received> received_;
    bool done_ = false;
  };

  static size_t index(int rank) { return static_cast<size_t>(rank); }
  static void copy(std::byte* to, const void* from, size_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
  }

  template <class Body>
  void for_pieces(size_t bytes, Body&& body) const {
    for (size_t first = 0; first < bytes; first += piece_bytes_) {
      body(first, static_cast<int>(std::min(piece_bytes_, bytes - first)));
    }
  }

  OwnedComm comm_;
  size_t piece_bytes_;
  int rank_ = 0, size_ = 1;
};

}  // namespace

void mpi_start() {
  // Serialized: the watchdog's thread calls MPI_Abort, and nothing else, while the main thread may be stuck in a call.
  int provided = 0;
  SFFN_MPI(MPI_Init_thread, nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  SFFN_CHECK(provided >= MPI_THREAD_SERIALIZED, "this MPI library offers thread level ", provided, ", needed is ",
             MPI_THREAD_SERIALIZED, " (MPI_THREAD_SERIALIZED)");
  SFFN_MPI(MPI_Comm_set_errhandler, MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

void mpi_finish() { SFFN_MPI(MPI_Finalize); }

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  SFFN_MPI(MPI_Get_library_version, text, &length);
  const std::string version(text);
  return version.substr(0, version.find_first_of(",\n"));
}

std::unique_ptr<Communicator> make_mpi_communicator(size_t piece_bytes) {
  MPI_Comm own = MPI_COMM_NULL;
  SFFN_MPI(MPI_Comm_dup, MPI_COMM_WORLD, &own);
  return std::make_unique<MpiCommunicator>(own, piece_bytes);
}

std::unique_ptr<Communicator> make_mpi_host_communicator() {
  MPI_Comm host = MPI_COMM_NULL;
  int world_rank = 0;
  SFFN_MPI(MPI_Comm_rank, MPI_COMM_WORLD, &world_rank);
  SFFN_MPI(MPI_Comm_split_type, MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &host);
  return std::make_unique<MpiCommunicator>(host, kMpiPieceBytes);
}

}  // namespace sffn
