#include "daemon/metrics/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

namespace ultraep::metrics {
namespace {

// Of the words of /proc/self/stat behind the name, which may hold spaces and brackets.
constexpr int kUserTicks = 11, kSystemTicks = 12, kStartTicks = 19, kVirtualBytes = 20,
              kResidentPages = 21;

bool ReadStat(double (*words)[kResidentPages + 1]) {
  std::ifstream file("/proc/self/stat");
  std::string text;
  if (!std::getline(file, text) || text.rfind(')') == std::string::npos) return false;
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  std::string state;
  rest >> state;
  for (int i = 1; i <= kResidentPages; ++i)
    if (!(rest >> (*words)[i])) return false;
  return true;
}

// Unix time at which the system started; 0: not known.
double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;)
    if (double seconds = 0; word == "btime" && file >> seconds) return seconds;
  return 0;
}

int OpenDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (!folder) return -1;
  int count = -1;  // the folder's own
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

}  // namespace

void CollectProcess(Families* families) {
  double words[kResidentPages + 1];
  if (ReadStat(&words)) {
    const double tick = 1 / double(sysconf(_SC_CLK_TCK));
    families->Add(kProcessCpu, (words[kUserTicks] + words[kSystemTicks]) * tick);
    families->Add(kProcessResident, words[kResidentPages] * double(sysconf(_SC_PAGESIZE)));
    families->Add(kProcessVirtual, words[kVirtualBytes]);
    if (const double boot = BootTime())
      families->Add(kProcessStartTime, boot + words[kStartTicks] * tick);
  }
  if (const int open = OpenDescriptors(); open >= 0) families->Add(kProcessOpenFds, open);
  if (rlimit limit; !getrlimit(RLIMIT_NOFILE, &limit))
    families->Add(kProcessMaxFds, double(limit.rlim_cur));
}

}  // namespace ultraep::metrics
