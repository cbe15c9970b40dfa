// A rank whose process has no memory left for a while: allocations of the link's thread fail.
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tests/support/attach_fixture.h"

namespace {

std::atomic<bool> short_of_memory{false};
std::atomic<int> failed_allocations{0};

bool OnLinkThread() {
  char name[16] = {};
  pthread_getname_np(pthread_self(), name, sizeof name);
  return std::strcmp(name, "ultraep-link") == 0;
}

}  // namespace

// Replaced for the whole process, the library under test too. Not inlined: the compiler would take
// new and free for a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes) {
  if (short_of_memory.load() && OnLinkThread()) {
    failed_allocations.fetch_add(1);
    throw std::bad_alloc();
  }
  if (void* at = std::malloc(bytes ? bytes : 1)) return at;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, size_t) noexcept { std::free(at); }

namespace ultraep {
namespace {

using namespace test;

using OutOfMemoryTest = AttachTest;

TEST_F(OutOfMemoryTest, TheProcessLivesItsStepsGoOnAndTheGroupPlansAgainLater) {
  TestDaemon daemon(socket_);
  auto* a = Attach();
  auto config = Config(0, 1);
  config.experts = 4, config.shard_count = 0;  // as Step() submits
  ASSERT_EQ(ultraep_join(a, &config, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(Step(a, 0), ULTRAEP_PLAN);
  short_of_memory = true;
  for (int i = 0; i < 1000 && failed_allocations < 3; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GE(failed_allocations, 3) << "it goes on trying";
  EXPECT_EQ(Step(a, 1), ULTRAEP_DECLINED);
  short_of_memory = false;
  EXPECT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  EXPECT_EQ(Step(a, 2), ULTRAEP_PLAN);
  short_of_memory = true;
  EXPECT_EQ(ultraep_leave(a), ULTRAEP_OK) << "also while it lasts";
  short_of_memory = false;
}

}  // namespace
}  // namespace ultraep
