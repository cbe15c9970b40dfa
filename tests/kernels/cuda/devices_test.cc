// What the CUDA backend says of devices, and how it takes them into use.
#include <cstring>

#include "kernels/device/kernel_list.h"
#include "protocol/limits.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

void Describe(const Environment& environment, uint32_t device,
              const std::function<void(const DeviceInfo&)>& check) {
  RunInProcess(environment, [&] {
    BackendOptions options;
    options.nvml = ULTRAEP_FAKE_NVML_PATH;
    const LoadedBackend loaded = OpenBackend(options);
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    DeviceInfo info;
    BackendText wrong;
    ASSERT_TRUE(loaded.backend->Describe(device, &info, &wrong)) << wrong.text;
    check(info);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("contexts"), 0u) << "describing makes no context";
  });
}

TEST(Devices, AreDescribed) {
  Describe({{"FAKE_CUDA_ARCH", "100"}, {"FAKE_CUDA_MEMORY_MIB", "64"}}, 2,
           [](const DeviceInfo& info) {
             EXPECT_STREQ(info.name, "Fake GPU 2");
             EXPECT_EQ(info.uuid[0], 'f');
             EXPECT_EQ(info.uuid[15], 2);
             EXPECT_EQ(info.architecture, 100u);
             EXPECT_EQ(info.processors, 16u);
             EXPECT_EQ(info.copy_engines, 3u);
             EXPECT_EQ(info.driver_version, 13000u);
             EXPECT_EQ(info.memory_bytes, 64u << 20);
             EXPECT_EQ(info.free_bytes, 0u) << "no context, no answer";
             EXPECT_EQ(info.granularity, 2u << 20);
             EXPECT_TRUE(info.has_vmm);
             EXPECT_TRUE(info.has_fabric_handles);
             EXPECT_TRUE(info.has_kernels);
           });
}

TEST(Devices, LackWhatTheDriverSaysTheyLack) {
  Describe({{"FAKE_CUDA_LACKS", "vmm"}}, 0, [](const DeviceInfo& info) {
    EXPECT_FALSE(info.has_vmm);
    EXPECT_FALSE(info.has_fabric_handles);
    EXPECT_EQ(info.granularity, 0u);
  });
  Describe({{"FAKE_CUDA_LACKS", "descriptors"}}, 0,
           [](const DeviceInfo& info) { EXPECT_FALSE(info.has_vmm); });
  Describe({{"FAKE_CUDA_LACKS", "fabric"}}, 0, [](const DeviceInfo& info) {
    EXPECT_TRUE(info.has_vmm);
    EXPECT_FALSE(info.has_fabric_handles);
  });
}

// Code for sm_90a runs on compute capability 9.0 and on no other.
TEST(Devices, HaveKernelsOnlyOfTheArchitecturesThatAreBuiltFor) {
  for (const char* other : {"80", "9", "91", "10"})
    Describe({{"FAKE_CUDA_ARCH", other}}, 0,
             [](const DeviceInfo& info) { EXPECT_FALSE(info.has_kernels); });
  RunInProcess({{"FAKE_CUDA_ARCH", "80"}}, [] {
    const LoadedBackend loaded = OpenBackend();
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    EXPECT_NE(std::strstr(loaded.backend->architectures(), "sm_90a"), nullptr);
    EXPECT_NE(std::strstr(loaded.backend->architectures(), "sm_100a"), nullptr);
    BackendText wrong;
    EXPECT_FALSE(loaded.backend->Use(0, &wrong));
    EXPECT_TRUE(Holds(wrong, "the device is sm_80")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, loaded.backend->architectures())) << wrong.text;
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("contexts"), 0u);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("streams"), 0u);
  });
}

TEST(Devices, KernelsFitIntoTheSharedMemoryOfEachArchitecture) {
  for (const char* architecture : {"90", "100", "120"})
    WithBackend({{"FAKE_CUDA_ARCH", architecture}}, 1, [](DeviceBackend& backend) {
      DeviceInfo info;
      BackendText wrong;
      ASSERT_TRUE(backend.Describe(0, &info, &wrong)) << wrong.text;
      EXPECT_EQ(backend.ResidentBlocks(0, Kernel::kStreamBulk, kMaxExperts), info.processors);
    });
}

TEST(Devices, AreRefusedWhenTheDriverFindsNoCodeForThem) {
  RunInProcess({{"FAKE_CUDA_LACKS", "code"}}, [] {
    const LoadedBackend loaded = OpenBackend();
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    BackendText wrong;
    EXPECT_FALSE(loaded.backend->Use(0, &wrong));
    EXPECT_TRUE(Holds(wrong, ULTRAEP_HAS_DEVICE_CODE ? "are built for sm_90a"
                                                     : "holds no device code: build with nvcc"))
        << wrong.text;
  });
}

