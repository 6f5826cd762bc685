// A state whose every element tells where it belongs: tensor, kind, index and step. Ranks hold arbitrary flat ranges of
// it, so that pieces begin and end inside tensors.
#pragma once
#include "train/checkpoint/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace sffn::test {

using Tensors = std::vector<std::pair<std::string, Shape>>;

inline const Tensors& small_model() {
  static const Tensors tensors{{"wte", {33, 8}},       {"h.0.ln.weight", {31}}, {"h.0.empty", {0, 4}},
                               {"h.0.attn", {127, 3}}, {"h.0.scalar", Shape{}}, {"h.1.ffn.keys", {16, 31}}};
  return tensors;
}

inline float fingerprint(const std::string& name, int64_t index, int64_t step) {
  uint32_t h = 2166136261u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 16777619u;
  h = (h ^ static_cast<uint32_t>(index)) * 16777619u;
  h = (h ^ static_cast<uint32_t>(step)) * 16777619u;
  return std::bit_cast<float>((h & 0x3fffffffu) | 0x00800000u);  // any normal positive number
}

// One rank's share of `prefix` + every tensor: flat elements [part/parts, (part+1)/parts) of their concatenation.
class Share {
 public:
  Share(const Tensors& tensors, const std::string& prefix, int part, int parts) {
    int64_t total = 0, at = 0, used = 0;
    for (const auto& [name, shape] : tensors) total += shape.numel();
    const int64_t first = total * part / parts, last = total * (part + 1) / parts;
    values_.resize(last - first);
    for (const auto& [name, shape] : tensors) {
      const int64_t n = shape.numel();
      const int64_t begin = std::clamp<int64_t>(first - at, 0, n), end = std::clamp<int64_t>(last - at, 0, n);
      pieces_.push_back({prefix + name, shape, begin, end, values_.data() + used});
      used += end - begin;
      at += n;
    }
  }
  Share(const Share&) = delete;

  const std::vector<Piece>& pieces() const { return pieces_; }
  void fill(int64_t step) {
    for (const Piece& p : pieces_) {
      for (int64_t i = p.begin; i < p.end; ++i) static_cast<float*>(p.data)[i - p.begin] = fingerprint(p.name, i, step);
    }
  }
  void poison() { std::fill(values_.begin(), values_.end(), -1.0f); }
  int64_t wrong(int64_t step) const {
    int64_t count = 0;
    for (const Piece& p : pieces_) {
      for (int64_t i = p.begin; i < p.end; ++i)
        count += static_cast<float*>(p.data)[i - p.begin] != fingerprint(p.name, i, step);
    }
    return count;
  }

 private:
  std::vector<float> values_;
  std::vector<Piece> pieces_;
};

// Parameters whole on every rank (as in fp32) or shared out, moments always shared out.
class State {
 public:
  State(Communicator& comm, const Tensors& tensors, bool whole_parameters)
      : parameters_(tensors, "", whole_parameters ? 0 : comm.rank(), whole_parameters ? 1 : comm.size()),
        first_(tensors, "adam.m:", comm.rank(), comm.size()),
        second_(tensors, "adam.v:", comm.rank(), comm.size()) {}

  void fill(int64_t step) { parameters_.fill(step), first_.fill(step), second_.fill(step); }
  void poison() { parameters_.poison(), first_.poison(), second_.poison(); }
  int64_t wrong(int64_t step) const { return parameters_.wrong(step) + first_.wrong(step) + second_.wrong(step); }
  const std::vector<Piece>& parameters() const { return parameters_.pieces(); }
  std::vector<Piece> moments() const {
    std::vector<Piece> all = first_.pieces();
    all.insert(all.end(), second_.pieces().begin(), second_.pieces().end());
    return all;
  }
  CheckpointContents contents() const {
    return {parameters(), moments(), Json::Object{{"name", "test"}, {"lr", 0.5}},
            Json::Object{{"seed", 7}, {"tokens", 4096}}};
  }

 private:
  Share parameters_, first_, second_;
};

}  // namespace sffn::test
