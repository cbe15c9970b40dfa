#include "daemon/trace/trace_writer.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace ultraep::trace {
namespace {

// trace.json is rewritten in place and never grows, so that a full disk cannot take it away.
constexpr uint64_t kInfoBytes = 4096;

std::string CheckEmpty(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(directory.c_str()), &closedir);
  if (!entries) return directory + ": cannot be read: " + std::strerror(errno);
  while (const dirent* entry = readdir(entries.get()))
    if (std::strcmp(entry->d_name, ".") && std::strcmp(entry->d_name, ".."))
      return directory + ": is not empty (" + entry->d_name +
             "); choose another directory, or give --force to overwrite a trace in it";
  return "";
}

}  // namespace

std::vector<std::string> FilesIn(const std::string& directory) {
  std::vector<std::string> files;
  for (const char* name : {kInfoFile, kLoadsFile, kStepsFile, kReplicasFile})
    files.push_back(directory + "/" + name);
  return files;
}

void CountLoad(const PlanShape& shape, LoadView load, StepRow* row) {
  std::vector<uint64_t> tokens(shape.ranks, 0);
  for (uint32_t r = 0; r < shape.ranks; ++r)
    for (uint32_t e = 0, home = 0; home < shape.ranks; ++home)
      for (const uint32_t end = e + shape.experts / shape.ranks; e < end; ++e)
        tokens[home] += load.at(r, e);
  uint64_t total = 0;
  for (const uint64_t n : tokens) total += n;
  row->tokens = int64_t(total);
  row->peak_before = row->peak = int64_t(*std::max_element(tokens.begin(), tokens.end()));
  row->lower_bound = int64_t((total + shape.ranks - 1) / shape.ranks);
}

std::string TraceWriter::Create(const std::string& directory, const TraceInfo& info,
                                const TraceLimits& limits, bool force) {
  info_ = info;
  limits_ = limits;
  directory_ = directory;
  made_ = mkdir(directory.c_str(), 0755) == 0;
  if (!made_) {
    if (errno == ENOENT) return directory + ": cannot be made: the directory above does not exist";
    if (errno != EEXIST) return directory + ": cannot be made: " + std::strerror(errno);
    if (!force)
      if (std::string wrong = CheckEmpty(directory); !wrong.empty()) return wrong;
  }
  const std::string wrong = Open(directory, force ? O_TRUNC : O_EXCL);
  opened_ = wrong.empty();
  if (!opened_) Discard();
  return wrong;
}

void TraceWriter::Discard() {
  if (!made_ && !opened_) return;
  for (const std::string& file : FilesIn(directory_)) unlink(file.c_str());
  if (made_) rmdir(directory_.c_str());
}

std::string TraceWriter::Open(const std::string& directory, int flags) {
  info_path_ = directory + "/" + kInfoFile;
  info_file_ = Descriptor(
      open(info_path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0644));
  if (!info_file_) return WriteError(info_path_, errno);
  const std::string base = directory + "/";
  std::string wrong =
      loads_.Create(base + kLoadsFile, {info_.shape.ranks, info_.shape.experts}, "<u4", 4, flags);
  if (wrong.empty()) wrong = steps_.Create(base + kStepsFile, {16}, "<i8", 8, flags);
  if (wrong.empty()) wrong = replicas_.Create(base + kReplicasFile, {6}, "<i8", 8, flags);
  return wrong.empty() ? WriteInfo() : wrong;
}

uint64_t TraceWriter::bytes() const {
  return 3 * kNpyHeaderBytes + kInfoBytes + loads_.rows() * loads_.row_bytes() +
         steps_.rows() * sizeof(StepRow) + replicas_.rows() * sizeof(ReplicaRow);
}

bool TraceWriter::Fits(uint64_t replicas) const {
  return steps() < limits_.steps &&
         bytes() + loads_.row_bytes() + sizeof(StepRow) + replicas * sizeof(ReplicaRow) <=
             limits_.bytes;
}

// Replicas first, the step's row last: whoever sees the row finds the rest.
std::string TraceWriter::Add(StepRow row, LoadView load, std::span<const Replica> replicas) {
  row.replicas = int64_t(replicas.size());
  row.first_replica = int64_t(replicas_.rows());
  rows_.clear();
  for (const Replica& r : replicas)
    rows_.push_back({int64_t(steps()), r.expert, r.rank, r.slot, r.parent, int64_t(r.tokens)});
  std::string wrong = replicas_.Append(rows_.data(), rows_.size() * sizeof(ReplicaRow));
  if (wrong.empty()) wrong = loads_.Append(load.tokens, loads_.row_bytes());
  if (wrong.empty()) wrong = steps_.Append(&row, sizeof row);
  return wrong;
}

std::string TraceWriter::Flush() {
  std::string first;
  for (NpyAppender* file : {&replicas_, &loads_, &steps_}) {
    const std::string wrong = file->Flush();
    if (first.empty()) first = wrong;
  }
  const std::string wrong = WriteInfo();
  return first.empty() ? wrong : first;
}

std::string TraceWriter::WriteInfo() {
  info_.steps = std::min(loads_.whole_rows(), steps_.whole_rows());
  info_.replicas = replicas_.whole_rows();
  std::string text = info_.ToJson();
  if (text.size() < kInfoBytes) text.append(kInfoBytes - 1 - text.size(), ' ');
  text += '\n';
  uint64_t done;
  if (WriteAt(info_file_.get(), text.data(), text.size(), 0, &done)) return "";
  return WriteError(info_path_, errno);
}

}  // namespace ultraep::trace
