#include "plugin/core/forks.h"

#include <pthread.h>

#include <atomic>

namespace ultraep {
namespace {

std::atomic<int> forks{0};

}  // namespace

int ForkCount() {
  static const int watched =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return watched + forks.load(std::memory_order_relaxed);
}

}  // namespace ultraep
