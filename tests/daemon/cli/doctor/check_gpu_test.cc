#include <unistd.h>

#include <map>

#include "tests/daemon/cli/doctor/made_machine.h"

namespace ultraep {
namespace {

class DoctorGpuTest : public DoctorTest {
 protected:
  // Two devices that the driver's libraries and the backend find.
  void PutDevices() {
    Put("/proc/driver/nvidia/version", "580");
    Put("/dev/nvidia0", "");
    Put("/dev/nvidia10", "");
    libraries_ = "libcuda.so.1 libnvidia-ml.so.1";
    cuda_.path = "/opt/lib/libultraep_cuda.so";
    cuda_.architectures = "sm_90a sm_100a";
    DeviceInfo info;
    SetText(info.name, "NVIDIA H100");
    info.architecture = 90;
    info.driver_version = 13000;
    info.has_vmm = info.has_kernels = 1;
    cuda_.devices = {info, info};
  }
};

TEST_F(DoctorGpuTest, WithoutGpusItIsHostMemory) {
  Put("/dev/null", "");
  Put("/dev/nvidiactl", "");
  Expect(CheckGpu, Level::kNote, "host memory only", "");
}

TEST_F(DoctorGpuTest, ADriverWithoutDevices) {
  Put("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159");
  Expect(CheckGpu, Level::kWarn, "no /dev/nvidia0", "nvidia-modprobe");
}

TEST_F(DoctorGpuTest, DevicesWithoutTheDriversLibraries) {
  PutDevices();
  libraries_ = "libnvidia-ml.so.1";
  Expect(CheckGpu, Level::kWarn, "libcuda.so.1: none", "NVIDIA_DRIVER_CAPABILITIES");
  libraries_ = "libcuda.so.1";
  const std::vector<Finding> findings = CheckGpu(examined());
  ASSERT_EQ(findings.size(), 2u) << "the backend does without NVML";
  EXPECT_EQ(findings[0].found, "libnvidia-ml.so.1: none");
  EXPECT_EQ(findings[1].level, Level::kOk) << findings[1].found;
}

TEST_F(DoctorGpuTest, DevicesOfOthers) {
  PutDevices();
  std::filesystem::remove(machine_.root + "/dev/nvidia10");
  std::filesystem::permissions(machine_.root + "/dev/nvidia0", std::filesystem::perms(0600));
  if (geteuid() == 0) {
    ASSERT_EQ(seteuid(65534), 0);
    Expect(CheckGpu, Level::kWarn, "/dev/nvidia0 may not be used", "group");
    ASSERT_EQ(seteuid(0), 0);
  } else {
    std::filesystem::permissions(machine_.root + "/dev/nvidia0", std::filesystem::perms(0400));
    Expect(CheckGpu, Level::kWarn, "/dev/nvidia0 may not be used", "group");
  }
}

TEST_F(DoctorGpuTest, WhatTheBackendFinds) {
  PutDevices();
  Expect(CheckGpu, Level::kOk,
         "2 x NVIDIA H100 (sm_90), no fabric handles (one machine only); driver 13.0, "
         "/opt/lib/libultraep_cuda.so",
         "");
  for (DeviceInfo& info : cuda_.devices) {
    info.has_fabric_handles = 1;
    info.fabric = FabricState::kReady;
    info.clique = 3;
  }
  Expect(CheckGpu, Level::kOk, "2 x NVIDIA H100 (sm_90), fabric handles, NVLink clique 3;", "");
}

TEST_F(DoctorGpuTest, ABackendThatCannotBeLoaded) {
  PutDevices();
  cuda_ = {};
  cuda_.why = "no CUDA backend: libultraep_cuda.so: cannot open shared object file";
  Expect(CheckGpu, Level::kWarn, "cannot open shared object file; slots are in host memory only",
         "ULTRAEP_CUDA_BACKEND");
}

TEST_F(DoctorGpuTest, TheFixFollowsTheReason) {
  PutDevices();
  cuda_ = {};
  for (const auto& [why, fix] : std::map<std::string, std::string>{
           {"libcuda.so.1 is of CUDA 12.8, 13.0 or newer is needed: update the driver, or build "
            "with an older toolkit",
            "update the driver"},
           {"no CUDA driver: libcuda.so.1: cannot open shared object file", "driver's libraries"},
           {"the CUDA backend is of version 1, this is 2: both must come from one release",
            "one release"},
           {"the CUDA driver has not answered for 5 s", "nvidia-smi"}}) {
    cuda_.why = why;
    Expect(CheckGpu, Level::kWarn, why, fix);
    EXPECT_EQ(Only(CheckGpu).fix.find("install libultraep_cuda.so"), std::string::npos) << why;
  }
}

TEST_F(DoctorGpuTest, DevicesThatCannotHoldSlots) {
  PutDevices();
  cuda_.devices.resize(1);
  cuda_.devices[0].has_vmm = 0;
  Expect(CheckGpu, Level::kWarn, "no virtual memory management", "vGPU");
  cuda_.devices[0].has_vmm = 1;
  cuda_.devices[0].has_kernels = 0;
  Expect(CheckGpu, Level::kWarn, "libultraep_cuda.so: sm_90a sm_100a", "memory 0");
  cuda_.devices[0].has_kernels = 1;
  cuda_.devices[0].fabric = FabricState::kPending;
  Expect(CheckGpu, Level::kWarn, "fabric is not ready", "nvidia-fabricmanager");
  cuda_.devices.clear();
  Expect(CheckGpu, Level::kWarn, "shows no device", "CUDA_VISIBLE_DEVICES");
  cuda_.wrong = {"device 0: CUDA_ERROR_UNKNOWN"};
  Expect(CheckGpu, Level::kWarn, "CUDA_ERROR_UNKNOWN", "nvidia-smi");
}

TEST_F(DoctorGpuTest, TheDaemonMaySeeLess) {
  PutDevices();
  Answer();
  EXPECT_EQ(CheckGpu(examined()).size(), 1u);
  answer_.daemon.cuda = CudaUse::kMissing;
  SetText(answer_.daemon.cuda_found, "libcuda.so.1: none");
  const std::vector<Finding> findings = CheckGpu(examined());
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[1].level, Level::kNote);
  EXPECT_NE(findings[1].found.find("the daemon has no GPU: libcuda.so.1: none"), std::string::npos);
}

TEST_F(DoctorGpuTest, NcclIsNoMust) {
  Expect(CheckNccl, Level::kNote, "none", "");
  libraries_ = "libnccl.so.2";
  Expect(CheckNccl, Level::kOk, "libnccl.so.2", "");
  cuda_.nccl_version = 22809;
  Expect(CheckNccl, Level::kOk, "libnccl.so.2, version 2.28.9", "");
}

}  // namespace
}  // namespace ultraep
