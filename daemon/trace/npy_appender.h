// One growing .npy file: rows of a fixed size behind a header of a fixed size, which is rewritten
// in place when rows have come.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/transport/seqpacket.h"

namespace ultraep::trace {

inline constexpr uint64_t kNpyHeaderBytes = 128;

class NpyAppender {
 public:
  // `row`: the shape of one row, `type` as numpy writes it. `flags` of open(2) besides O_CREAT.
  // Texts are empty when all went well, else name the file, the reason and what to do.
  std::string Create(const std::string& path, const std::vector<uint64_t>& row, const char* type,
                     uint32_t cell_bytes, int flags);
  std::string Append(const void* rows, uint64_t bytes);
  // Writes what is buffered, then the number of whole rows into the header. Also after an error:
  // what was written before it stays readable.
  std::string Flush();

  uint64_t rows() const { return (written_ + buffer_.size()) / row_bytes_; }
  uint64_t whole_rows() const { return written_ / row_bytes_; }  // in the file
  uint64_t row_bytes() const { return row_bytes_; }

 private:
  std::string WriteBuffer();
  std::string WriteHeader();

  std::string path_;
  Descriptor file_;
  std::vector<uint64_t> shape_;  // the number of rows first
  std::string type_;
  uint64_t row_bytes_ = 1;
  uint64_t written_ = 0;  // bytes behind the header
  std::vector<char> buffer_;
};

// Writes all of it at `offset`; false with errno, and *done says how much is there.
bool WriteAt(int fd, const char* bytes, uint64_t count, uint64_t offset, uint64_t* done);

// Why a file could not be written, and what to do.
std::string WriteError(const std::string& path, int error);

}  // namespace ultraep::trace
