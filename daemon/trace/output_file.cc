#include "daemon/trace/output_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>

#include "daemon/trace/npy_appender.h"

namespace ultraep::trace {

OutputFile::~OutputFile() {
  if (!file_) return;
  std::fclose(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

std::string OutputFile::Open(const std::string& path, bool force) {
  path_ = path;
  struct stat s;
  const bool exists = stat(path.c_str(), &s) == 0;
  if (exists && !S_ISREG(s.st_mode)) {
    file_ = std::fopen(path.c_str(), "wb");
    return file_ ? "" : WriteError(path, errno);
  }
  if (exists && !force) return WriteError(path, EEXIST);
  if (!exists && lstat(path.c_str(), &s) == 0)
    return path + ": is a symbolic link to a file that cannot be reached; remove it";
  target_ = path;
  if (exists) {
    const std::unique_ptr<char, void (*)(void*)> real(realpath(path.c_str(), nullptr), &std::free);
    if (!real) return WriteError(path, errno);
    target_ = real.get();
  }
  temporary_ = target_ + "." + std::to_string(getpid()) + ".part";
  file_ = std::fopen(temporary_.c_str(), "wbx");
  return file_ ? "" : WriteError(path, errno);
}

std::string OutputFile::Write(const void* bytes, size_t count) {
  return std::fwrite(bytes, 1, count, file_) == count ? "" : WriteError(path_, errno);
}

std::string OutputFile::Close() {
  if (std::fflush(file_) != 0) return WriteError(path_, errno);
  if (!temporary_.empty() && std::rename(temporary_.c_str(), target_.c_str()))
    return WriteError(path_, errno);
  std::fclose(file_);
  file_ = nullptr;
  return "";
}

std::string CheckOutputs(const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs) {
  std::error_code none;
  for (const std::string& output : outputs)
    for (const std::string& input : inputs)
      if (std::filesystem::equivalent(output, input, none))
        return output + ": is a file that is read; choose another output";
  return "";
}

}  // namespace ultraep::trace
