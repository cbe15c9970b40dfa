// The csv importer: two passes over the file, so that memory stays bounded.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "daemon/trace/import.h"
#include "daemon/trace/output_file.h"
#include "protocol/limits.h"
#include "protocol/npy.h"

namespace ultraep::trace {
namespace {

enum Column { kStep, kLayer, kRank, kExpert, kCount, kColumns };

struct Cells {
  uint64_t value[kColumns] = {};
};

using Key = std::pair<uint64_t, uint64_t>;  // step, layer

class Csv {
 public:
  std::string Open(const std::string& path) {
    path_ = path;
    file_.open(path);
    return file_ ? "" : path + ": cannot be read: " + std::strerror(errno);
  }
  bool has(Column column) const { return at_[column] >= 0; }

  // The next row; *any false at the end.
  std::string Next(Cells* cells, bool* any) {
    std::string line;
    while (std::getline(file_, line)) {
      ++number_;
      absl::StripAsciiWhitespace(&line);
      if (line.empty()) continue;
      const std::vector<std::string> words = absl::StrSplit(line, ',');
      if (width_ == 0) {
        bool is_header = false;
        if (std::string wrong = TakeHeader(words, &is_header); !wrong.empty()) return Wrong(wrong);
        if (is_header) continue;
      }
      *any = true;
      return TakeRow(words, cells);
    }
    *any = false;
    return file_.bad() ? path_ + ": cannot be read" : "";
  }
  std::string Wrong(const std::string& what) const {
    return absl::StrFormat("%s:%d: %s", path_, number_, what);
  }

 private:
  // Without a header: layer,expert,count; step,layer,expert,count; step,layer,rank,expert,count.
  std::string TakeHeader(const std::vector<std::string>& words, bool* is_header) {
    width_ = words.size();
    std::fill(std::begin(at_), std::end(at_), -1);
    uint64_t number;
    *is_header = !absl::SimpleAtoi(words[0], &number);
    if (!*is_header) {
      if (width_ < 3 || width_ > 5)
        return absl::StrFormat(
            "%d columns; without a header row there are layer,expert,count, "
            "step,layer,expert,count or step,layer,rank,expert,count",
            width_);
      int next = 0;
      if (width_ >= 4) at_[kStep] = next++;
      at_[kLayer] = next++;
      if (width_ == 5) at_[kRank] = next++;
      at_[kExpert] = next++;
      at_[kCount] = next;
      return "";
    }
    for (size_t i = 0; i < words.size(); ++i) {
      const int column = Named(absl::AsciiStrToLower(absl::StripAsciiWhitespace(words[i])));
      if (column < 0)
        return "column '" + npy::Printable(words[i]) +
               "'; known are step, layer, rank, expert and count";
      if (at_[column] >= 0) return "column '" + npy::Printable(words[i]) + "' stands there twice";
      at_[column] = int(i);
    }
    if (has(kLayer) && has(kExpert) && has(kCount)) return "";
    return "the columns layer, expert and count are needed";
  }

  static int Named(const std::string& name) {
    static constexpr std::pair<const char*, Column> kNames[] = {
        {"step", kStep},     {"layer", kLayer},      {"layer_id", kLayer}, {"rank", kRank},
        {"expert", kExpert}, {"expert_id", kExpert}, {"count", kCount}};
    for (const auto& [known, column] : kNames)
      if (name == known) return column;
    return -1;
  }

  std::string TakeRow(const std::vector<std::string>& words, Cells* cells) {
    static constexpr const char* kNames[] = {"step", "layer", "rank", "expert", "count"};
    static constexpr uint64_t kLimits[] = {INT64_MAX, UINT32_MAX - 1, kMaxRanks - 1,
                                           kMaxExperts - 1, uint64_t{UINT32_MAX} * kMaxRanks};
    if (words.size() != width_)
      return Wrong(absl::StrFormat("%d columns, the rows before have %d", words.size(), width_));
    for (int column = 0; column < kColumns; ++column) {
      cells->value[column] = 0;
      if (at_[column] < 0) continue;
      const std::string& word = words[size_t(at_[column])];
      if (!absl::SimpleAtoi(word, &cells->value[column]) || cells->value[column] > kLimits[column])
        return Wrong(absl::StrFormat("%s is '%s', must be 0..%d", kNames[column],
                                     npy::Printable(word), kLimits[column]));
    }
    return "";
  }

