// Streams, events, launches, copies and captures of the CUDA backend.
#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/driver.h"
#include "kernels/device/kernel_list.h"
#include "protocol/limits.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

std::atomic<bool> go{false};
std::atomic<uint32_t> entered{0};
std::mutex log_mutex;
std::vector<uint64_t> log_of_runs;

std::vector<uint64_t> Runs() {
  std::lock_guard lock(log_mutex);
  return log_of_runs;
}

// Stands in for a kernel: notes the argument's `plan` once the test lets it go.
void Note(uint32_t, const void* argument) {
  ++entered;
  while (!go) std::this_thread::yield();
  std::lock_guard lock(log_mutex);
  log_of_runs.push_back(
      reinterpret_cast<uint64_t>(static_cast<const AwaitArguments*>(argument)->plan));
}
// And this one at once.
void NoteNow(uint32_t, const void* argument) {
  std::lock_guard lock(log_mutex);
  log_of_runs.push_back(
      reinterpret_cast<uint64_t>(static_cast<const OperationArguments*>(argument)->plan));
}

class Streams {
 public:
  explicit Streams(DeviceBackend& backend) : backend_(backend) {
    FAKE_CUDA(fake_cuda_kernel)("ultraep_await", Note);
    FAKE_CUDA(fake_cuda_kernel)("ultraep_arrive", NoteNow);
  }
  void* Make(uint32_t device = 0) {
    void* stream = nullptr;
    EXPECT_TRUE(backend_.MakeStream(device, &stream, &wrong)) << wrong.text;
    return stream;
  }
  void* Event(uint32_t device = 0, bool timed = false) {
    void* event = nullptr;
    EXPECT_TRUE(backend_.MakeEvent(device, timed, &event, &wrong)) << wrong.text;
    return event;
  }
  void Hold(uint64_t mark, void* stream, uint32_t device = 0) {
    const AwaitArguments arguments = {nullptr, reinterpret_cast<DevicePlan*>(mark)};
    EXPECT_TRUE(backend_.Launch(device, Kernel::kAwait, 1, 8, &arguments, stream, &wrong))
        << wrong.text;
  }
  void Run(uint64_t mark, void* stream, uint32_t device = 0) {
    const OperationArguments arguments = {nullptr, reinterpret_cast<DevicePlan*>(mark), 0, 0, 0, 0};
    EXPECT_TRUE(backend_.Launch(device, Kernel::kArrive, 1, 8, &arguments, stream, &wrong))
        << wrong.text;
  }
  void Record(void* event, void* stream, uint32_t device = 0) {
    EXPECT_TRUE(backend_.Record(device, event, stream, &wrong)) << wrong.text;
  }
  void Wait(void* stream, void* event, uint32_t device = 0) {
    EXPECT_TRUE(backend_.WaitEvent(device, stream, event, &wrong)) << wrong.text;
  }
  void Sync(void* stream, uint32_t device = 0) {
    EXPECT_TRUE(backend_.Synchronize(device, stream, &wrong)) << wrong.text;
  }

  BackendText wrong;

 private:
  DeviceBackend& backend_;
};

TEST(Launch, RunsInStreamOrderWithACopyOfTheArgument) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    void* const stream = on.Make();
    for (uint64_t mark = 1; mark <= 20; ++mark) on.Hold(mark, stream);
    EXPECT_TRUE(Runs().empty()) << "launches do not wait";
    go = true;
    on.Sync(stream);
    std::vector<uint64_t> expected;
    for (uint64_t mark = 1; mark <= 20; ++mark) expected.push_back(mark);
    EXPECT_EQ(Runs(), expected);
    backend.FreeStream(0, stream);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("streams"), 1u) << "the backend's own";
  });
}

