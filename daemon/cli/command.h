// What a subcommand of ultraepctl is. One file each; ctl_main.cc lists them.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace ultraep {

// Exit status of ultraepctl.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // bad input, or the daemon cannot answer
inline constexpr int kExitUsage = 2;   // the command line is not understood
inline constexpr int kExitUnhealthy = 4;  // doctor, status --quiet: it is not well

struct Verb {
  const char* name;
  const char* flags;
};

struct Command {
  const char* name;
  const char* summary;  // one line
  const char* flags;    // that it takes, as in "socket json"; it refuses others
  const char* usage;    // what `ultraepctl NAME --help` prints
  int (*run)(const std::vector<std::string>& positional);
  std::span<const Verb> verbs = {};  // each takes only some of `flags`
};

extern const Command kDoctorCommand;
extern const Command kEventsCommand;
extern const Command kPlanCommand;
extern const Command kReportCommand;
extern const Command kStatusCommand;
extern const Command kTopCommand;
extern const Command kTraceCommand;

}  // namespace ultraep
