// What a GPU, its driver or its peers lack is refused at the join, with what was found and what is
// needed. Each case is a process of its own, with a driver of its own.
#include <array>

#include "tests/support/device_group.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceRank;
using test::TestDaemon;

Environment With(const Environment& more) {
  Environment all = {{"ULTRAEP_CUDA_BACKEND", ULTRAEP_CUDA_BACKEND_PATH},
                     {"ULTRAEP_CUDA_DRIVER", ULTRAEP_FAKE_CUDA_PATH},
                     {"ULTRAEP_NVML", "/none"}};
  for (const auto& [name, value] : more) all[name] = value;
  return all;
}

class DeviceRefusal : public test::DeviceGroupTest {
 protected:
  // A lone rank's join, in that environment: REFUSED with that text.
  void Refuses(const Environment& environment, int32_t device, const std::string& text) {
    RunInProcess(With(environment), [&] {
      ultraep_attach_options options{sizeof options, socket_.c_str()};
      ultraep_client* client = nullptr;
      ASSERT_EQ(ultraep_attach(&options, &client), ULTRAEP_OK);
      ultraep_group_config config = DeviceConfig(2);
      config.device = device;
      EXPECT_EQ(ultraep_join(client, &config, 0), ULTRAEP_REFUSED);
      EXPECT_NE(std::string(ultraep_last_error()).find(text), std::string::npos)
          << ultraep_last_error();
      // The process can still do with host memory.
      config.memory = ULTRAEP_HOST_MEMORY;
      EXPECT_EQ(ultraep_join(client, &config, 0), ULTRAEP_OK) << ultraep_last_error();
      ultraep_detach(client);
    });
  }
  // Two ranks join; what each is told.
  std::array<std::string, 2> Join(const ultraep_group_config& config) {
    daemon_ = std::make_unique<TestDaemon>(socket_);
    std::array<std::string, 2> told;
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < 2; ++r)
      threads.emplace_back([&, r] {
        ultraep_attach_options options{sizeof options, socket_.c_str()};
        ultraep_client* client = nullptr;
        ASSERT_EQ(ultraep_attach(&options, &client), ULTRAEP_OK);
        ultraep_group_config own = config;
        own.rank = r;
        own.device = int32_t(r);
        const ultraep_status status = ultraep_join(client, &own, 3'000'000'000);
        told[r] = std::string(ultraep_status_name(status)) + " " +
                  (status == ULTRAEP_OK ? "" : ultraep_last_error());
        ultraep_detach(client);
      });
    for (auto& t : threads) t.join();
    daemon_ = nullptr;
    return told;
  }
};

TEST_F(DeviceRefusal, NoDriver) {
  Refuses({{"ULTRAEP_CUDA_DRIVER", "/no/libcuda.so.1"}}, 0, "/no/libcuda.so.1");
}

TEST_F(DeviceRefusal, NoBackend) {
  Refuses({{"ULTRAEP_CUDA_BACKEND", "/no/backend.so"}}, 0, "no CUDA backend: /no/backend.so");
}

TEST_F(DeviceRefusal, NoVirtualMemoryManagement) {
  Refuses({{"FAKE_CUDA_LACKS", "vmm"}}, 0, "lacks virtual memory management");
}

TEST_F(DeviceRefusal, AnArchitectureThatIsNotBuiltFor) {
  Refuses({{"FAKE_CUDA_ARCH", "80"}}, 0, "is sm_80, the CUDA backend is built for");
}

TEST_F(DeviceRefusal, ADeviceThatTheProcessDoesNotSee) {
  Refuses({{"FAKE_CUDA_DEVICES", "2"}}, 2, "device is 2, this process sees 2");
}

TEST_F(DeviceRefusal, NoDeviceChosen) { Refuses({}, -1, "the calling thread has no CUDA context"); }

