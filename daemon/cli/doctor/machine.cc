#include "daemon/cli/doctor/machine.h"

#include <dlfcn.h>
#include <sys/timex.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <optional>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "protocol/transport/load_backend.h"

namespace ultraep {
namespace {

// Where cgroup version 1 or 2 has its files for this process: the mount, and the path below it.
struct CgroupPlace {
  std::string mount, path;
  bool old = false;
};

CgroupPlace PlaceOf(const Machine& machine, const Subject& subject, const std::string& controller) {
  CgroupPlace place;
  const std::string lines = machine.Read(subject.folder + "/cgroup");
  for (const auto& line : absl::StrSplit(lines, '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> names = absl::StrSplit(parts[1], ',');
    if (parts[1].empty()) {
      if (place.mount.empty()) place = {"/sys/fs/cgroup", parts[2], false};
    } else if (std::find(names.begin(), names.end(), controller) != names.end()) {
      return {"/sys/fs/cgroup/" + controller, parts[2], true};
    }
  }
  return place;
}

constexpr std::chrono::seconds kAnswer{5};
std::atomic<bool> something_hangs{false};

// What `ask` returns; a driver that hangs must not hold up everything else.
template <class Ask>
std::optional<std::invoke_result_t<Ask>> InTime(Ask ask) {
  std::promise<std::invoke_result_t<Ask>> promise;
  auto answer = promise.get_future();
  std::thread([ask, promise = std::move(promise)]() mutable { promise.set_value(ask()); }).detach();
  if (answer.wait_for(kAnswer) == std::future_status::ready) return answer.get();
  something_hangs = true;
  return std::nullopt;
}

// Without a context: what doctor does is no burden to a GPU.
CudaFound AskBackend() {
  CudaFound found;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const LoadedBackend loaded =
      LoadBackendOfEnvironment(error ? "" : (self.parent_path().parent_path() / "lib").string());
  found.why = loaded.why;
  if (!loaded.backend) return found;
  Dl_info library{};
  if (dladdr(*reinterpret_cast<void**>(loaded.backend), &library) && library.dli_fname)
    found.path = library.dli_fname;
  found.architectures = loaded.backend->architectures();
  BackendText wrong;
  for (uint32_t d = 0; d < loaded.backend->device_count(); ++d) {
    DeviceInfo info;
    if (loaded.backend->Describe(d, &info, &wrong))
      found.devices.push_back(info);
    else
      found.wrong.push_back(wrong.text);
  }
  found.nccl_version = loaded.backend->NcclVersion(&wrong);
  return found;
}

}  // namespace

std::string Machine::Read(const std::string& path) const {
  std::ifstream file(root + path);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool Machine::Exists(const std::string& path) const {
  std::error_code error;
  return std::filesystem::exists(root + path, error);
}

std::vector<std::string> Machine::List(const std::string& folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root + folder, error))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

uint64_t Machine::Field(const std::string& path, const std::string& name, uint64_t missing) const {
  const std::string text = "\n" + Read(path);
  const size_t at = text.find("\n" + name);
  if (at == text.npos) return missing;
  const size_t digit = text.find_first_not_of(": \t", at + 1 + name.size());
  if (digit == text.npos || text[digit] < '0' || text[digit] > '9') return missing;
  return std::strtoull(text.c_str() + digit, nullptr, 10);
}

Machine ThisMachine() {
  Machine machine;
  timex clock{};
  const int state = adjtimex(&clock);
  machine.clock_synchronized = state >= 0 && state != TIME_ERROR && !(clock.status & STA_UNSYNC);
  machine.unix_seconds = time(nullptr);
  machine.load = [](const std::string& library) -> std::string {
    const auto load = [library]() -> std::string {
      if (dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL)) return "";
      const char* const why = dlerror();
      return why ? why : "unknown";
    };
    return InTime(load).value_or(library + " has not come back from being loaded for 5 s");
  };
  machine.cuda = [] {
    CudaFound silent;
    silent.why = "the CUDA driver has not answered for 5 s";
    return InTime(AskBackend).value_or(silent);
  };
  return machine;
}

bool SomethingHangs() { return something_hangs; }

uint32_t DaemonAnswer::ranks() const {
  uint32_t sum = 0;
  for (const StatusGroup& group : groups) sum += group.config.ranks;
  return sum;
}

Subject SubjectOf(const Machine& machine, const DaemonAnswer& answer) {
  const std::string folder = "/proc/" + std::to_string(answer.daemon.pid);
  // A daemon in another PID namespace has its number there.
  if (answer.answers() && machine.Read(folder + "/comm") == "ultraepd")
    return {folder, "the daemon"};
  return {"/proc/self", "this shell (and a daemon started from it)"};
}

uint32_t CountOfList(const std::string& list) {
  uint32_t count = 0;
  for (const auto& part : absl::StrSplit(list, ',')) {
    const std::vector<std::string> ends = absl::StrSplit(part, '-');
    uint32_t first = 0, last = 0;
    if (!absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last)) continue;
    if (last >= first) count += last - first + 1;
  }
  return count;
}

void ForEachCgroup(const Machine& machine, const Subject& subject, const CgroupFile& file,
                   const std::function<void(const std::string&, const std::string&)>& f) {
  const CgroupPlace place = PlaceOf(machine, subject, file.old_controller);
  std::string path = place.path == "/" ? "" : place.path;
  for (;;) {
    const std::string folder = place.mount + path;
    const std::string text = machine.Read(folder + "/" + (place.old ? file.old_file : file.file));
    if (!text.empty()) f(text, folder);
    if (path.empty()) return;
    path.resize(path.rfind('/') == path.npos ? 0 : path.rfind('/'));
  }
}

}  // namespace ultraep
