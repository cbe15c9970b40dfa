// Opening the CUDA backend: what is missing or too old is named.
#include <fstream>

#include "protocol/version.h"
#include "tests/support/fake_cuda/backend_process.h"

namespace ultraep {
namespace {

// Why the backend does not open.
void ExpectRefused(const Environment& environment, const BackendOptions& options,
                   const std::vector<std::string>& texts) {
  RunInProcess(environment, [&] {
    const LoadedBackend loaded = OpenBackend(options);
    EXPECT_EQ(loaded.backend, nullptr);
    for (const std::string& text : texts)
      EXPECT_NE(loaded.why.find(text), std::string::npos) << loaded.why;
  });
}

TEST(Open, NamesTheDriverThatIsMissing) {
  BackendOptions options;
  options.driver = "/no/such/libcuda.so.1";
  ExpectRefused({}, options, {"no CUDA driver", "/no/such/libcuda.so.1"});
}

TEST(Open, ReadsTheEnvironmentOnlyWhenAskedTo) {
  const Environment set = {{"ULTRAEP_CUDA_BACKEND", ULTRAEP_CUDA_BACKEND_PATH},
                           {"ULTRAEP_CUDA_DRIVER", "/set/libcuda.so.1"}};
  RunInProcess(set, [] {
    LoadedBackend loaded = LoadBackend(ULTRAEP_CUDA_BACKEND_PATH, "", {});
    EXPECT_EQ(loaded.why.find("/set/"), std::string::npos) << loaded.why;
    if (loaded.backend) return;  // a machine with a GPU: it has one for good
    loaded = LoadBackendOfEnvironment("");
    EXPECT_NE(loaded.why.find("/set/libcuda.so.1"), std::string::npos) << loaded.why;
    setenv("ULTRAEP_CUDA_DRIVER", "", 1);  // as unset
    loaded = LoadBackendOfEnvironment("");
    EXPECT_NE(loaded.why.find("libcuda.so.1"), std::string::npos) << loaded.why;
    setenv("ULTRAEP_CUDA_DRIVER", ULTRAEP_FAKE_CUDA_PATH, 1);
    loaded = LoadBackendOfEnvironment("");  // may be tried again
    EXPECT_NE(loaded.backend, nullptr) << loaded.why;
  });
}

TEST(Open, SaysWhyTheBackendBesideCannotBeLoaded) {
  char folder[] = "/tmp/ultraep-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string file = std::string(folder) + "/libultraep_cuda.so";
  std::ofstream(file) << "torn by a full disk";
  const LoadedBackend loaded = LoadBackend("", folder, {});
  EXPECT_EQ(loaded.backend, nullptr);
  EXPECT_NE(loaded.why.find(file), std::string::npos) << loaded.why;
  unlink(file.c_str());
  rmdir(folder);
}

TEST(Open, RefusesALibraryThatIsNoDriver) {
  BackendOptions options;
  options.driver = ULTRAEP_FAKE_NVML_PATH;
  ExpectRefused({}, options, {"fake_nvml", "cuGetProcAddress_v2", "13.0 or newer is needed"});
}

TEST(Open, NamesTheFunctionThatTheDriverLacks) {
  ExpectRefused({{"FAKE_CUDA_LACKS", "cuMemAddressReserve"}}, {},
                {"lacks cuMemAddressReserve", "CUDA 13.0", ULTRAEP_FAKE_CUDA_PATH});
}

TEST(Open, RefusesADriverThatIsTooOldBeforeSayingWhatItLacks) {
  ExpectRefused({{"FAKE_CUDA_VERSION", "12080"}, {"FAKE_CUDA_LACKS", "cuFuncLoad"}}, {},
                {"is of CUDA 12.8, 13.0 or newer is needed", "update the driver"});
}

TEST(Open, SaysWhyTheDriverDoesNotStart) {
  ExpectRefused({{"FAKE_CUDA_FAIL", "cuInit:1=802"}}, {}, {"starting the CUDA driver", "802"});
}

TEST(Open, NeedsADevice) {
  ExpectRefused({{"FAKE_CUDA_DEVICES", "0"}}, {}, {"CUDA_ERROR_NO_DEVICE", "nvidia-smi"});
}

TEST(Open, RefusesACallerOfAnotherVersion) {
  RunInProcess({}, [] {
    void* const library = dlopen(ULTRAEP_CUDA_BACKEND_PATH, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto open = reinterpret_cast<OpenBackendFunction>(dlsym(library, kOpenBackendSymbol));
    BackendOptions options;
    options.driver = ULTRAEP_FAKE_CUDA_PATH;
    BackendText wrong;
    EXPECT_EQ(open(kBackendVersion + 1, &options, &wrong), nullptr);
    EXPECT_TRUE(Holds(wrong, "speaks version " + std::to_string(kBackendVersion))) << wrong.text;
    DeviceBackend* const opened = open(kBackendVersion, &options, &wrong);
    ASSERT_NE(opened, nullptr) << wrong.text;
    EXPECT_STREQ(opened->build_version(), kBuildVersion);
    EXPECT_EQ(open(kBackendVersion, nullptr, &wrong), opened) << "one for all callers";
  });
}

TEST(Open, LeavesOnlyItsOneNameVisible) {
  void* const library = dlopen(ULTRAEP_CUDA_BACKEND_PATH, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  EXPECT_NE(dlsym(library, kOpenBackendSymbol), nullptr);
  EXPECT_EQ(dlsym(library, "ultraep_images"), nullptr);
}

}  // namespace
}  // namespace ultraep
