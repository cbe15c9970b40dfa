// A machine made of files, for the checks of doctor.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/cli/doctor/checks.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

class DoctorTest : public testing::Test {
 protected:
  DoctorTest() {
    char folder[] = "/tmp/ultraep-test-XXXXXX";
    machine_.root = mkdtemp(folder);
    std::filesystem::permissions(machine_.root, std::filesystem::perms(0755));
    machine_.unix_seconds = 1'800'000'000;
    machine_.load = [this](const std::string& library) -> std::string {
      return libraries_.find(library) == std::string::npos ? library + ": none" : "";
    };
    machine_.cuda = [this] { return cuda_; };
    answer_.error = "no daemon here";
  }
  ~DoctorTest() override { std::filesystem::remove_all(machine_.root); }

  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = machine_.root + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  // The daemon answers, as pid 42 of this machine.
  void Answer(const std::vector<StatusGroup>& groups = {}) {
    answer_.error = "";
    answer_.daemon.pid = 42;
    answer_.groups = groups;
    Put("/proc/42/comm", "ultraepd");
  }
  Examined examined() const {
    return {machine_, answer_, DeadlineAfter(NowNs(), uint64_t{20'000'000'000})};
  }
  // The one finding that there must be.
  Finding Only(std::vector<Finding> (*check)(const Examined&)) const {
    const std::vector<Finding> findings = check(examined());
    EXPECT_EQ(findings.size(), 1u);
    return findings.empty() ? Finding() : findings[0];
  }
  void Expect(std::vector<Finding> (*check)(const Examined&), Level level, const std::string& found,
              const std::string& fix) const {
    const Finding finding = Only(check);
    EXPECT_EQ(kLevels[int(finding.level)], std::string(kLevels[int(level)])) << finding.found;
    EXPECT_NE(finding.found.find(found), std::string::npos) << finding.found;
    EXPECT_NE(finding.fix.find(fix), std::string::npos) << finding.fix;
    EXPECT_TRUE(level < Level::kWarn || !finding.fix.empty()) << finding.found;
  }

  Machine machine_;
  DaemonAnswer answer_;
  std::string libraries_;  // that can be loaded
  CudaFound cuda_;
};

}  // namespace ultraep
