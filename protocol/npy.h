// Reading and writing NumPy's .npy format, for load traces. No I/O here: bytes in memory only.
//
//   0        6     7     8           8 + n (n = 2)          multiple of 64
//   +--------+-----+-----+-----------+----------------------+---------+
//   | \x93   |major|minor| header    | Python dict, padded  | cells   |
//   | NUMPY  |     |     | length    | with spaces, '\n'    |         |
//   +--------+-----+-----+-----------+----------------------+---------+
//
// The length is 2 bytes little-endian in version 1, 4 bytes in versions 2 and 3. Cells are refused
// unless they are little-endian integers in C order; every refusal says what to do about it.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace ultraep {

enum class NpyType { kUint32, kInt32, kInt64 };

inline constexpr size_t kMaxNpyDimensions = 8;

struct NpyArray {
  NpyType type = NpyType::kUint32;
  std::vector<uint64_t> shape;
  uint64_t cells = 0;             // product of the shape, 1 for a scalar
  const uint8_t* data = nullptr;  // into the caller's bytes; not aligned

  uint32_t cell_bytes() const { return type == NpyType::kInt64 ? 8 : 4; }

  // Every value of the three types fits.
  int64_t at(uint64_t index) const {
    const uint8_t* const from = data + index * cell_bytes();
    uint64_t bits = 0;
    for (uint32_t i = 0; i < cell_bytes(); ++i) bits |= uint64_t{from[i]} << (8 * i);
    return type == NpyType::kInt32 ? int64_t{int32_t(uint32_t(bits))} : int64_t(bits);
  }
};

namespace npy {

inline std::string Printable(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, 40)) {
    const auto byte = uint8_t(c);
    if (byte >= 0x20 && byte < 0x7f)
      out += c;
    else
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  }
  return out + (text.size() > 40 ? "..." : "");
}

// The header is a Python dict literal with exactly three keys; this reads only that.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  // Empty when all went well.
  std::string Parse(NpyArray* array) {
    if (!Eat('{')) return Expected("'{'");
    while (!Eat('}')) {
      std::string key, error;
      if (!String(&key)) return Expected("a quoted key or '}'");
      if (!Eat(':')) return Expected("':' after '" + Printable(key) + "'");
      if (key == "descr")
        error = Type(array);
      else if (key == "fortran_order")
        error = Order();
      else if (key == "shape")
        error = Shape(array);
      else
        return "npy header has key '" + Printable(key) +
               "', allowed are 'descr', 'fortran_order' and 'shape'";
      if (!error.empty()) return error;
      if (!Eat(',') && Peek() != '}') return Expected("',' or '}'");
    }
    Peek();  // skips spaces; a NUL byte is not the end
    if (at_ < text_.size()) return Expected("nothing after the dict");
    if (seen_ != kType + kOrder + kShape)
      return "npy header must have 'descr', 'fortran_order' and 'shape' once each";
    return "";
  }

 private:
  enum Key { kType = 1, kOrder = 2, kShape = 4 };

  char Peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool Eat(char c) {
    if (c == '\0' || Peek() != c) return false;
    ++at_;
    return true;
  }
  bool EatWord(std::string_view word) {
    Peek();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  bool String(std::string* value) {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return false;
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) return false;
    *value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return true;
  }
  std::string Expected(const std::string& what) {
    Peek();
    const std::string found =
        at_ < text_.size() ? std::string("'") + Printable(text_.substr(at_)) + "'" : "its end";
    return "npy header is malformed at byte " + std::to_string(at_) + ": found " + found +
           ", expected " + what;
  }
  std::string Once(Key key, const char* name) {
    if (seen_ & key) return std::string("npy header has key '") + name + "' twice, allowed is once";
    seen_ |= key;
    return "";
  }

  std::string Type(NpyArray* array) {
    if (std::string error = Once(kType, "descr"); !error.empty()) return error;
    std::string name;
    if (!String(&name)) return Expected("a simple dtype in quotes (structured arrays are refused)");
    if (name == "<u4")
      array->type = NpyType::kUint32;
    else if (name == "<i4")
      array->type = NpyType::kInt32;
    else if (name == "<i8")
      array->type = NpyType::kInt64;
    else
      return "npy dtype is '" + Printable(name) +
             "', allowed are '<u4', '<i4' and '<i8' (little-endian); save array.astype('<u4')";
    return "";
  }

  std::string Order() {
    if (std::string error = Once(kOrder, "fortran_order"); !error.empty()) return error;
    if (EatWord("False")) return "";
    if (EatWord("True"))
      return "npy array has fortran_order True, allowed is False; save "
             "numpy.ascontiguousarray(array)";
    return Expected("True or False");
  }

  std::string Shape(NpyArray* array) {
    if (std::string error = Once(kShape, "shape"); !error.empty()) return error;
    if (!Eat('(')) return Expected("'('");
    while (!Eat(')')) {
      if (Peek() < '0' || Peek() > '9') return Expected("a dimension or ')'");
      uint64_t value = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        if (value > (UINT64_MAX - 9) / 10)
          return "npy dimension " + std::to_string(array->shape.size()) + " is above 2^64";
        value = value * 10 + uint64_t(text_[at_] - '0');
      }
      if (array->shape.size() == kMaxNpyDimensions)
        return "npy array has more than " + std::to_string(kMaxNpyDimensions) + " dimensions";
      array->shape.push_back(value);
      if (!Eat(',') && (Peek() != ')' || array->shape.size() == 1)) return Expected("','");
    }
    return "";
  }

  std::string_view text_;
  size_t at_ = 0;
  int seen_ = 0;
};

