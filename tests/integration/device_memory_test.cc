// Slots on GPUs that the daemon owns, with the CUDA backend on the driver that stands in for the
// real one: made on each rank's GPU, passed to all, given up at the end, or refused.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "tests/support/device_members.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

using namespace test;

// Each test is a process of its own: the daemon, its backend and members that speak the protocol.
class DeviceMemoryTest : public DeviceMembersTest {
 protected:
  static void Open(TestDaemon* daemon) {
    CudaOptions options;
    options.backend = ULTRAEP_CUDA_BACKEND_PATH;
    options.driver = ULTRAEP_FAKE_CUDA_PATH;
    options.nvml = "/no/nvml";
    daemon->devices.Open(options);
    ASSERT_TRUE(Settles([&] { return daemon->devices.state().use != CudaUse::kOpening; }));
  }
  // Rank r is on GPU 5 - r.
  static ultraep::Join OnGpu(uint32_t rank, uint32_t ranks) {
    ultraep::Join join = Request(rank, ranks, MemoryKind::kCudaDaemon);
    BackendText wrong;
    DeviceInfo info;
    EXPECT_TRUE(OpenBackend().backend->Describe(5 - rank, &info, &wrong)) << wrong.text;
    std::memcpy(join.device.name, info.name, sizeof info.name);
    std::memcpy(join.device.uuid, info.uuid, sizeof info.uuid);
    return join;
  }
  std::vector<Descriptor> EnterAll(uint32_t ranks) {
    std::vector<Descriptor> all;
    for (uint32_t r = 0; r < ranks; ++r) all.push_back(Enter(OnGpu(r, ranks)));
    return all;
  }
  static uint64_t Live(const char* kind) { return FAKE_CUDA(fake_cuda_live)(kind); }
};

constexpr uint32_t kSlots = 3;  // the first one's, among the descriptors of a Joined

TEST_F(DeviceMemoryTest, AllRanksMapTheMemoryOfEachOfThem) {
  RunInProcess({}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    EXPECT_EQ(daemon.devices.state().found, "8 CUDA devices, driver 13.0");
    std::vector<Descriptor> members = EnterAll(3);
    std::vector<std::vector<Descriptor>> got;
    Joined joined;
    for (const Descriptor& member : members) {
      got.push_back(AwaitJoined(member, &joined));
      ASSERT_EQ(got.back().size(), 6u);
    }
    EXPECT_EQ(Live("contexts"), 0u) << "the daemon needs none";
    EXPECT_EQ(Live("mappings"), 0u);
    // What one rank stores in another's slots is what that one finds there.
    const uint64_t bytes = GroupLayout(OnGpu(0, 3).config).device_bytes();
    DeviceBackend& backend = *OpenBackend().backend;
    const auto map = [&](uint32_t rank, uint32_t of) {
      BackendText wrong;
      uint64_t handle = 0;
      void* at = nullptr;
      EXPECT_TRUE(backend.Use(5 - rank, &wrong)) << wrong.text;
      EXPECT_TRUE(backend.ImportDescriptor(got[rank][kSlots + of].get(), &handle, &wrong))
          << wrong.text;
      EXPECT_TRUE(backend.Map(5 - rank, handle, bytes, &at, &wrong)) << wrong.text;
      backend.Release(handle);
      return static_cast<unsigned char*>(at);
    };
    for (uint32_t of = 0; of < 3; ++of) {
      map(0, of)[bytes - 1] = static_cast<unsigned char>(10 + of);
      EXPECT_EQ(map(2, of)[bytes - 1], 10 + of);
    }
  });
}

TEST_F(DeviceMemoryTest, EachGenerationHasNewMemoryAndTheLastOneGivesItUp) {
  RunInProcess({}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    std::vector<Descriptor> members = EnterAll(2);
    Joined joined;
    for (int generation = 0; generation < 5; ++generation) {
      for (const Descriptor& member : members) ASSERT_EQ(AwaitJoined(member, &joined).size(), 5u);
      EXPECT_EQ(FAKE_CUDA(fake_cuda_calls)("cuMemCreate"), 2u * (uint64_t(generation) + 1));
      EXPECT_EQ(Live("handles"), 2u);
      ASSERT_TRUE(SendMessage(members[1].get(), Leave()));
      Over over;
      ASSERT_TRUE(Await(members[0], &over));
      for (uint32_t r = 0; r < 2; ++r) ASSERT_TRUE(SendMessage(members[r].get(), OnGpu(r, 2)));
    }
    members.clear();
    EXPECT_TRUE(Settles([&] { return Live("handles") == 0; })) << Live("handles");
  });
}

