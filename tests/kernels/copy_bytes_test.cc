#include "kernels/copy_bytes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace ultraep {
namespace {

constexpr unsigned char kUntouched = 0xA5;

// Copies `bytes` from one offset to another inside guarded buffers and looks at every byte.
void CheckCopy(size_t bytes, size_t to_offset, size_t from_offset) {
  constexpr size_t kGuard = 192;
  std::vector<unsigned char> from(bytes + from_offset + kGuard);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 131 + (i >> 8));
  std::vector<unsigned char> to(kGuard + to_offset + bytes + kGuard, kUntouched);
  CopyNonTemporal(to.data() + kGuard + to_offset, from.data() + from_offset, bytes);
  for (size_t i = 0; i < to.size(); ++i) {
    const bool inside = i >= kGuard + to_offset && i < kGuard + to_offset + bytes;
    const unsigned char expected = inside ? from[i - kGuard - to_offset + from_offset] : kUntouched;
    ASSERT_EQ(to[i], expected) << "bytes " << bytes << " to " << to_offset << " from "
                               << from_offset << " at " << i;
  }
}

TEST(CopyNonTemporal, CopiesEveryByteAndNoOtherForAllAlignments) {
  const std::vector<size_t> sizes = {0, 1, 63, 64, 255, 256, 257, 319, 320, 321, 383, 1000, 4096};
  for (const size_t bytes : sizes) {
    for (size_t to = 0; to < 65; ++to) {
      for (const size_t from : {size_t{0}, size_t{1}, size_t{8}, size_t{31}, to % 64})
        CheckCopy(bytes, to, from);
    }
  }
}

TEST(CopyNonTemporal, CopiesSeveralMegabytes) { CheckCopy((4u << 20) + 77, 5, 11); }

TEST(CopyNonTemporal, FillsSeveralPlacesFromOne) {
  for (const size_t bytes : {size_t{0}, size_t{100}, size_t{8192}, size_t{50'001}})
    for (const size_t count : {size_t{1}, size_t{2}, size_t{7}}) {
      std::vector<unsigned char> from(bytes);
      for (size_t i = 0; i < bytes; ++i) from[i] = static_cast<unsigned char>(i * 37 + (i >> 8));
      std::vector<std::vector<unsigned char>> places(count, std::vector<unsigned char>(bytes));
      std::vector<void*> to;
      for (auto& place : places) to.push_back(place.data());
      CopyNonTemporal(to.data(), count, from.data(), bytes);
      for (auto& place : places) EXPECT_TRUE(place == from) << bytes << " to " << count;
    }
}

TEST(CopyNonTemporal, StaysInsideMemoryThatEndsAtTheBuffer) {
  // Exact allocations: AddressSanitizer sees a read or a store beyond either end.
  for (const size_t bytes : {size_t{1}, size_t{300}, size_t{1021}}) {
    const std::vector<unsigned char> from(bytes, 7);
    std::vector<unsigned char> to(bytes);
    CopyNonTemporal(to.data(), from.data(), bytes);
    EXPECT_EQ(to, from);
  }
}

}  // namespace
}  // namespace ultraep