inline std::string CheckSize(NpyArray* array, uint64_t bytes) {
  array->cells = 1;
  for (const uint64_t dimension : array->shape) {
    if (dimension && array->cells > UINT64_MAX / 8 / dimension)
      return "npy shape is too large: its product times the cell size is above 2^64";
    array->cells *= dimension;
  }
  const uint64_t need = array->cells * array->cell_bytes();
  if (bytes < need)
    return "npy data is truncated: " + std::to_string(bytes) + " bytes, the header promises " +
           std::to_string(need);
  if (bytes > need)
    return "npy data has " + std::to_string(bytes - need) + " bytes more than the " +
           std::to_string(need) + " the header promises; one array per file";
  return "";
}

}  // namespace npy

// Empty when `bytes` is one whole array we can use, else what is wrong and what is allowed.
// `array->data` points into `bytes`.
inline std::string ParseNpy(std::string_view bytes, NpyArray* array) {
  *array = {};
  static constexpr std::string_view kMagic("\x93NUMPY", 6);
  if (bytes.substr(0, 6) != kMagic)
    return "not an npy file: it begins with '" + npy::Printable(bytes.substr(0, 6)) +
           "', an npy file with '\\x93NUMPY'; save with numpy.save";
  if (bytes.size() < 8) return "npy file is truncated: it ends before its version";
  const auto byte = [&](size_t i) { return uint32_t{uint8_t(bytes[i])}; };
  const uint32_t major = byte(6), minor = byte(7);
  if (major < 1 || major > 3 || minor != 0)
    return "npy version is " + std::to_string(major) + "." + std::to_string(minor) +
           ", allowed are 1.0, 2.0 and 3.0";
  const size_t length_bytes = major == 1 ? 2 : 4;
  const size_t begin = 8 + length_bytes;
  if (bytes.size() < begin) return "npy file is truncated: it ends before its header";
  uint64_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= uint64_t{byte(8 + i)} << (8 * i);
  if (length > bytes.size() - begin)
    return "npy file is truncated: its header has " + std::to_string(length) +
           " bytes, the file only " + std::to_string(bytes.size() - begin) + " after the length";
  const std::string_view header = bytes.substr(begin, length);
  if (header.empty() || header.back() != '\n') return "npy header does not end with a newline";
  if (std::string error = npy::HeaderParser(header).Parse(array); !error.empty()) return error;
  array->data = reinterpret_cast<const uint8_t*>(bytes.data()) + begin + length;
  return npy::CheckSize(array, bytes.size() - begin - length);
}

// What precedes the cells of an array in a version 1.0 file. `type` as numpy writes it: "<u4".
inline std::string NpyHeader(const std::vector<uint64_t>& shape, std::string_view type) {
  std::string text = "{'descr': '" + std::string(type) + "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < shape.size(); ++i)
    text += std::to_string(shape[i]) + (i + 1 < shape.size() ? ", " : shape.size() == 1 ? "," : "");
  text += "), }";
  const size_t used = 10 + text.size() + 1;
  text.append((64 - used % 64) % 64, ' ');
  text += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += char(text.size() & 0xff);
  out += char(text.size() >> 8);
  return out + text;
}

}  // namespace ultraep
