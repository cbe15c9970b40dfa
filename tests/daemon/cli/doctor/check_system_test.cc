#include "tests/daemon/cli/doctor/made_machine.h"

namespace ultraep {
namespace {

TEST_F(DoctorTest, KernelsByWhatTheyLack) {
  Expect(CheckKernel, Level::kNote, "cannot be read", "");
  Put("/proc/sys/kernel/osrelease", "4.18.0-553.el8.x86_64");
  Expect(CheckKernel, Level::kFail, "F_SEAL_FUTURE_WRITE", "5.1");
  Put("/proc/sys/kernel/osrelease", "5.2.1");
  Expect(CheckKernel, Level::kWarn, "pidfd_open", "5.3");
  Put("/proc/sys/kernel/osrelease", "6.1.0-18-amd64");
  Expect(CheckKernel, Level::kNote, "SO_PEERPIDFD", "6.5");
  Put("/proc/sys/kernel/osrelease", "6.12.1");
  Expect(CheckKernel, Level::kOk, "6.12.1", "");
}

TEST_F(DoctorTest, ClockSources) {
  const std::string file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
  Expect(CheckClockSource, Level::kNote, "cannot be read", "");
  Put(file, "hpet");
  Expect(CheckClockSource, Level::kWarn, "hpet", "clocksource=tsc");
  Put(file, "kvm-clock");
  Expect(CheckClockSource, Level::kOk, "kvm-clock", "");
}

TEST_F(DoctorTest, TimeIsPlausibleAndSynchronised) {
  Expect(CheckTime, Level::kOk, "synchronised", "");
  machine_.clock_synchronized = false;
  Expect(CheckTime, Level::kWarn, "not synchronised", "set-ntp");
  machine_.unix_seconds = 1000;
  Expect(CheckTime, Level::kWarn, "before 2025", "set-ntp");
}

// What the real ones are is the machine's affair; that they say something is ours.
TEST(ThisMachineTest, EveryCheckHasAFindingHere) {
  const Machine machine = ThisMachine();
  DaemonAnswer answer;
  answer.path = "/nowhere/socket";
  answer.error = "no daemon";
  for (const Check& check : AllChecks())
    EXPECT_FALSE(check.run({machine, answer, 0}).empty()) << check.name;
  EXPECT_GT(machine.unix_seconds, 1735689600);
  EXPECT_EQ(machine.load("libc.so.6"), "");
  EXPECT_NE(machine.load("libnothing.so.7"), "");
  const CudaFound cuda = machine.cuda();
  EXPECT_EQ(cuda.why.empty(), !cuda.path.empty())
      << "it can be used and lies somewhere, or why not";
}

}  // namespace
}  // namespace ultraep