TEST_F(DeviceMemoryTest, ADaemonThatEndsGivesUpItsHoldAndTheNextOneMakesItsOwn) {
  RunInProcess({}, [this] {
    std::vector<Descriptor> members, slots;
    Joined joined;
    {
      TestDaemon daemon(socket_);
      Open(&daemon);
      members = EnterAll(1);
      slots = AwaitJoined(members[0], &joined);
      ASSERT_EQ(slots.size(), 4u);
    }
    EXPECT_EQ(Live("handles"), 0u);
    BackendText wrong;
    uint64_t handle = 0;
    EXPECT_TRUE(OpenBackend().backend->ImportDescriptor(slots[kSlots].get(), &handle, &wrong))
        << "a rank's descriptor is its own: " << wrong.text;
    TestDaemon next(socket_);
    Open(&next);
    members = EnterAll(1);
    EXPECT_EQ(AwaitJoined(members[0], &joined).size(), 4u);
  });
}

TEST_F(DeviceMemoryTest, AFullGpuIsRefusedByRankAndNameAndNothingStaysBehind) {
  RunInProcess({{"FAKE_CUDA_MEMORY_MIB", "8"}}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    BackendText wrong;
    uint64_t full = 0;
    DeviceBackend& backend = *OpenBackend().backend;
    ASSERT_TRUE(backend.Create(4, 8 << 20, false, &full, &wrong)) << wrong.text;  // rank 1's
    std::vector<Descriptor> members = EnterAll(2);
    for (const Descriptor& member : members) {
      Refused refused;
      ASSERT_TRUE(Await(member, &refused));
      EXPECT_EQ(refused.retry, 1u) << "somebody may free some";
      ExpectText(GetText(refused.text), {"rank 1's Fake GPU 4", "slots of 2 MiB",
                                         "CUDA_ERROR_OUT_OF_MEMORY", "lower slots or slot_sets"});
    }
    EXPECT_EQ(Live("handles"), 1u) << "only the one that fills it";
    backend.Release(full);
    members = EnterAll(2);
    Joined joined;
    EXPECT_EQ(AwaitJoined(members[0], &joined).size(), 5u);
  });
}

TEST_F(DeviceMemoryTest, MemoryThatCannotBePassedOnIsRefused) {
  RunInProcess({}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    FAKE_CUDA(fake_cuda_fail)("cuMemExportToShareableHandle", 2, CUDA_ERROR_NOT_SUPPORTED);
    std::vector<Descriptor> members = EnterAll(2);
    ExpectText(RefusalOf(members[0]), {"rank 1's Fake GPU 4", "CUDA_ERROR_NOT_SUPPORTED"});
    EXPECT_EQ(Live("handles"), 0u);
  });
}

TEST_F(DeviceMemoryTest, AGpuThatTheDaemonDoesNotSeeIsRefused) {
  RunInProcess({{"FAKE_CUDA_DEVICES", "6"}}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    ultraep::Join join = OnGpu(0, 1);
    join.device.uuid[15] = 77;
    ExpectText(RefusalOf(Enter(join)),
               {"rank 0's Fake GPU 5 is none of the 6 GPUs", "memory 1 (ranks own"});
  });
}

TEST_F(DeviceMemoryTest, DevicesWithoutVirtualMemoryManagementAreNone) {
  RunInProcess({{"FAKE_CUDA_LACKS", "vmm"}}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    EXPECT_EQ(daemon.devices.state().use, CudaUse::kMissing);
    ExpectText(RefusalOf(Enter(OnGpu(0, 1))),
               {"the daemon can use no GPU", "has no virtual memory management"});
  });
}

