#include "kernels/count_load.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace ultraep {
namespace {

TEST(CountLoad, CountsEveryIdAndSkipsNone) {
  const std::vector<int32_t> ids = {0, 3, 3, -1, 2, 3, -1};
  std::vector<uint32_t> row(4, 99);
  EXPECT_FALSE(CountLoad(ids.data(), ids.size(), 4, row.data()));
  EXPECT_EQ(row, (std::vector<uint32_t>{1, 0, 1, 3}));
}

TEST(CountLoad, ZeroTokensGiveAZeroRow) {
  std::vector<uint32_t> row(3, 99);
  EXPECT_FALSE(CountLoad(nullptr, 0, 3, row.data()));
  EXPECT_EQ(row, (std::vector<uint32_t>{0, 0, 0}));
}

TEST(CountLoad, AnIdOutOfRangeIsNamedAndNothingIsWritten) {
  for (const int32_t bad : {4, -2, INT32_MAX, INT32_MIN}) {
    const std::vector<int32_t> ids = {0, 1, bad, 2, bad};
    std::vector<uint32_t> row(4, 99);
    const IdFault fault = CountLoad(ids.data(), ids.size(), 4, row.data());
    ASSERT_TRUE(fault);
    EXPECT_EQ(fault.index, 2u);
    EXPECT_EQ(fault.value, bad);
    EXPECT_EQ(fault.text(4), "ids[2] is " + std::to_string(bad) + ", must be -1 or 0..3");
    EXPECT_EQ(row, (std::vector<uint32_t>(4, 99)));
  }
}

}  // namespace
}  // namespace ultraep
