// Mutated .npy files: the parser must answer, stay inside the bytes (the sanitizers watch), and
// what it accepts must be consistent.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "protocol/npy.h"
#include "tests/support/random.h"

namespace ultraep::test {
namespace {

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const char* type : {"<u4", "<i4", "<i8", ">u4", "|u1"})
    for (const std::vector<uint64_t>& shape : {std::vector<uint64_t>{2, 3}, {1, 2, 2}, {4}, {0, 4}})
      seeds.push_back(NpyHeader(shape, type) + std::string(24, '\x01'));
  return seeds;
}

void Mutate(std::string* bytes, Random* random) {
  static const std::string kTokens[] = {
      "'",          "(",  ")",  ",",  "{", "}", "True", "descr", "shape", "18446744073709551615",
      "4294967296", "-1", "\n", "<u4"};
  if (bytes->empty()) *bytes = "x";
  const size_t at = random->Below(bytes->size());
  switch (random->Below(6)) {
    case 0:
      (*bytes)[at] = char(random->Next());
      break;
    case 1:
      (*bytes)[at] = char((*bytes)[at] ^ (1 << random->Below(8)));
      break;
    case 2:
      bytes->resize(at);
      break;
    case 3:
      bytes->erase(at, 1 + random->Below(8));
      break;
    case 4:
      bytes->insert(at, kTokens[random->Below(std::size(kTokens))]);
      break;
    default:
      bytes->append(random->Below(16), char(random->Next()));
  }
}

void ExpectConsistent(const std::string& bytes) {
  // A heap copy of exactly this size, so that a sanitizer sees every byte read beyond it.
  const std::unique_ptr<char[]> copy(new char[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), copy.get());
  NpyArray array;
  if (!ParseNpy({copy.get(), bytes.size()}, &array).empty()) return;
  uint64_t cells = 1;
  for (const uint64_t dimension : array.shape) cells *= dimension;
  ASSERT_EQ(cells, array.cells);
  const auto* const end = reinterpret_cast<const uint8_t*>(copy.get()) + bytes.size();
  ASSERT_EQ(array.data + cells * array.cell_bytes(), end);
  int64_t sum = 0;
  for (uint64_t i = 0; i < cells; ++i) sum ^= array.at(i);
  ASSERT_TRUE(array.type != NpyType::kUint32 || sum >= 0);
}

TEST(NpyFuzz, NoInputIsReadBeyondItsEndOrAcceptedInconsistently) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::seconds(std::getenv("ULTRAEP_NIGHTLY") ? 60 : 2);
  const std::vector<std::string> seeds = Seeds();
  for (const std::string& seed : seeds) ExpectConsistent(seed);
  for (uint64_t round = 1; Clock::now() < end; ++round) {
    Random random(round);
    std::string bytes = seeds[random.Below(seeds.size())];
    for (uint64_t k = 0; k <= random.Below(6); ++k) Mutate(&bytes, &random);
    SCOPED_TRACE(round);
    ExpectConsistent(bytes);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace ultraep::test
