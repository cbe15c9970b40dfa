#include "tests/support/fake_cuda/machine.h"

#include <cstdlib>
#include <sstream>

#include "tests/support/fake_cuda/fake_cuda.h"

namespace ultraep::fake_cuda {
namespace {

std::string Text(const char* name, const char* otherwise) {
  const char* const set = std::getenv(name);
  return set && *set ? set : otherwise;
}

int Number(const char* name, const char* otherwise) { return std::stoi(Text(name, otherwise)); }

std::vector<std::string> Parts(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream from(text);
  for (std::string part; std::getline(from, part, ',');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

// cuMemAlloc_v2 -> cuMemAlloc
std::string Base(std::string function) {
  const size_t at = function.rfind("_v");
  return at == std::string::npos ? function : function.substr(0, at);
}

}  // namespace

Options::Options()
    : devices(Number("FAKE_CUDA_DEVICES", "8")),
      architecture(Number("FAKE_CUDA_ARCH", "90")),
      version(Number("FAKE_CUDA_VERSION", "13000")),
      processors(Number("FAKE_CUDA_PROCESSORS", "16")),
      serial(Number("FAKE_CUDA_SERIAL", "0") != 0),
      memory(uint64_t(Number("FAKE_CUDA_MEMORY_MIB", "1024")) << 20) {
  for (const std::string& part : Parts(Text("FAKE_CUDA_LACKS", ""))) lacks.insert(part);
  for (const std::string& part : Parts(Text("FAKE_CUDA_NO_PEER", ""))) {  // 0-1,2-3
    const int one = std::stoi(part), other = std::stoi(part.substr(part.find('-') + 1));
    no_peer.insert({one, other});
    no_peer.insert({other, one});
  }
}

Machine& Machine::Get() {
  static Machine* const machine = new Machine;  // streams' threads outlive static objects
  return *machine;
}

Machine::Machine() : contexts(size_t(options.devices)) {
  for (int i = 0; i < options.devices; ++i) contexts[size_t(i)].device = i;
  for (const std::string& part : Parts(Text("FAKE_CUDA_FAIL", ""))) {  // cuMemCreate:3=2
    const size_t colon = part.find(':'), equals = part.find('=');
    Fail(part.substr(0, colon), uint32_t(std::stoul(part.substr(colon + 1))),
         CUresult(std::stoi(part.substr(equals + 1))));
  }
}

CUresult Machine::Called(const std::string& name) {
  const std::string base = Base(name);
  std::lock_guard lock(mutex);
  Function& function = functions_[base];
  const auto failure = function.failures.find(++function.calls);
  if (failure != function.failures.end()) return failure->second;
  if (base == "cuInit") initialised_ = true;
  const bool needs_none = base == "cuDriverGetVersion" || base == "cuGetErrorName" ||
                          base == "cuGetErrorString" || base == "cuGetProcAddress";
  return initialised_ || needs_none ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

void Machine::Fail(const std::string& function, uint32_t nth, CUresult result) {
  std::lock_guard lock(mutex);
  Function& of = functions_[function];
  of.failures[of.calls + nth] = result;
}

uint64_t Machine::Calls(const std::string& function) {
  std::lock_guard lock(mutex);
  return functions_[function].calls;
}

bool Machine::IsPeer(int device, int of) const {
  return device == of || options.no_peer.count({device, of}) == 0;
}

void Machine::Count(const std::string& kind, int64_t change) {
  std::lock_guard lock(mutex);
  live[kind] += uint64_t(change);
}

bool Machine::Take(int device, uint64_t bytes) {
  std::lock_guard lock(mutex);
  uint64_t& used = contexts[size_t(device)].used;
  if (bytes > options.memory - used) return false;
  used += bytes;
  return true;
}

void Machine::Return(int device, uint64_t bytes) {
  std::lock_guard lock(mutex);
  contexts[size_t(device)].used -= bytes;
}

std::vector<CUcontext>& ContextStack() {
  thread_local std::vector<CUcontext> stack;
  return stack;
}

CUcontext CurrentContext() {
  const std::vector<CUcontext>& stack = ContextStack();
  if (stack.empty() || !stack.back()) return nullptr;
  std::lock_guard lock(Machine::Get().mutex);
  return stack.back()->holders > 0 ? stack.back() : nullptr;
}

}  // namespace ultraep::fake_cuda

using ultraep::fake_cuda::Machine;

void fake_cuda_fail(const char* function, uint32_t nth, CUresult result) {
  Machine::Get().Fail(function, nth, result);
}

uint64_t fake_cuda_calls(const char* function) { return Machine::Get().Calls(function); }

uint64_t fake_cuda_live(const char* kind) {
  std::lock_guard lock(Machine::Get().mutex);
  return Machine::Get().live[kind];
}
