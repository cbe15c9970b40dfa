// Memory of the CUDA backend: shared between processes, private, pinned.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <csignal>
#include <cstring>
#include <vector>

#include "protocol/transport/seqpacket.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

constexpr uint64_t kBytes = 4 << 20;

uint64_t Live(const char* kind) { return FAKE_CUDA(fake_cuda_live)(kind); }

// Two processes, each with its own device, and a socket between them.
void WithTwoProcesses(const std::function<void(DeviceBackend&, int socket)>& one,
                      const std::function<void(DeviceBackend&, int socket)>& other) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
  std::fflush(nullptr);
  const pid_t second = fork();
  ASSERT_GE(second, 0);
  if (second == 0) {
    close(sockets[0]);
    WithBackend({}, 2, [&](DeviceBackend& backend) { other(backend, sockets[1]); });
    std::fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  close(sockets[1]);
  WithBackend({}, 1, [&](DeviceBackend& backend) { one(backend, sockets[0]); });
  close(sockets[0]);
  int status = -1;
  ASSERT_EQ(waitpid(second, &status, 0), second);
  EXPECT_EQ(status, 0) << "the other process";
}

TEST(SharedMemory, IsOneInTwoProcesses) {
  const auto maker = [](DeviceBackend& backend, int socket) {
    BackendText wrong;
    uint64_t handle = 0;
    int fd = -1;
    void* at = nullptr;
    ASSERT_TRUE(backend.Create(0, kBytes, false, &handle, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.ExportDescriptor(handle, &fd, &wrong)) << wrong.text;
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    ASSERT_TRUE(backend.Map(0, handle, kBytes, &at, &wrong)) << wrong.text;
    backend.Release(handle);  // mapped, so it lives on
    const char text[] = "from the maker";
    ASSERT_TRUE(
        backend.ToDevice(0, static_cast<char*>(at) + kBytes - 64, text, sizeof(text), &wrong))
        << wrong.text;
    ASSERT_TRUE(SendMessage(socket, kBytes, &fd, 1));
    close(fd);
    Packet answer;
    ASSERT_EQ(ReceivePacket(socket, 0, &answer), Receive::kPacket);
    char back[16] = {};
    ASSERT_TRUE(backend.FromDevice(0, back, at, 15, &wrong)) << wrong.text;
    EXPECT_STREQ(back, "from the mapper");
    backend.Unmap(at, kBytes);
  };
  const auto mapper = [](DeviceBackend& backend, int socket) {
    Packet packet;
    ASSERT_EQ(ReceivePacket(socket, 0, &packet), Receive::kPacket);
    ASSERT_EQ(packet.descriptors.size(), 1u);
    BackendText wrong;
    uint64_t handle = 0;
    void* at = nullptr;
    ASSERT_TRUE(backend.ImportDescriptor(packet.descriptors[0].get(), &handle, &wrong))
        << wrong.text;
    packet.descriptors.clear();
    ASSERT_TRUE(backend.Map(1, handle, kBytes, &at, &wrong)) << wrong.text;
    backend.Release(handle);
    char text[32] = {};
    ASSERT_TRUE(backend.FromDevice(1, text, static_cast<char*>(at) + kBytes - 64, 15, &wrong))
        << wrong.text;
    EXPECT_STREQ(text, "from the maker");
    ASSERT_TRUE(backend.ToDevice(1, at, "from the mapper", 15, &wrong)) << wrong.text;
    EXPECT_TRUE(SendMessage(socket, kBytes));
    backend.Unmap(at, kBytes);
    EXPECT_EQ(Live("handles") + Live("mappings") + Live("reservations"), 0u);
  };
  WithTwoProcesses(maker, mapper);
}

TEST(SharedMemory, TravelsAsAFabricHandle) {
  const auto maker = [](DeviceBackend& backend, int socket) {
    BackendText wrong;
    uint64_t handle = 0, plain = 0;
    FabricHandle name;
    ASSERT_TRUE(backend.Create(0, kBytes, false, &plain, &wrong)) << wrong.text;
    EXPECT_FALSE(backend.ExportFabric(plain, &name, &wrong)) << "was not made for it";
    EXPECT_TRUE(Holds(wrong, "fabric handle")) << wrong.text;
    backend.Release(plain);
    ASSERT_TRUE(backend.Create(0, kBytes, true, &handle, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.ExportFabric(handle, &name, &wrong)) << wrong.text;
    int fd = -1;
    ASSERT_TRUE(backend.ExportDescriptor(handle, &fd, &wrong)) << wrong.text;
    close(fd);
    void* at = nullptr;
    ASSERT_TRUE(backend.Map(0, handle, kBytes, &at, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.ToDevice(0, at, "fabric", 7, &wrong)) << wrong.text;
    ASSERT_TRUE(SendMessage(socket, name));
    Packet answer;
    ASSERT_EQ(ReceivePacket(socket, 0, &answer), Receive::kPacket);
    backend.Unmap(at, kBytes);
    backend.Release(handle);
  };
  const auto mapper = [](DeviceBackend& backend, int socket) {
    Packet packet;
    ASSERT_EQ(ReceivePacket(socket, 0, &packet), Receive::kPacket);
    FabricHandle name;
    ASSERT_EQ(packet.size, sizeof(name));
    std::memcpy(&name, packet.bytes, sizeof(name));
    BackendText wrong;
    uint64_t handle = 0;
    void* at = nullptr;
    ASSERT_TRUE(backend.ImportFabric(name, &handle, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.Map(1, handle, kBytes, &at, &wrong)) << wrong.text;
    char text[8] = {};
    ASSERT_TRUE(backend.FromDevice(1, text, at, 7, &wrong)) << wrong.text;
    EXPECT_STREQ(text, "fabric");
    EXPECT_TRUE(SendMessage(socket, kBytes));
    backend.Unmap(at, kBytes);
    backend.Release(handle);
    EXPECT_FALSE(backend.ImportFabric(FabricHandle(), &handle, &wrong));
    EXPECT_TRUE(Holds(wrong, "fabric handle")) << wrong.text;
  };
  WithTwoProcesses(maker, mapper);
}

TEST(SharedMemory, OfADeviceThatIsNoPeerIsNotMapped) {
  WithBackend({{"FAKE_CUDA_NO_PEER", "0-1"}}, 2, [](DeviceBackend& backend) {
    BackendText wrong;
    uint64_t handle = 0;
    void* at = nullptr;
    ASSERT_TRUE(backend.Create(0, kBytes, false, &handle, &wrong)) << wrong.text;
    EXPECT_FALSE(backend.Map(1, handle, kBytes, &at, &wrong));
    EXPECT_TRUE(Holds(wrong, "peer access")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, "CUDA_ERROR_INVALID_DEVICE")) << wrong.text;
    EXPECT_EQ(at, nullptr);
    EXPECT_EQ(Live("mappings") + Live("reservations"), 0u);
    EXPECT_TRUE(backend.Map(0, handle, kBytes, &at, &wrong)) << wrong.text;
    backend.Unmap(at, kBytes);
    backend.Release(handle);
    EXPECT_EQ(Live("handles"), 0u);
  });
}

// What is left after Unmap is an address that nobody may use.
TEST(SharedMemory, IsGoneOnceItIsUnmapped) {
  const int status = StatusOfProcess({}, [] {
    const LoadedBackend loaded = OpenBackend();
    BackendText wrong;
    uint64_t handle = 0;
    void* at = nullptr;
    if (!loaded.backend || !loaded.backend->Use(0, &wrong) ||
        !loaded.backend->Create(0, kBytes, false, &handle, &wrong) ||
        !loaded.backend->Map(0, handle, kBytes, &at, &wrong))
      _exit(1);
    *static_cast<volatile char*>(at) = 1;
    loaded.backend->Unmap(at, kBytes);
    std::signal(SIGSEGV, SIG_DFL);  // of the sanitizers
    const rlimit no_core = {};
    setrlimit(RLIMIT_CORE, &no_core);
    *static_cast<volatile char*>(at) = 1;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
}

TEST(SharedMemory, SaysHowMuchWasAskedForAndHowMuchIsFree) {
  const auto ask = [](DeviceBackend& backend, const std::string& free) {
    BackendText wrong;
    uint64_t handle = 0;
    EXPECT_FALSE(backend.Create(0, 64 << 20, false, &handle, &wrong));
    EXPECT_EQ(handle, 0u);
    EXPECT_TRUE(Holds(wrong, "67108864 bytes on Fake GPU 0")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, "CUDA_ERROR_OUT_OF_MEMORY")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, "(free: " + free + " of 33554432)")) << wrong.text;
    EXPECT_EQ(Live("handles"), 0u);
  };
  const Environment small = {{"FAKE_CUDA_MEMORY_MIB", "32"}, {"FAKE_NVML_FREE_MIB", "5"}};
  WithBackend(small, 1, [&](DeviceBackend& backend) { ask(backend, "33554432 bytes"); });
  WithBackend(small, 0, [&](DeviceBackend& backend) { ask(backend, "unknown"); });
  RunInProcess(small, [&] {  // the daemon, which makes no context
    BackendOptions options;
    options.nvml = ULTRAEP_FAKE_NVML_PATH;
    const LoadedBackend loaded = OpenBackend(options);
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    ask(*loaded.backend, "5242880 bytes");
  });
}

TEST(SharedMemory, IsCountedUntilItIsReleasedAndUnmapped) {
  WithBackend({{"FAKE_CUDA_MEMORY_MIB", "6"}}, 1, [](DeviceBackend& backend) {
    BackendText wrong;
    uint64_t first = 0, second = 0;
    void* at = nullptr;
    ASSERT_TRUE(backend.Create(0, kBytes, false, &first, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.Map(0, first, kBytes, &at, &wrong)) << wrong.text;
    backend.Release(first);
    EXPECT_FALSE(backend.Create(0, kBytes, false, &second, &wrong));
    backend.Unmap(at, kBytes);
    EXPECT_TRUE(backend.Create(0, kBytes, false, &second, &wrong)) << wrong.text;
  });
}

TEST(SharedMemory, NeedsWhatTheDeviceOffers) {
  WithBackend({{"FAKE_CUDA_LACKS", "vmm"}}, 1, [](DeviceBackend& backend) {
    BackendText wrong;
    uint64_t handle = 0;
    EXPECT_FALSE(backend.Create(0, kBytes, false, &handle, &wrong));
    EXPECT_TRUE(Holds(wrong, "no virtual memory management")) << wrong.text;
    EXPECT_EQ(FAKE_CUDA(fake_cuda_calls)("cuMemCreate"), 0u);
  });
  WithBackend({{"FAKE_CUDA_LACKS", "fabric"}}, 1, [](DeviceBackend& backend) {
    BackendText wrong;
    uint64_t handle = 0;
    EXPECT_FALSE(backend.Create(0, kBytes, true, &handle, &wrong));
    EXPECT_TRUE(Holds(wrong, "no fabric handles")) << wrong.text;
    EXPECT_TRUE(backend.Create(0, kBytes, false, &handle, &wrong)) << wrong.text;
    EXPECT_FALSE(backend.Create(0, kBytes + 4096, false, &handle, &wrong));
    EXPECT_TRUE(Holds(wrong, "a multiple of 2097152")) << wrong.text;
    EXPECT_FALSE(backend.Create(0, 0, false, &handle, &wrong));
  });
}

TEST(SharedMemory, RefusesADescriptorOfSomethingElse) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    const int other = memfd_create("other", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(other, off_t(kBytes)), 0);
    BackendText wrong;
    uint64_t handle = 0;
    EXPECT_FALSE(backend.ImportDescriptor(other, &handle, &wrong));
    EXPECT_TRUE(Holds(wrong, "by descriptor " + std::to_string(other))) << wrong.text;
    EXPECT_FALSE(backend.ImportDescriptor(-1, &handle, &wrong));
    close(other);
  });
}

TEST(PrivateMemory, IsCopiedAndZeroed) {
  WithBackend({}, 1, [](DeviceBackend& backend) {
    BackendText wrong;
    void* at = nullptr;
    ASSERT_TRUE(backend.Allocate(0, 4096, &at, &wrong)) << wrong.text;
    std::vector<char> ones(4096, 1), back(4096, 7);
    ASSERT_TRUE(backend.ToDevice(0, at, ones.data(), 4096, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.Zero(0, static_cast<char*>(at) + 100, 200, &wrong)) << wrong.text;
    ASSERT_TRUE(backend.FromDevice(0, back.data(), at, 4096, &wrong)) << wrong.text;
    for (size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], i < 100 || i >= 300) << i;
    EXPECT_EQ(Live("memory"), 4096u);
    backend.Free(0, at);
    EXPECT_EQ(Live("memory"), 0u);
    EXPECT_FALSE(backend.Allocate(0, uint64_t{1} << 40, &at, &wrong));
    EXPECT_TRUE(Holds(wrong, "memory of 1099511627776 bytes")) << wrong.text;
    EXPECT_TRUE(Holds(wrong, "free: 1073741824 bytes of 1073741824")) << wrong.text;
  });
}

TEST(PinnedMemory, IsZeroedAndSeenByTheDevice) {
  WithBackend({}, 2, [](DeviceBackend& backend) {
    BackendText wrong;
    void *host = nullptr, *mapped = nullptr;
    ASSERT_TRUE(backend.AllocatePinned(1, 8192, &host, &mapped, &wrong)) << wrong.text;
    ASSERT_NE(mapped, nullptr);
    const auto* const bytes = static_cast<const unsigned char*>(host);
    for (size_t i = 0; i < 8192; ++i) ASSERT_EQ(bytes[i], 0) << i;
    ASSERT_TRUE(backend.ToDevice(1, mapped, "device", 7, &wrong)) << wrong.text;
    EXPECT_STREQ(static_cast<const char*>(host), "device");
    EXPECT_EQ(Live("pinned"), 8192u);
    backend.FreePinned(1, host);
    EXPECT_EQ(Live("pinned"), 0u);
  });
}

}  // namespace
}  // namespace ultraep