TEST_F(DeviceMemoryTest, AUsersLimitHoldsForGpuMemoryOfTheDaemon) {
  RunInProcess({}, [this] {
    DaemonOptions options = TestDaemon::Defaults();
    options.uid_gpu_memory_limit_bytes = uint64_t{8} << 20;  // a rank of the groups below has 2 MiB
    TestDaemon daemon(socket_, options);
    Open(&daemon);
    ultraep::Join big = OnGpu(0, 1);
    big.config.shard_bytes[0] = uint64_t{450} << 20;
    Descriptor refused_one = Enter(big);
    Refused refused;
    ASSERT_TRUE(Await(refused_one, &refused));
    EXPECT_EQ(refused.retry, 0u) << "it will never fit";
    ExpectText(GetText(refused.text), {"of GPU memory of the daemon's", "8 MiB are left",
                                       "ULTRAEP_CUDA_MEMORY", "--uid_gpu_memory_mib"});
    EXPECT_EQ(Live("handles"), 0u);
    std::vector<Descriptor> members = EnterAll(3);
    Joined joined;
    EXPECT_EQ(AwaitJoined(members[0], &joined).size(), 6u);
    ultraep::Join second = OnGpu(0, 2);
    SetText(second.config.name, "second");
    Descriptor waits = Enter(second);
    ASSERT_TRUE(Await(waits, &refused));
    EXPECT_EQ(refused.retry, 1u) << "it fits when the first one ends";
    ExpectText(GetText(refused.text), {"2 MiB are left to its user"});
    members.clear();
    EXPECT_TRUE(Settles([&] { return Live("handles") == 0; })) << Live("handles");
  });
}

TEST_F(DeviceMemoryTest, SigtermEndsADaemonWhoseDriverHangsWhileMemoryIsMade) {
  const std::string source = socket_ + ".c", library = socket_ + ".so";
  const std::string hangs = socket_ + ".hangs";
  std::ofstream(source) << R"(#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
static void Hang(void) { for (creat(")" +
                               hangs + R"(", 0600);;) pause(); }
int cuGetProcAddress_v2(const char* name, void** f, int version, unsigned long long flags, void* s) {
  int (*real)(const char*, void**, int, unsigned long long, void*) =
      dlsym(dlopen(")" ULTRAEP_FAKE_CUDA_PATH R"(", RTLD_NOW), "cuGetProcAddress_v2");
  int result = real(name, f, version, flags, s);
  if (!strcmp(name, "cuMemCreate")) *f = Hang;
  return result;
})";
  ASSERT_EQ(std::system(("cc -shared -fPIC -o " + library + " " + source + " -ldl").c_str()), 0);
  RunInProcess({}, [&] {
    const ultraep::Join join = OnGpu(0, 1);
    const pid_t daemon = fork();
    if (daemon == 0) {
      execl(ULTRAEPD_PATH, "ultraepd", "--socket", socket_.c_str(), "--metrics_listen", "off",
            "--cuda_backend", ULTRAEP_CUDA_BACKEND_PATH, "--cuda_driver", library.c_str(),
            "--log_level", "error", nullptr);
      _exit(1);
    }
    ASSERT_TRUE(Settles([&] { return access(socket_.c_str(), F_OK) == 0; }));
    ASSERT_TRUE(Settles([&] { return Status().cuda == CudaUse::kOpen; }));
    const Descriptor member = Enter(join);
    ASSERT_TRUE(Settles([&] { return access(hangs.c_str(), F_OK) == 0; }));
    Joined joined;
    kill(daemon, SIGTERM);
    EXPECT_TRUE(AwaitJoined(member, &joined).empty());
    int status = -1;
    bool ended = false;
    EXPECT_TRUE(Settles([&] {
      ended = ended || waitpid(daemon, &status, WNOHANG) == daemon;
      return ended;
    }));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    if (!ended) kill(daemon, SIGKILL);
  });
  unlink(source.c_str());
  unlink(library.c_str());
  unlink(hangs.c_str());
}

TEST_F(DeviceMemoryTest, AnArchitectureWithoutKernelsIsNamedWithThoseThereAre) {
  RunInProcess({{"FAKE_CUDA_ARCH", "75"}}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    EXPECT_EQ(daemon.devices.state().devices, 0u);
    ExpectText(daemon.devices.state().found,
               {"(sm_75)", "kernels that the backend lacks", "sm_90"});
  });
}

TEST_F(DeviceMemoryTest, ADriverThatFailsToStartLeavesADaemonOnHostMemory) {
  RunInProcess({{"FAKE_CUDA_FAIL", "cuInit:1=100"}}, [this] {
    TestDaemon daemon(socket_);
    Open(&daemon);
    EXPECT_EQ(daemon.devices.state().use, CudaUse::kMissing);
    ExpectText(daemon.devices.state().found, {"CUDA_ERROR_NO_DEVICE"});
    Descriptor host = Enter(Request(0, 1, MemoryKind::kHost));
    Joined joined;
    EXPECT_EQ(AwaitJoined(host, &joined).size(), 4u);
  });
}

}  // namespace
}  // namespace ultraep