  std::string path_;
  std::ifstream file_;
  uint64_t number_ = 0;  // of the line
  size_t width_ = 0;
  int at_[kColumns] = {-1, -1, -1, -1, -1};
};

struct Extent {
  uint64_t experts = 0, layers = 0, ranks = 0;
};

std::string Measure(const std::string& path, Extent* extent) {
  Csv csv;
  if (std::string wrong = csv.Open(path); !wrong.empty()) return wrong;
  Cells cells;
  std::set<Key> seen;
  Key now;
  for (bool any = true;;) {
    if (std::string wrong = csv.Next(&cells, &any); !wrong.empty()) return wrong;
    if (!any) break;
    extent->experts = std::max(extent->experts, cells.value[kExpert] + 1);
    extent->layers = std::max(extent->layers, cells.value[kLayer] + 1);
    extent->ranks = std::max(extent->ranks, cells.value[kRank] + 1);
    const Key key{cells.value[kStep], cells.value[kLayer]};
    if (!seen.empty() && key == now) continue;
    if (!seen.insert(key).second)
      return csv.Wrong(
          absl::StrFormat("rows of step %d, layer %d came before already; they must "
                          "stand together: sort the file by step and layer",
                          key.first, key.second));
    now = key;
  }
  return extent->experts ? "" : path + ": has no rows";
}

// One (step, layer) at a time.
class Matrix {
 public:
  Matrix(const PlanShape& shape, bool has_rank)
      : shape_(shape),
        has_rank_(has_rank),
        tokens_(uint64_t{shape.ranks} * shape.experts, 0),
        given_(tokens_.size(), 0) {}

  std::string Set(const Csv& csv, const Cells& cells) {
    const uint64_t expert = cells.value[kExpert], count = cells.value[kCount];
    const uint64_t cell = cells.value[kRank] * shape_.experts + expert;
    if (given_[cell])
      return csv.Wrong(absl::StrFormat("expert %d of step %d, layer %d has a count already", expert,
                                       cells.value[kStep], cells.value[kLayer]));
    given_[cell] = 1;
    const uint64_t limit = uint64_t{UINT32_MAX} * (has_rank_ ? 1 : shape_.ranks);
    if (count > limit)
      return csv.Wrong(absl::StrFormat("count is %d, must be 0..%d", count, limit));
    if (has_rank_)
      tokens_[cell] = uint32_t(count);
    else
      Spread(count, shape_.ranks, shape_.experts, uint32_t(expert), tokens_.data());
    return "";
  }
  void Clear() {
    std::fill(tokens_.begin(), tokens_.end(), 0);
    std::fill(given_.begin(), given_.end(), 0);
  }
  const uint32_t* data() const { return tokens_.data(); }

 private:
  const PlanShape shape_;
  const bool has_rank_;
  std::vector<uint32_t> tokens_;
  std::vector<uint8_t> given_;
};

std::string Fill(const std::string& path, const PlanShape& shape, ImportWriter* writer) {
  Csv csv;
  if (std::string wrong = csv.Open(path); !wrong.empty()) return wrong;
  Cells cells;
  bool any = true;
  if (std::string wrong = csv.Next(&cells, &any); !wrong.empty() || !any) return wrong;
  Matrix matrix(shape, csv.has(kRank));
  Key now{cells.value[kStep], cells.value[kLayer]};
  const auto add = [&]() -> std::string {
    const std::string wrong = writer->Add(now.first, uint32_t(now.second), matrix.data());
    return wrong.empty() ? "" : path + ": " + wrong;
  };
  while (any) {
    const Key key{cells.value[kStep], cells.value[kLayer]};
    if (key != now) {
      if (std::string wrong = add(); !wrong.empty()) return wrong;
      matrix.Clear();
      now = key;
    }
    if (cells.value[kExpert] >= shape.experts || cells.value[kRank] >= shape.ranks)
      return path + ": changed while it was read";
    if (std::string wrong = matrix.Set(csv, cells); !wrong.empty()) return wrong;
    if (std::string wrong = csv.Next(&cells, &any); !wrong.empty()) return wrong;
  }
  return add();
}

}  // namespace

std::string ImportCsv(const std::string& path, const ImportOptions& options, ImportResult* result) {
  Extent extent;
  std::string wrong = CheckOutputs({path}, FilesIn(options.directory));
  if (wrong.empty()) wrong = Measure(path, &extent);
  if (!wrong.empty()) return wrong;
  PlanShape shape;
  wrong = ImportShape(options, extent.experts, &shape);
  if (wrong.empty() && extent.ranks > options.ranks)
    wrong = absl::StrFormat("the file has rank %d, --ranks is %d", extent.ranks - 1, options.ranks);
  if (!wrong.empty()) return path + ": " + wrong;
  ImportWriter writer;
  wrong = writer.Create(options, shape, uint32_t(extent.layers), "import csv");
  if (wrong.empty()) wrong = Fill(path, shape, &writer);
  if (!wrong.empty()) return wrong;
  return writer.Finish(result);
}

}  // namespace ultraep::trace