TEST(Launch, GivesBlocksAndSharedMemoryOfTheList) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    FAKE_CUDA(fake_cuda_kernel)
    ("ultraep_stream_bulk", [](uint32_t blocks, const void*) { entered += blocks; });
    Streams on(backend);
    const StreamArguments arguments = {};
    ASSERT_TRUE(backend.Launch(0, Kernel::kStreamBulk, 7, 8, &arguments, nullptr, &on.wrong))
        << on.wrong.text;
    on.Sync(nullptr);
    EXPECT_EQ(entered, 7u);
    // Every kernel may have what it needs for the largest group, and no more.
    for (uint32_t k = 0; k < uint32_t(Kernel::kKernels); ++k) {
      FAKE_CUDA(fake_cuda_kernel)(kKernelTraits[k].name, [](uint32_t, const void*) {});
      const char nothing[256] = {};
      EXPECT_TRUE(backend.Launch(0, Kernel(k), 1, kMaxExperts, nothing, nullptr, &on.wrong))
          << on.wrong.text;
      if (kKernelTraits[k].shared_per_expert == 0) continue;
      EXPECT_FALSE(backend.Launch(0, Kernel(k), 1, kMaxExperts + 1, nothing, nullptr, &on.wrong));
      EXPECT_TRUE(Holds(on.wrong, kKernelTraits[k].name)) << on.wrong.text;
    }
    on.Sync(nullptr);
    EXPECT_FALSE(backend.Launch(0, Kernel::kArrive, 0, 8, &arguments, nullptr, &on.wrong));
    EXPECT_TRUE(Holds(on.wrong, "CUDA_ERROR_INVALID_VALUE")) << on.wrong.text;
  });
}

TEST(Launch, KnowsHowManyBlocksRunAtOnce) {
  WithBackend({{"FAKE_CUDA_PROCESSORS", "10"}}, 1, [](DeviceBackend& backend) {
    EXPECT_EQ(backend.ResidentBlocks(0, Kernel::kArrive, 8), 80u);      // 2048 threads each
    EXPECT_EQ(backend.ResidentBlocks(0, Kernel::kStreamBulk, 8), 10u);  // by shared memory
    EXPECT_EQ(backend.ResidentBlocks(0, Kernel::kCountIds, 30000), 10u);
  });
}

TEST(Streams, WaitForEventsOfOtherStreamsAndDevices) {
  WithBackend({}, 2, [](DeviceBackend& backend) {
    Streams on(backend);
    void *const first = on.Make(), *const second = on.Make(1), *const third = on.Make();
    void* const event = on.Event();
    on.Hold(1, first);
    on.Record(event, first);
    on.Wait(second, event, 1);
    on.Run(2, second, 1);
    on.Run(3, third);  // waits for nothing
    on.Sync(third);
    while (entered == 0) std::this_thread::yield();
    EXPECT_EQ(Runs(), std::vector<uint64_t>{3});
    go = true;
    on.Sync(second, 1);
    EXPECT_EQ(Runs(), (std::vector<uint64_t>{3, 1, 2}));
    backend.FreeEvent(0, event);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("events"), 0u);
  });
}

// As they may on a device with one connection: what a kernel waits for must not be issued behind
// it.
TEST(Streams, RunInTheOrderOfIssueWhenTheStandInIsToldSo) {
  WithBackend({{"FAKE_CUDA_SERIAL", "1"}}, 2, [](DeviceBackend& backend) {
    Streams on(backend);
    void *const first = on.Make(), *const second = on.Make(), *const other = on.Make(1);
    on.Hold(1, first);
    on.Run(2, second);
    on.Run(3, other, 1);
    on.Sync(other, 1);
    EXPECT_EQ(Runs(), std::vector<uint64_t>{3});
    go = true;
    on.Sync(second);
    EXPECT_EQ(Runs(), (std::vector<uint64_t>{3, 1, 2}));
  });
}

// Copies that somebody waits for must not wait for the framework's streams.
TEST(Streams, AreNotWaitedForByCopies) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    void* at = nullptr;
    ASSERT_TRUE(backend.Allocate(0, 64, &at, &on.wrong)) << on.wrong.text;
    on.Hold(1, on.Make());
    on.Hold(2, nullptr);
    while (entered < 2) std::this_thread::yield();
    char text[8] = {};
    EXPECT_TRUE(backend.Zero(0, at, 64, &on.wrong)) << on.wrong.text;
    EXPECT_TRUE(backend.ToDevice(0, at, "copied", 7, &on.wrong)) << on.wrong.text;
    EXPECT_TRUE(backend.FromDevice(0, text, at, 7, &on.wrong)) << on.wrong.text;
    EXPECT_STREQ(text, "copied");
    EXPECT_TRUE(Runs().empty());
    go = true;
    on.Sync(nullptr);
  });
}

