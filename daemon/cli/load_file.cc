#include "daemon/cli/load_file.h"

#include "absl/strings/str_format.h"
#include "protocol/check_plan.h"
#include "protocol/limits.h"
#include "protocol/npy.h"
#include "protocol/transport/npy_file.h"

namespace ultraep {
namespace {

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text = "(";
  for (const uint64_t dimension : shape)
    text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  return text + ")";
}

std::string TakeShape(const NpyArray& array, LoadFile* loads) {
  const std::vector<uint64_t>& shape = array.shape;
  if (shape.size() != 2 && shape.size() != 3)
    return absl::StrFormat(
        "the array has %d dimensions, shape %s; needed are 2, [ranks, experts], or 3, "
        "[matrices, ranks, experts]",
        shape.size(), ShapeText(shape));
  for (size_t i = 0; i < shape.size(); ++i)
    if (shape[i] == 0)
      return absl::StrFormat("dimension %d of shape %s is empty; each must be at least 1", i,
                             ShapeText(shape));
  const uint64_t ranks = shape[shape.size() - 2], experts = shape.back();
  if (ranks > kMaxRanks)
    return absl::StrFormat("%d ranks (dimension %d of shape %s), the limit is %d", ranks,
                           shape.size() - 2, ShapeText(shape), kMaxRanks);
  if (experts > kMaxExperts)
    return absl::StrFormat("%d experts (dimension %d of shape %s), the limit is %d", experts,
                           shape.size() - 1, ShapeText(shape), kMaxExperts);
  if (experts % ranks)
    return absl::StrFormat(
        "%d experts do not divide evenly by %d ranks (shape %s); every rank must own the same "
        "number of experts: add empty columns or check the order of the dimensions",
        experts, ranks, ShapeText(shape));
  loads->ranks = uint32_t(ranks);
  loads->experts = uint32_t(experts);
  loads->matrices = shape.size() == 3 ? shape[0] : 1;
  return "";
}

// [matrix, ][rank, ]...
std::string IndexText(const NpyArray& array, const LoadFile& loads, uint64_t cell, bool row_only) {
  const uint64_t row = cell / loads.experts;
  std::string text = "[";
  if (array.shape.size() == 3) text += std::to_string(row / loads.ranks) + ", ";
  text += std::to_string(row % loads.ranks);
  return text + (row_only ? "" : ", " + std::to_string(cell % loads.experts)) + "]";
}

std::string TakeCells(const NpyArray& array, LoadFile* loads) {
  loads->tokens.resize(array.cells);
  uint64_t row_sum = 0;
  for (uint64_t i = 0; i < array.cells; ++i) {
    const int64_t value = array.at(i);
    if (value < 0 || value > int64_t{UINT32_MAX})
      return absl::StrFormat(
          "cell %s is %d, allowed are 0..%d; a cell counts the tokens of one source rank for one "
          "expert",
          IndexText(array, *loads, i, false), value, UINT32_MAX);
    loads->tokens[i] = uint32_t(value);
    row_sum = i % loads->experts ? row_sum + uint64_t(value) : uint64_t(value);
    if (i % loads->experts == loads->experts - 1 && row_sum > kMaxRowTokens)
      return absl::StrFormat(
          "row %s sums up to %d tokens, the limit is %d; split the batch into several matrices",
          IndexText(array, *loads, i, true), row_sum, kMaxRowTokens);
  }
  return "";
}

}  // namespace

std::string ReadLoadFile(const std::string& path, LoadFile* loads) {
  std::string bytes;
  NpyArray array;
  std::string wrong = ReadNpyFile(path, &bytes);
  if (wrong.empty()) wrong = ParseNpy(bytes, &array);
  if (wrong.empty()) wrong = TakeShape(array, loads);
  if (wrong.empty()) wrong = TakeCells(array, loads);
  return wrong.empty() ? "" : path + ": " + wrong;
}

}  // namespace ultraep
