#include "tests/support/fake_cuda/fake_nccl.h"

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tests/support/fake_cuda/fake_cuda.h"

namespace {

// One gather after the other: all ranks put their rows in, then all take them out.
struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  uint32_t ranks = 0;
  uint32_t here = 0, done = 0;  // of the present gather
  uint64_t round = 0;
  std::vector<unsigned char> rows;
};
struct Gather {
  Group* group;
  uint32_t rank;
  const void* send;
  void* receive;
  size_t bytes;
};
struct Communicator {
  std::shared_ptr<Group> group;
  uint32_t rank = 0;
  int fails = 0;
  std::vector<std::unique_ptr<Gather>> gathers;  // a captured one runs many times
};

constexpr int kInvalidArgument = 4, kUnhandledCudaError = 1, kUint32 = 3;

// In the stream's thread; blocks it until all ranks' streams are here, as the real one does.
void Run(void* argument) {
  const auto* const gather = static_cast<const Gather*>(argument);
  Group& group = *gather->group;
  std::unique_lock lock(group.mutex);
  group.changed.wait(lock, [&] { return group.done == 0; });  // the gather before is over
  const uint64_t round = group.round;
  group.rows.resize(gather->bytes * group.ranks);
  std::memcpy(group.rows.data() + gather->bytes * gather->rank, gather->send, gather->bytes);
  if (++group.here == group.ranks) ++group.round;
  group.changed.notify_all();
  group.changed.wait(lock, [&] { return group.round != round; });
  std::memcpy(gather->receive, group.rows.data(), group.rows.size());
  if (++group.done == group.ranks) group.here = group.done = 0;
  group.changed.notify_all();
}

}  // namespace

void fake_nccl_make(void** communicators, uint32_t ranks) {
  const auto group = std::make_shared<Group>();
  group->ranks = ranks;
  static auto* const living = new std::vector<std::unique_ptr<Communicator>>;
  for (uint32_t r = 0; r < ranks; ++r) {
    living->emplace_back(new Communicator{group, r, 0, {}});
    communicators[r] = living->back().get();
  }
}

void fake_nccl_fail(void* communicator, int result) {
  static_cast<Communicator*>(communicator)->fails = result;
}

extern "C" {

int ncclGetVersion(int* version) { return *version = 22809, 0; }

const char* ncclGetErrorString(int result) {
  return result == kInvalidArgument ? "invalid argument" : "unhandled cuda error";
}

int ncclAllGather(const void* send, void* receive, size_t count, int type, void* communicator,
                  CUstream stream) {
  auto* const of = static_cast<Communicator*>(communicator);
  if (!of || type != kUint32) return kInvalidArgument;
  if (of->fails != 0) return std::exchange(of->fails, 0);
  of->gathers.push_back(
      std::make_unique<Gather>(Gather{of->group.get(), of->rank, send, receive, count * 4}));
  return fake_cuda_enqueue(stream, &Run, of->gathers.back().get()) == CUDA_SUCCESS
             ? 0
             : kUnhandledCudaError;
}

}  // extern "C"