TEST_F(DeviceRefusal, MemoryThatTheDeviceDoesNotHave) {
  RunInProcess(With({{"FAKE_CUDA_MEMORY_MIB", "64"}}), [&] {
    ultraep_group_config config = DeviceConfig(2);
    config.shard_bytes[0] = 64 << 20;
    for (const std::string& told : Join(config)) {
      EXPECT_EQ(told.find("OK"), std::string::npos) << told;
      EXPECT_NE(told.find("slots of 25"), std::string::npos)
          << told;  // 4 slots of 64 MiB, and more
    }
  });
}

TEST_F(DeviceRefusal, PeersWithoutAccess) {
  RunInProcess(With({{"FAKE_CUDA_NO_PEER", "0-1"}}), [&] {
    // Whoever finds it first is refused; the other has found it too, or is told of the one.
    const auto told = Join(DeviceConfig(2));
    const auto refused = [&](uint32_t by, uint32_t peer) {
      return told[by].find("REFUSED") == 0 &&
             told[by].find("slots of rank " + std::to_string(peer) + " cannot be reached from") !=
                 std::string::npos;
    };
    EXPECT_TRUE(refused(0, 1) || refused(1, 0)) << told[0] << "; " << told[1];
    for (const std::string& text : told)
      EXPECT_NE(text.find("cannot be reached from"), std::string::npos) << text;
  });
}

TEST_F(DeviceRefusal, FabricHandlesWhereTheDriverHasNone) {
  RunInProcess(With({{"FAKE_CUDA_LACKS", "fabric"}, {"ULTRAEP_CUDA_HANDLES", "fabric"}}), [&] {
    for (const std::string& told : Join(DeviceConfig(2)))
      EXPECT_NE(told.find("abric"), std::string::npos) << told;
  });
}

TEST_F(DeviceRefusal, FabricHandlesCarryAGroup) {
  RunInProcess(With({{"ULTRAEP_CUDA_HANDLES", "fabric"}}), [&] {
    Begin(DeviceConfig(3));
    for (uint64_t step = 0; step < 4; ++step) EXPECT_EQ(Step(step), ULTRAEP_PLAN);
    NothingFailed();
    ranks_.clear();
    daemon_ = nullptr;
  });
}

TEST_F(DeviceRefusal, MemoryOfTheDaemonCarriesAGroupOverItsRestart) {
  RunInProcess(With({}), [&] {
    const auto begin = [&] {
      daemon_ = std::make_unique<TestDaemon>(socket_);
      CudaOptions options;
      options.backend = ULTRAEP_CUDA_BACKEND_PATH;
      options.driver = ULTRAEP_FAKE_CUDA_PATH;
      options.nvml = "/none";
      daemon_->devices.Open(options);
    };
    begin();
    ultraep_group_config config = DeviceConfig(2);
    config.memory = ULTRAEP_CUDA_MEMORY_OF_DAEMON;
    Begin(config);
    uint64_t step = 0;
    for (int restart = 0; restart < 2; ++restart) {
      StepsUntilPlanned(&step);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(Step(step++), ULTRAEP_PLAN);
      daemon_ = nullptr;
      EXPECT_NE(Step(step++), ULTRAEP_PLAN);
      begin();
    }
    NothingFailed();
    ranks_.clear();
    daemon_ = nullptr;
  });
}

// Nothing is left behind: contexts, memory, streams, mappings of all generations.
TEST_F(DeviceRefusal, ADetachedClientLeavesNothing) {
  RunInProcess(With({}), [&] {
    Begin(DeviceConfig(2));
    uint64_t step = 0;
    StepsUntilPlanned(&step);
    daemon_ = std::make_unique<TestDaemon>(socket_ + "2");  // the old one goes first
    daemon_ = nullptr;
    Step(step++);
    ranks_.clear();
    for (const char* kind : {"events", "handles", "reservations", "mappings", "memory", "pinned"})
      EXPECT_EQ(FAKE_CUDA(fake_cuda_live)(kind), 0u) << kind;
    EXPECT_LE(FAKE_CUDA(fake_cuda_live)("streams"), 2u) << "the backend keeps one per device";
  });
}

}  // namespace
}  // namespace ultraep
