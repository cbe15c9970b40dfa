// A file's bytes, mapped for reading: traces may be larger than the memory.
#pragma once

#include <string>
#include <string_view>

namespace ultraep::trace {

class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Empty, or why it cannot be read.
  std::string Open(const std::string& path);

  std::string_view bytes() const { return {base_, bytes_}; }

 private:
  char* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace ultraep::trace
