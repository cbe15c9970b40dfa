// What `ultraepctl doctor` looks at: the machine through its files, and the daemon's answer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "protocol/device_backend.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// What the CUDA backend tells in this process.
struct CudaFound {
  std::string why;            // it cannot be used; empty: it can
  std::string path;           // of the backend
  std::string architectures;  // that it has kernels for
  std::vector<DeviceInfo> devices;
  std::vector<std::string> wrong;  // devices that cannot be described
  uint32_t nccl_version = 0;       // 22809: 2.28.9; 0: none
};

// Files that describe the machine. Tests give a tree of their own.
struct Machine {
  std::string root;  // before /proc, /sys and /dev; empty: the real ones
  bool clock_synchronized = true;
  int64_t unix_seconds = 0;
  // Loads a shared library: empty, or why it cannot be loaded. Both wait 5 s at most.
  std::function<std::string(const std::string&)> load;
  // Loads the CUDA backend as libultraep would.
  std::function<CudaFound()> cuda;

  // What a file holds without the last line's end; empty when it cannot be read.
  std::string Read(const std::string& path) const;
  bool Exists(const std::string& path) const;
  std::vector<std::string> List(const std::string& folder) const;  // sorted names
  // "Name:   12 kB" and the like: the number behind the name; `missing` when there is none.
  uint64_t Field(const std::string& path, const std::string& name, uint64_t missing) const;
};

Machine ThisMachine();
// A library or a driver has not answered in time. It may hold the loader's lock, which the usual
// end of a program would wait for.
bool SomethingHangs();

// The daemon as it answered, or did not.
struct DaemonAnswer {
  std::string path;   // of its socket
  std::string error;  // why there is no answer; empty: there is one
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;

  bool answers() const { return error.empty(); }
  uint32_t ranks() const;  // of all groups
};

// The process whose limits count: the daemon, or without one this one, whose limits the daemon
// would inherit when started from here.
struct Subject {
  std::string folder;  // in /proc
  std::string who;
};
Subject SubjectOf(const Machine& machine, const DaemonAnswer& answer);

// "0-3,8" has five.
uint32_t CountOfList(const std::string& list);

// The limit of a control group and of those above it, which the process is in: the smallest,
// UINT64_MAX without one. `file` as in "memory.max", `old_controller` and `old_file` as in cgroup
// version 1.
struct CgroupFile {
  const char* file;
  const char* old_controller;
  const char* old_file;
};
// Calls f(text of the file, folder) for each level that has it, the own one first.
void ForEachCgroup(const Machine& machine, const Subject& subject, const CgroupFile& file,
                   const std::function<void(const std::string&, const std::string&)>& f);

}  // namespace ultraep
