// The exchange of load rows by the communicator of the framework.
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/device/kernel_list.h"
#include "tests/support/fake_cuda/backend_process.h"
#include "tests/support/fake_cuda/fake_nccl.h"

namespace ultraep {
namespace {

constexpr uint32_t kRanks = 4, kExperts = 6;

void WithNccl(const Environment& environment, const char* path,
              const std::function<void(DeviceBackend&)>& test) {
  RunInProcess(environment, [&] {
    BackendOptions options;
    options.nccl = path;
    const LoadedBackend loaded = OpenBackend(options);
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    BackendText wrong;
    for (uint32_t device = 0; device < kRanks; ++device)
      ASSERT_TRUE(loaded.backend->Use(device, &wrong)) << wrong.text;
    test(*loaded.backend);
  });
}

template <typename Function>
Function* FakeNccl(const char* name) {
  return reinterpret_cast<Function*>(dlsym(dlopen(ULTRAEP_FAKE_NCCL_PATH, RTLD_NOW), name));
}

std::atomic<bool> go{false};

// The rows are written on the streams only after all gathers have been called.
TEST(Nccl, GathersRowsInStreamOrder) {
  WithNccl({}, ULTRAEP_FAKE_NCCL_PATH, [](DeviceBackend& backend) {
    FAKE_CUDA(fake_cuda_kernel)
    ("ultraep_await", [](uint32_t rank, const void* argument) {
      while (!go) std::this_thread::yield();
      auto* const row =
          reinterpret_cast<uint32_t*>(static_cast<const AwaitArguments*>(argument)->plan);
      for (uint32_t e = 0; e < kExperts; ++e) row[e] = rank * 100 + e;
    });
    void* communicators[kRanks];
    FakeNccl<decltype(fake_nccl_make)>("fake_nccl_make")(communicators, kRanks);
    BackendText wrong;
    void *streams[kRanks], *rows[kRanks], *gathered[kRanks];
    for (uint32_t r = 0; r < kRanks; ++r) {
      ASSERT_TRUE(backend.MakeStream(r, &streams[r], &wrong)) << wrong.text;
      ASSERT_TRUE(backend.Allocate(r, kExperts * 4, &rows[r], &wrong)) << wrong.text;
      ASSERT_TRUE(backend.Allocate(r, kRanks * kExperts * 4, &gathered[r], &wrong)) << wrong.text;
      const AwaitArguments arguments = {nullptr, static_cast<DevicePlan*>(rows[r])};
      ASSERT_TRUE(
          backend.Launch(r, Kernel::kAwait, r + 1, kExperts, &arguments, streams[r], &wrong))
          << wrong.text;
      ASSERT_TRUE(backend.GatherRows(r, communicators[r], static_cast<uint32_t*>(rows[r]),
                                     static_cast<uint32_t*>(gathered[r]), kExperts, streams[r],
                                     &wrong))
          << wrong.text;
    }
    go = true;
    for (uint32_t r = 0; r < kRanks; ++r) {
      ASSERT_TRUE(backend.Synchronize(r, streams[r], &wrong)) << wrong.text;
      std::vector<uint32_t> seen(kRanks * kExperts);
      ASSERT_TRUE(backend.FromDevice(r, seen.data(), gathered[r], seen.size() * 4, &wrong))
          << wrong.text;
      for (uint32_t from = 0; from < kRanks; ++from)
        for (uint32_t e = 0; e < kExperts; ++e)
          EXPECT_EQ(seen[from * kExperts + e], (from + 1) * 100 + e) << r << " " << from;
    }
  });
}

TEST(Nccl, SaysItsVersionOrWhyThereIsNone) {
  WithNccl({}, ULTRAEP_FAKE_NCCL_PATH, [](DeviceBackend& backend) {
    BackendText wrong;
    EXPECT_EQ(backend.NcclVersion(&wrong), 22809u) << wrong.text;
  });
  RunInProcess({{"ULTRAEP_CUDA_BACKEND", ULTRAEP_CUDA_BACKEND_PATH},
                {"ULTRAEP_CUDA_DRIVER", ULTRAEP_FAKE_CUDA_PATH},
                {"ULTRAEP_NCCL", ULTRAEP_FAKE_NCCL_PATH}},
               [] {
                 const LoadedBackend loaded = LoadBackendOfEnvironment("");
                 ASSERT_NE(loaded.backend, nullptr) << loaded.why;
                 EXPECT_EQ(loaded.backend->NcclVersion(nullptr), 22809u);
               });
  WithNccl({}, "/no/libnccl.so.2", [](DeviceBackend& backend) {
    BackendText wrong;
    EXPECT_EQ(backend.NcclVersion(&wrong), 0u);
    EXPECT_TRUE(Holds(wrong, "no NCCL")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, "/no/libnccl.so.2")) << wrong.text;
    EXPECT_FALSE(backend.GatherRows(0, nullptr, nullptr, nullptr, 1, nullptr, &wrong));
  });
  WithNccl({}, ULTRAEP_FAKE_NVML_PATH, [](DeviceBackend& backend) {
    BackendText wrong;
    EXPECT_EQ(backend.NcclVersion(&wrong), 0u);
    EXPECT_TRUE(Holds(wrong, "has no ncclGetVersion")) << wrong.text;
  });
}

TEST(Nccl, SaysWhyAGatherFails) {
  WithNccl({}, ULTRAEP_FAKE_NCCL_PATH, [](DeviceBackend& backend) {
    BackendText wrong;
    uint32_t row = 0, rows = 0;
    EXPECT_FALSE(backend.GatherRows(0, nullptr, &row, &rows, 1, nullptr, &wrong));
    EXPECT_TRUE(Holds(wrong, "ncclAllGather of 1 counts: invalid argument (4)")) << wrong.text;
    void* communicator = nullptr;
    FakeNccl<decltype(fake_nccl_make)>("fake_nccl_make")(&communicator, 1);
    auto* const fail = FakeNccl<decltype(fake_nccl_fail)>("fake_nccl_fail");
    fail(communicator, 1);
    EXPECT_FALSE(backend.GatherRows(0, communicator, &row, &rows, 1, nullptr, &wrong));
    fail(communicator, 7);  // in progress: of a communicator that does not block
    EXPECT_TRUE(backend.GatherRows(0, communicator, &row, &rows, 1, nullptr, &wrong));
  });
}

}  // namespace
}  // namespace ultraep
