// Every function of the driver fails in turn, at each of its calls in a long use of the backend:
// the error is told, and what was made before is given back.
#include <set>
#include <string>
#include <vector>

#include "kernels/cuda/driver.h"
#include "kernels/device/kernel_list.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

constexpr uint64_t kBytes = 2 << 20;

// One long use; what it has made it frees at the end.
class LongUse {
 public:
  explicit LongUse(DeviceBackend& backend) : backend_(backend) {}

  // False: something failed, and `wrong` says what.
  bool Run() { return Shared() && Private() && InStreams(); }
  ~LongUse() {
    if (at_) backend_.Unmap(at_, kBytes);
    if (again_) backend_.Unmap(again_, kBytes);
    for (const uint64_t handle : {handle_, imported_, by_fabric_})
      if (handle) backend_.Release(handle);
    if (fd_ >= 0) close(fd_);
    if (memory_) backend_.Free(0, memory_);
    if (pinned_) backend_.FreePinned(0, pinned_);
    for (void* const event : {from_, to_})
      if (event) backend_.FreeEvent(0, event);
    if (stream_) backend_.FreeStream(0, stream_);
  }

  BackendText wrong;

 private:
  bool Shared() {
    FabricHandle name;
    return backend_.Create(0, kBytes, true, &handle_, &wrong) &&
           backend_.ExportDescriptor(handle_, &fd_, &wrong) &&
           backend_.ImportDescriptor(fd_, &imported_, &wrong) &&
           backend_.ExportFabric(handle_, &name, &wrong) &&
           backend_.ImportFabric(name, &by_fabric_, &wrong) &&
           backend_.Map(0, handle_, kBytes, &at_, &wrong) &&
           backend_.Map(0, imported_, kBytes, &again_, &wrong);
  }
  bool Private() {
    void* mapped = nullptr;
    static char bytes[64];  // a copy that is not waited for comes late
    return backend_.Allocate(0, 64, &memory_, &wrong) &&
           backend_.AllocatePinned(0, 64, &pinned_, &mapped, &wrong) &&
           backend_.ToDevice(0, memory_, bytes, 64, &wrong) &&
           backend_.Zero(0, memory_, 64, &wrong) &&
           backend_.FromDevice(0, bytes, memory_, 64, &wrong);
  }
  bool InStreams() {
    float milliseconds = 0;
    const OperationArguments arguments = {};
    const uint64_t bytes = 8;
    void* const to = memory_;
    const void* const from = pinned_;
    return backend_.MakeStream(0, &stream_, &wrong) &&
           backend_.MakeEvent(0, true, &from_, &wrong) &&
           backend_.MakeEvent(0, true, &to_, &wrong) &&
           backend_.Record(0, from_, stream_, &wrong) &&
           backend_.Launch(0, Kernel::kArrive, 1, 8, &arguments, stream_, &wrong) &&
           backend_.CopyAsync(0, &to, &from, &bytes, 1, stream_, &wrong) &&
           backend_.WaitEvent(0, stream_, from_, &wrong) &&
           backend_.Record(0, to_, stream_, &wrong) && backend_.Synchronize(0, stream_, &wrong) &&
           backend_.Elapsed(0, from_, to_, &milliseconds, &wrong);
  }

  DeviceBackend& backend_;
  uint64_t handle_ = 0, imported_ = 0, by_fabric_ = 0;
  int fd_ = -1;
  void *at_ = nullptr, *again_ = nullptr, *memory_ = nullptr, *pinned_ = nullptr;
  void *stream_ = nullptr, *from_ = nullptr, *to_ = nullptr;
};

// Fail without a word: they give back, or nobody is told.
const std::set<std::string> kSilent = {"cuMemUnmap",
                                       "cuMemAddressFree",
                                       "cuMemRelease",
                                       "cuMemFree",
                                       "cuMemFreeHost",
                                       "cuStreamDestroy",
                                       "cuEventDestroy",
                                       "cuModuleUnload",
                                       "cuDevicePrimaryCtxRelease",
                                       "cuCtxPopCurrent",
                                       "cuGetErrorName",
                                       "cuGetErrorString",
                                       "cuMemGetInfo",
                                       "cuCtxGetCurrent",
                                       "cuCtxGetDevice",
                                       "cuStreamIsCapturing",
                                       "cuDeviceCanAccessPeer",
                                       "cuThreadExchangeStreamCaptureMode",
                                       "cuOccupancyMaxActiveBlocksPerMultiprocessor"};

uint64_t Calls(const std::string& function) { return FAKE_CUDA(fake_cuda_calls)(function.c_str()); }

