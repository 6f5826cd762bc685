// How tests choose what a device would choose by its size. Of no effect where ops run on the CPU.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace sffn::test {

struct DeviceCut {
  int64_t cached_bytes = 0, product_bytes = 0;  // of CudaStream; 0: as it is made
  bool warpgroups = true;                       // false: not used, as on a device without them
};
inline DeviceCut& device_cut() {
  static DeviceCut cut;
  return cut;
}

// Until it ends.
class ScopedDeviceCut {
 public:
  explicit ScopedDeviceCut(const DeviceCut& cut) : before_(device_cut()) { device_cut() = cut; }
  ~ScopedDeviceCut() { device_cut() = before_; }
  ScopedDeviceCut(const ScopedDeviceCut&) = delete;

 private:
  DeviceCut before_;
};

// Until it ends, under the executor: products fuse no more than a bias where `plain`, as where cuBLASLt has no
// algorithm.
class ScopedProducts {
 public:
  explicit ScopedProducts(bool plain) { setenv("SFFN_SIMT_PLAIN_PRODUCTS", plain ? "1" : "0", 1); }
  ~ScopedProducts() { unsetenv("SFFN_SIMT_PLAIN_PRODUCTS"); }
  ScopedProducts(const ScopedProducts&) = delete;
};

}  // namespace sffn::test