TEST(Devices, KnowTheirFabricFromNvml) {
  const Environment two = {{"FAKE_NVML_CLIQUES", "0,5,7"}};
  Describe(two, 1, [](const DeviceInfo& info) {
    EXPECT_EQ(info.fabric, FabricState::kReady);
    EXPECT_EQ(info.clique, 5u);
    EXPECT_EQ(std::memcmp(info.cluster, "cluster of fakes", 16), 0);
  });
  Describe(two, 2, [](const DeviceInfo& info) { EXPECT_EQ(info.clique, 7u); });
  Describe(two, 3, [](const DeviceInfo& info) { EXPECT_EQ(info.fabric, FabricState::kNone); });
}

TEST(Devices, HaveNoFabricUnlessItIsReady) {
  const auto with = [](const char* name, const char* value, FabricState expected) {
    Describe({{"FAKE_NVML_CLIQUES", "5"}, {name, value}}, 0, [=](const DeviceInfo& info) {
      EXPECT_EQ(info.fabric, expected) << name << value;
      EXPECT_EQ(info.clique, 0u);
      EXPECT_EQ(info.cluster[0], 0);
    });
  };
  with("FAKE_NVML_STATE", "1", FabricState::kPending);
  with("FAKE_NVML_STATE", "2", FabricState::kPending);
  with("FAKE_NVML_STATE", "0", FabricState::kNone);
  with("FAKE_NVML_STATUS", "999", FabricState::kNone);
  with("FAKE_NVML_CLUSTER", "0", FabricState::kNone);  // NVLink ends at the machine
  with("FAKE_NVML_INIT", "9", FabricState::kNone);
}

TEST(Devices, ReachTheirPeers) {
  WithBackend({{"FAKE_CUDA_NO_PEER", "0-2,1-3"}}, 0, [](DeviceBackend& backend) {
    EXPECT_EQ(backend.device_count(), 8u);
    EXPECT_TRUE(backend.CanReach(0, 0));
    EXPECT_TRUE(backend.CanReach(0, 1));
    EXPECT_FALSE(backend.CanReach(0, 2));
    EXPECT_FALSE(backend.CanReach(3, 1));
    EXPECT_FALSE(backend.CanReach(0, 8));
    EXPECT_FALSE(backend.CanReach(8, 8));
  });
}

TEST(Devices, AreNamedWhenTheyDoNotExistOrAreNotInUse) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    DeviceInfo info;
    BackendText wrong;
    EXPECT_FALSE(backend.Describe(8, &info, &wrong));
    EXPECT_TRUE(Holds(wrong, "no device 8: this process sees 8")) << wrong.text;
    EXPECT_FALSE(backend.Use(8, &wrong));
    void* at = nullptr;
    EXPECT_FALSE(backend.Allocate(1, 64, &at, &wrong));
    EXPECT_TRUE(Holds(wrong, "device 1 is not in use")) << wrong.text;
    EXPECT_FALSE(backend.MakeStream(1, &at, &wrong));
    EXPECT_EQ(backend.ResidentBlocks(1, Kernel{}, 8), 0u);
    EXPECT_FALSE(backend.IsCapturing(1, nullptr));
  });
}

TEST(Devices, AreTakenIntoUseOnce) {
  WithBackend({}, 2, [](DeviceBackend& backend) {
    BackendText wrong;
    const uint64_t modules = FAKE_CUDA(fake_cuda_live)("modules");
    EXPECT_TRUE(backend.Use(0, &wrong)) << wrong.text;
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("contexts"), 2u);
    EXPECT_EQ(FAKE_CUDA(fake_cuda_live)("modules"), modules);
    DeviceInfo info;
    ASSERT_TRUE(backend.Describe(0, &info, &wrong)) << wrong.text;
    EXPECT_EQ(info.free_bytes, info.memory_bytes);
    void* at = nullptr;
    ASSERT_TRUE(backend.Allocate(0, 4096, &at, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.Describe(0, &info, &wrong)) << wrong.text;
    EXPECT_EQ(info.free_bytes, info.memory_bytes - 4096);
    backend.Free(0, at);
  });
}

// The framework's choice of a device is its own.
TEST(Devices, LeaveTheCallersContextAsItWas) {
  WithBackend({}, 2, [](DeviceBackend& backend) {
    EXPECT_EQ(backend.current_device(), -1);
    BackendText wrong;
    CUcontext own = nullptr, now = nullptr;
    ASSERT_EQ(FAKE_CUDA(cuDevicePrimaryCtxRetain)(&own, 1), CUDA_SUCCESS);
    ASSERT_EQ(FAKE_CUDA(cuCtxSetCurrent)(own), CUDA_SUCCESS);
    EXPECT_EQ(backend.current_device(), 1);
    void* at = nullptr;
    ASSERT_TRUE(backend.Allocate(0, 64, &at, &wrong)) << wrong.text;
    EXPECT_FALSE(backend.Allocate(0, uint64_t{1} << 50, &at, &wrong));
    EXPECT_EQ(backend.current_device(), 1);
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    FAKE_CUDA(cuThreadExchangeStreamCaptureMode)(&mode);
    EXPECT_EQ(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    ASSERT_EQ(FAKE_CUDA(cuCtxPopCurrent)(&now), CUDA_SUCCESS);
    EXPECT_EQ(now, own);
    EXPECT_EQ(backend.current_device(), -1);
  });
}

}  // namespace
}  // namespace ultraep