TEST(Streams, CopyPiecesInOrder) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    void* const stream = on.Make();
    void* at = nullptr;
    ASSERT_TRUE(backend.Allocate(0, 64, &at, &on.wrong)) << on.wrong.text;
    auto* const bytes = static_cast<char*>(at);
    on.Hold(1, stream);
    void* const to[] = {bytes, bytes + 2};
    const void* const from[] = {"abcd", "XY"};
    const uint64_t sizes[] = {4, 3};
    ASSERT_TRUE(backend.CopyAsync(0, to, from, sizes, 2, stream, &on.wrong)) << on.wrong.text;
    EXPECT_EQ(FAKE_CUDA(fake_cuda_calls)("cuMemcpyAsync"), 2u);
    go = true;
    on.Sync(stream);
    EXPECT_STREQ(bytes, "abXY");
    FAKE_CUDA(fake_cuda_fail)("cuMemcpyAsync", 2, CUDA_ERROR_INVALID_VALUE);
    EXPECT_FALSE(backend.CopyAsync(0, to, from, sizes, 2, stream, &on.wrong));
    EXPECT_TRUE(Holds(on.wrong, "copy 1 of 2")) << on.wrong.text;
    on.Sync(stream);
  });
}

TEST(Streams, TellTheTimeBetweenEvents) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    void* const stream = on.Make();
    void *const from = on.Event(0, true), *const to = on.Event(0, true);
    on.Record(from, stream);
    on.Hold(1, stream);
    on.Record(to, stream);
    float milliseconds = -1;
    EXPECT_FALSE(backend.Elapsed(0, from, to, &milliseconds, &on.wrong));
    EXPECT_TRUE(Holds(on.wrong, "CUDA_ERROR_NOT_READY")) << on.wrong.text;
    go = true;
    on.Sync(stream);
    EXPECT_TRUE(backend.Elapsed(0, from, to, &milliseconds, &on.wrong)) << on.wrong.text;
    EXPECT_GE(milliseconds, 0);
    void* const untimed = on.Event();
    on.Record(untimed, stream);
    on.Sync(stream);
    EXPECT_FALSE(backend.Elapsed(0, untimed, to, &milliseconds, &on.wrong));
  });
}

// The framework's part of a capture, on device 0.
class Graph {
 public:
  Graph() {
    CUcontext context = nullptr;
    EXPECT_EQ(FAKE_CUDA(cuDevicePrimaryCtxRetain)(&context, 0), CUDA_SUCCESS);
    EXPECT_EQ(FAKE_CUDA(cuCtxSetCurrent)(context), CUDA_SUCCESS);
  }
  void Begin(void* stream) {
    EXPECT_EQ(FAKE_CUDA(cuStreamBeginCapture)(CUstream(stream), CU_STREAM_CAPTURE_MODE_GLOBAL),
              CUDA_SUCCESS);
  }
  CUresult End(void* stream) {
    CUgraph graph = nullptr;
    const CUresult result = FAKE_CUDA(cuStreamEndCapture)(CUstream(stream), &graph);
    if (result != CUDA_SUCCESS) return result;
    EXPECT_EQ(FAKE_CUDA(cuGraphInstantiate)(&graph_, graph, 0), CUDA_SUCCESS);
    EXPECT_EQ(FAKE_CUDA(cuGraphDestroy)(graph), CUDA_SUCCESS);
    return result;
  }
  void Launch(void* stream) {
    EXPECT_EQ(FAKE_CUDA(cuGraphLaunch)(graph_, CUstream(stream)), CUDA_SUCCESS);
  }
  ~Graph() {
    if (graph_) FAKE_CUDA(cuGraphExecDestroy)(graph_);
  }

 private:
  CUgraphExec graph_ = nullptr;
};

