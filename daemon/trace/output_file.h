// Files that are whole or not there at all, and outputs that would destroy their own input.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace ultraep::trace {

// Written beside its place and moved there when it is whole. A symbolic link stays, its target is
// replaced. What is no regular file (/dev/null, a pipe) is written into as it is.
class OutputFile {
 public:
  OutputFile() = default;
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Texts are empty when all went well. A regular file that exists is replaced only with `force`.
  std::string Open(const std::string& path, bool force);
  std::string Write(const void* bytes, size_t count);
  std::string Close();

 private:
  std::string path_;
  std::string target_, temporary_;  // empty: written in place
  FILE* file_ = nullptr;
};

// Empty when no output is, by whatever name, a file that is read: it would be cut off under the
// reader's hands.
std::string CheckOutputs(const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs);

}  // namespace ultraep::trace
