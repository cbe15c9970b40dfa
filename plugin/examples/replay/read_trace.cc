// The recorded trace: read and checked before any rank process exists.
#include <filesystem>
#include <system_error>

#include "plugin/examples/replay/loads.h"
#include "protocol/limits.h"
#include "protocol/load.h"
#include "protocol/npy.h"
#include "protocol/transport/npy_file.h"

namespace ultraep::replay {
namespace {

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

std::string CheckTraceShape(const std::vector<uint64_t>& shape) {
  if (shape.size() != 3 && shape.size() != 4)
    return "the array has " + std::to_string(shape.size()) + " dimensions, shape " +
           ShapeText(shape) +
           "; needed are 4, [steps, layers, ranks, experts], or 3, [steps, ranks, experts]";
  for (const uint64_t n : shape) {
    if (n == 0 || n > UINT32_MAX)
      return "shape is " + ShapeText(shape) + ", every dimension must be 1.." +
             std::to_string(UINT32_MAX);
  }
  return "";
}

// Which cell, as an index in the array.
std::string CellText(const std::vector<uint64_t>& shape, uint64_t at) {
  std::vector<uint64_t> index(shape.size());
  for (size_t d = shape.size(); d-- > 0;) {
    index[d] = at % shape[d];
    at /= shape[d];
  }
  return ShapeText(index);
}

std::string ReadCells(const NpyArray& array, Trace* trace) {
  const uint64_t experts = trace->experts;
  trace->tokens.resize(array.cells);
  for (uint64_t i = 0; i < array.cells; ++i) {
    const int64_t value = array.at(i);
    if (value < 0 || value > int64_t{UINT32_MAX})
      return "cell " + CellText(array.shape, i) + " is " + std::to_string(value) + ", must be 0.." +
             std::to_string(UINT32_MAX);
    trace->tokens[i] = static_cast<uint32_t>(value);
    if ((i + 1) % experts) continue;
    const uint64_t sum = RowTokens(&trace->tokens[i + 1 - experts], trace->experts);
    if (sum > kMaxRowTokens)
      return "the row that ends at cell " + CellText(array.shape, i) + " has " +
             std::to_string(sum) + " tokens, must have at most " + std::to_string(kMaxRowTokens);
  }
  return "";
}

}  // namespace

std::string ReadTrace(const std::string& given, Trace* trace) {
  std::error_code none;
  const std::string path =
      std::filesystem::is_directory(given, none) ? given + "/loads.npy" : given;
  std::string bytes;
  NpyArray array;
  std::string wrong = ReadNpyFile(path, &bytes);
  if (wrong.empty()) wrong = ParseNpy(bytes, &array);
  if (wrong.empty()) wrong = CheckTraceShape(array.shape);
  if (!wrong.empty()) return path + ": " + wrong;
  const size_t last = array.shape.size() - 1;
  trace->steps = static_cast<uint32_t>(array.shape[0]);
  trace->layers = last == 3 ? static_cast<uint32_t>(array.shape[1]) : 1;
  trace->ranks = static_cast<uint32_t>(array.shape[last - 1]);
  trace->experts = static_cast<uint32_t>(array.shape[last]);
  wrong = ReadCells(array, trace);
  return wrong.empty() ? "" : path + ": " + wrong;
}

}  // namespace ultraep::replay