TEST(Capture, ReplaysWhatSeveralStreamsWereGiven) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    Graph graph;
    void *const main = on.Make(), *const side = on.Make();
    void *const fork = on.Event(), *const join = on.Event();
    EXPECT_FALSE(backend.IsCapturing(0, main));
    graph.Begin(main);
    EXPECT_TRUE(backend.IsCapturing(0, main));
    EXPECT_FALSE(backend.IsCapturing(0, side));
    on.Run(1, main);
    on.Record(fork, main);
    on.Wait(side, fork);
    EXPECT_TRUE(backend.IsCapturing(0, side));
    on.Run(2, side);
    on.Record(join, side);
    on.Wait(main, join);
    on.Run(3, main);
    ASSERT_EQ(graph.End(main), CUDA_SUCCESS);
    EXPECT_FALSE(backend.IsCapturing(0, main));
    EXPECT_FALSE(backend.IsCapturing(0, side));
    on.Sync(main);
    on.Sync(side);
    EXPECT_TRUE(Runs().empty());
    graph.Launch(main);
    graph.Launch(main);
    on.Sync(main);
    EXPECT_EQ(Runs(), (std::vector<uint64_t>{1, 2, 3, 1, 2, 3}));
  });
}

// The carrier thread sets memory up whenever it must, also while the framework captures.
TEST(Capture, IsNotDisturbedBySetUp) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    Graph graph;
    void* const main = on.Make();
    graph.Begin(main);
    const auto set_up = [&] {
      BackendText wrong;
      void *at = nullptr, *host = nullptr, *mapped = nullptr;
      EXPECT_TRUE(backend.Allocate(0, 64, &at, &wrong)) << wrong.text;
      EXPECT_TRUE(backend.Zero(0, at, 64, &wrong)) << wrong.text;
      EXPECT_TRUE(backend.AllocatePinned(0, 64, &host, &mapped, &wrong)) << wrong.text;
      backend.Free(0, at);
      backend.FreePinned(0, host);
      EXPECT_TRUE(backend.Use(0, &wrong)) << wrong.text;
    };
    set_up();
    std::thread(set_up).join();
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("memory"), 0u);
    on.Run(1, main);
    ASSERT_EQ(graph.End(main), CUDA_SUCCESS);
    graph.Launch(main);
    on.Sync(main);
    EXPECT_EQ(Runs(), std::vector<uint64_t>{1});
  });
}

TEST(Capture, IsSpoiltByWaitingForItsStream) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    Graph graph;
    void* const main = on.Make();
    graph.Begin(main);
    EXPECT_FALSE(backend.Synchronize(0, main, &on.wrong));
    EXPECT_TRUE(Holds(on.wrong, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")) << on.wrong.text;
    EXPECT_TRUE(Holds(on.wrong, "not while a stream is captured")) << on.wrong.text;
    EXPECT_EQ(graph.End(main), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // The stand-in is as strict as the driver with streams that do not come back.
    void *const side = on.Make(), *const fork = on.Event();
    graph.Begin(main);
    on.Record(fork, main);
    on.Wait(side, fork);
    on.Run(2, side);
    EXPECT_EQ(graph.End(main), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    EXPECT_TRUE(Runs().empty());
  });
}

// While a stream that the legacy one waits for is captured, the legacy one can be neither used nor
// asked: the answer must keep a caller from waiting.
TEST(Capture, IsInTheWayOfTheLegacyStream) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    Streams on(backend);
    Graph graph;
    EXPECT_FALSE(backend.IsCapturing(0, nullptr));
    CUstream blocking = nullptr;
    ASSERT_EQ(FAKE_CUDA(cuStreamCreate)(&blocking, CU_STREAM_DEFAULT), CUDA_SUCCESS);
    graph.Begin(blocking);
    EXPECT_TRUE(backend.IsCapturing(0, nullptr));
    EXPECT_EQ(graph.End(blocking), CUDA_SUCCESS);
    EXPECT_FALSE(backend.IsCapturing(0, nullptr));
    void* const free = on.Make();  // never waits for the legacy stream
    graph.Begin(free);
    EXPECT_FALSE(backend.IsCapturing(0, nullptr));
  });
}

}  // namespace
}  // namespace ultraep
