// ultraepctl: one subcommand per file, listed here.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "protocol/version.h"

namespace {

using ultraep::Command;

const Command* const kCommands[] = {&ultraep::kStatusCommand, &ultraep::kTopCommand,
                                    &ultraep::kEventsCommand, &ultraep::kDoctorCommand,
                                    &ultraep::kTraceCommand,  &ultraep::kReportCommand,
                                    &ultraep::kPlanCommand};

void PrintList(FILE* out) {
  std::fprintf(out, "usage: ultraepctl COMMAND [flags]\n\ncommands:\n");
  for (const Command* command : kCommands)
    std::fprintf(out, "  %-8s %s\n", command->name, command->summary);
  std::fprintf(out, "  %-8s %s\n", "help", "print this list");
  std::fprintf(
      out,
      "\n`ultraepctl COMMAND --help` explains one; `ultraepctl --version`.\n"
      "Exit status: 0 done, 1 bad input, or no daemon or no answer, 2 wrong usage, 4 asked "
      "and not well.\n");
}

const Command* Find(const std::string& name) {
  for (const Command* command : kCommands)
    if (name == command->name) return command;
  return nullptr;
}

// Which given flag the command does not take, in words, or empty.
std::string Misplaced(const Command& command, const ultraep::CommandLine& line) {
  std::string name = command.name, takes = command.flags;
  for (const ultraep::Verb& verb : command.verbs) {
    if (line.positional.empty() || line.positional[0] != verb.name) continue;
    name += std::string(" ") + verb.name;
    takes = verb.flags;
  }
  for (const std::string& flag : line.flags)
    if ((" " + takes + " ").find(" " + flag + " ") == std::string::npos)
      return name + " does not take --" + flag;
  return "";
}

// Where a standard stream is closed, what is opened next would take its number, and output would go
// into the daemon's socket. Writing to these fails instead.
void OccupyStandardStreams() {
  for (int fd = 0; fd <= STDERR_FILENO;) {
    fd = open("/dev/null", O_RDONLY);
    if (fd < 0) return;
    if (fd > STDERR_FILENO) close(fd);
  }
}

int UsageError(const std::string& text) {
  std::fprintf(stderr, "ultraepctl: %s\n\n", text.c_str());
  PrintList(stderr);
  return ultraep::kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  OccupyStandardStreams();
  ultraep::CommandLine line = ultraep::ParseFlags({argv + 1, argv + argc});
  std::string name;
  if (!line.positional.empty()) {
    name = line.positional.front();
    line.positional.erase(line.positional.begin());
  }
  const bool wants_list = name == "help" || (name.empty() && line.help);
  if (name == "help" && !line.positional.empty()) name = line.positional.front();
  const Command* const command = Find(name);

  if (command && (line.help || wants_list)) {
    std::fputs(command->usage, stdout);
    return ultraep::kExitOk;
  }
  if (name == "help" || (name.empty() && wants_list)) {
    PrintList(stdout);
    return ultraep::kExitOk;
  }
  if (line.version) {
    std::printf("ultraepctl %s\n", ultraep::kBuildVersion);
    return ultraep::kExitOk;
  }
  if (line.exit_status != 0) {
    std::fprintf(stderr, "ultraepctl: %s; see `ultraepctl %s --help`\n", line.error.c_str(),
                 command ? command->name : "");
    return line.exit_status;
  }
  if (name.empty()) return UsageError("no command given");
  if (!command) return UsageError("unknown command '" + name + "'");
  if (const std::string wrong = Misplaced(*command, line); !wrong.empty()) {
    std::fprintf(stderr, "ultraepctl: %s; see `ultraepctl %s --help`\n", wrong.c_str(),
                 command->name);
    return ultraep::kExitUsage;
  }
  const int status = command->run(line.positional);
  // A full disk or a closed pipe must not look like success.
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return status;
  std::fprintf(stderr, "ultraepctl: cannot write to standard output\n");
  return status == ultraep::kExitOk ? ultraep::kExitFailed : status;
}
