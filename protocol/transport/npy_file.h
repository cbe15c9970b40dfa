// Reads an .npy file for ParseNpy: what is not one is refused before it fills the memory.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

namespace ultraep {

// A million steps of 64 ranks x 256 experts are 64 GiB: longer recordings come in parts.
inline constexpr uint64_t kMaxNpyBytes = uint64_t{4} << 30;

// Empty on success, else why not. Something that does not begin like an .npy file is taken only as
// far as ParseNpy needs to say so.
inline std::string ReadNpyFile(const std::string& path, std::string* bytes) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return std::string("cannot be read: ") + std::strerror(errno);
  char buffer[1 << 16];
  size_t got;
  while ((got = std::fread(buffer, 1, sizeof buffer, file.get())) > 0) {
    bytes->append(buffer, got);
    if (bytes->compare(0, 6, "\x93NUMPY", 6) != 0) return "";
    if (bytes->size() > kMaxNpyBytes)
      return "is longer than " + std::to_string(kMaxNpyBytes) + " bytes, the limit; split it";
  }
  return std::ferror(file.get()) ? std::string("cannot be read: ") + std::strerror(errno) : "";
}

}  // namespace ultraep