void ExpectNothingLeft(bool used, const std::string& what) {
  const std::vector<std::pair<const char*, uint64_t>> expected = {
      {"handles", 0}, {"mappings", 0}, {"reservations", 0}, {"memory", 0},
      {"pinned", 0},  {"events", 0},   {"streams", used},   {"contexts", used}};
  for (const auto& [kind, count] : expected)
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)(kind), count) << kind << " after " << what;
  if (!used) {
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("modules"), 0u) << "after " << what;
  }
}

// One use with the nth call of the function failing. Exits with 3 when there was no nth call.
void UseWithFailure(const std::string& function, uint32_t nth) {
  const std::string what = function + " " + std::to_string(nth);
  FAKE_CUDA(fake_cuda_fail)(function.c_str(), nth, CUDA_ERROR_NOT_SUPPORTED);
  FAKE_CUDA(fake_cuda_kernel)("ultraep_arrive", [](uint32_t, const void*) {});
  const LoadedBackend loaded = OpenBackend();
  std::string told = loaded.why;
  if (loaded.backend) {
    BackendText wrong;
    const bool used = loaded.backend->Use(0, &wrong);
    told = wrong.text;
    if (used) {
      LongUse use(*loaded.backend);
      const bool well = use.Run();
      if (Calls(function) < nth) _exit(3);
      told = use.wrong.text;
      EXPECT_EQ(well, told.empty()) << what << ": " << told;
    }
    CUcontext left = nullptr;
    FAKE_CUDA(cuCtxGetCurrent)(&left);
    EXPECT_EQ(left, nullptr) << "after " << what;
    ExpectNothingLeft(used, what);
  }
  if (Calls(function) < nth) _exit(3);
  if (function == "cuGetProcAddress")
    EXPECT_NE(told.find("lacks cu"), std::string::npos) << what << ": " << told;
  else if (function == "cuDriverGetVersion")
    EXPECT_NE(told.find("its version"), std::string::npos) << what << ": " << told;
  else
    EXPECT_NE(told.find("CUDA_ERROR_NOT_SUPPORTED"), std::string::npos) << what << ": " << told;
}

TEST(Failures, OfEveryCallAreToldAndLeaveNothing) {
  std::vector<std::string> functions = {"cuGetProcAddress"};
#define ULTRAEP_NAMED(name, version) functions.push_back(#name);
  ULTRAEP_DRIVER_FUNCTIONS(ULTRAEP_NAMED)
#undef ULTRAEP_NAMED
  for (const std::string& function : functions) {
    if (kSilent.count(function) != 0) continue;
    for (uint32_t nth = 1; nth <= 1000; ++nth) {
      const int status =
          StatusOfProcess({{"FAKE_CUDA_DEVICES", "1"}}, [&] { UseWithFailure(function, nth); });
      ASSERT_TRUE(WIFEXITED(status)) << function << " " << nth;
      if (WEXITSTATUS(status) == 3) {
        EXPECT_GT(nth, 1u) << function << " is never called";
        break;
      }
      ASSERT_EQ(WEXITSTATUS(status), 0) << function << " " << nth;
    }
  }
}

// Giving back cannot fail for the caller, and one failure does not lead to a wrong free.
TEST(Failures, OfGivingBackHurtNobody) {
  for (const std::string& function : kSilent) {
    RunInProcess({}, [&] {
      const LoadedBackend loaded = OpenBackend();
      ASSERT_NE(loaded.backend, nullptr) << loaded.why;
      BackendText wrong;
      ASSERT_TRUE(loaded.backend->Use(0, &wrong)) << wrong.text;
      FAKE_CUDA(fake_cuda_kernel)("ultraep_arrive", [](uint32_t, const void*) {});
      FAKE_CUDA(fake_cuda_fail)(function.c_str(), 1, CUDA_ERROR_NOT_SUPPORTED);
      LongUse use(*loaded.backend);
      EXPECT_TRUE(use.Run()) << function << ": " << use.wrong.text;
    });
  }
  // Addresses whose memory could not be unmapped are not given back.
  WithBackend({}, 1, [](DeviceBackend& backend) {
    BackendText wrong;
    uint64_t handle = 0;
    void* at = nullptr;
    ASSERT_TRUE(backend.Create(0, kBytes, false, &handle, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.Map(0, handle, kBytes, &at, &wrong)) << wrong.text;
    FAKE_CUDA(fake_cuda_fail)("cuMemUnmap", 1, CUDA_ERROR_NOT_SUPPORTED);
    backend.Unmap(at, kBytes);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_calls)("cuMemAddressFree"), 0u);
    backend.Unmap(at, kBytes);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("reservations"), 0u);
  });
}

}  // namespace
}  // namespace ultraep
