// The plan as it stands in the plan board: one record per step, written by the daemon before the
// step's verdict word says PLAN, copied by every rank before it submits step s + K.
//
//    0                 256                       columns_at               expert_at      bytes
//   +-----------------+-------------------------+------------------------+--------------+
//   | PlanHeader      | Replica[ranks * slots]  | columns[c][ranks] u32  | experts[c]   |
//   +-----------------+-------------------------+------------------------+--------------+
//                       only `replicas` used      only `columns` used: the load of each replicated
//                                                 expert, experts in ascending order (rule 10)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "protocol/check_plan.h"
#include "protocol/digest.h"
#include "protocol/plan.h"
#include "protocol/test_points.h"
#include "protocol/words.h"

namespace ultraep {

//    0            8          16      20           24        32          36        40
//   +------------+----------+-------+------------+---------+-----------+---------+
//   | generation | sequence | layer | microbatch | problem | replicas  | columns |
//   +------------+----------+-------+------------+---------+-----------+---------+
//    40                    72         80         88
//   +---------------------+----------+----------+-----------+
//   | certificate (4 u64) | solve_ns | content  | zero      |   256
//   +---------------------+----------+----------+-----------+
struct PlanHeader {
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  uint64_t problem = 0;   // digest of rows, shape and options
  uint32_t replicas = 0;  // used entries
  uint32_t columns = 0;   // used columns
  Certificate certificate;
  uint64_t solve_ns = 0;
  uint64_t content = 0;  // digest of everything above and of all used entries
  uint64_t zero[21] = {};
};
static_assert(sizeof(PlanHeader) == 256 && alignof(PlanHeader) == 8, "bump kLayoutVersion");
static_assert(offsetof(PlanHeader, certificate) == 40 && offsetof(PlanHeader, content) == 80,
              "bump kLayoutVersion");

// Where the parts of a record lie for a shape.
struct PlanRecordLayout {
  uint32_t max_replicas, max_columns, ranks;
  uint64_t columns_at, experts_at, bytes;

  explicit PlanRecordLayout(const PlanShape& s)
      : max_replicas(s.ranks * s.slots),
        max_columns(std::min(max_replicas, s.experts)),
        ranks(s.ranks),
        columns_at(sizeof(PlanHeader) + uint64_t{max_replicas} * sizeof(Replica)),
        experts_at(columns_at + RoundUp(uint64_t{max_columns} * ranks * 4, 8)),
        bytes(RoundUp(experts_at + uint64_t{max_columns} * 4, kLine)) {}
};

// A private copy of a record: what a rank works with once it has left shared memory.
struct RecordedPlan {
  PlanShape shape;
  PlanHeader header;
  std::vector<Replica> replicas;         // in transfer order
  std::vector<uint32_t> columns;         // [column][source rank]
  std::vector<uint32_t> column_experts;  // ascending

  const uint32_t* column(uint32_t c) const { return &columns[uint64_t{c} * shape.ranks]; }

  // Digest over header (without itself) and used entries.
  uint64_t Content() const {
    PlanHeader head = header;
    head.content = 0;
    Digest digest;
    digest.AddBytes(&head, sizeof head);
    digest.AddBytes(replicas.data(), replicas.size() * sizeof(Replica));
    digest.AddBytes(columns.data(), columns.size() * 4);
    digest.AddBytes(column_experts.data(), column_experts.size() * 4);
    return digest.value();
  }

  // Takes the load columns of the replicated experts and closes the record. Allocates only until
  // the vectors have grown to the shape's maximum.
  void Close(LoadView load) {
    column_experts.clear();
    for (const Replica& r : replicas) column_experts.push_back(r.expert);
    std::sort(column_experts.begin(), column_experts.end());
    column_experts.erase(std::unique(column_experts.begin(), column_experts.end()),
                         column_experts.end());
    columns.clear();
    for (uint32_t e : column_experts)
      for (uint32_t r = 0; r < shape.ranks; ++r) columns.push_back(load.at(r, e));
    header.replicas = replicas.size();
    header.columns = column_experts.size();
    header.content = Content();
  }
};

namespace internal {

// Copies whole 8-byte words plus a last half word, since counts of uint32 may be odd.
template <class T>
void CopyArray(std::vector<T>* to, const unsigned char* shared, size_t count) {
  const size_t words = RoundUp(count * sizeof(T), 8);
  to->resize(words / sizeof(T));
  CopyFromShared(to->data(), shared, words);
  to->resize(count);
}

template <class T>
void PutArray(unsigned char* shared, const std::vector<T>& from) {
  const size_t whole = from.size() * sizeof(T) / 8 * 8;
  CopyToShared(shared, from.data(), whole);
  if constexpr (sizeof(T) < 8) {
    if (whole == from.size() * sizeof(T)) return;
    uint64_t last = 0;
    std::memcpy(&last, &from.back(), sizeof(T));
    CopyToShared(shared + whole, &last, 8);
  }
}

}  // namespace internal

inline void WriteRecord(const PlanRecordLayout& layout, unsigned char* shared,
                        const RecordedPlan& plan) {
  ULTRAEP_POINT("record:before");
  CopyToShared(shared, &plan.header, sizeof plan.header);
  ULTRAEP_POINT("record:header");
  internal::PutArray(shared + sizeof(PlanHeader), plan.replicas);
  ULTRAEP_POINT("record:replicas");
  internal::PutArray(shared + layout.columns_at, plan.columns);
  internal::PutArray(shared + layout.experts_at, plan.column_experts);
  ULTRAEP_POINT("record:whole");
}

// What a rank expects to find.
struct RecordExpectation {
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint32_t source = 0;            // own rank
  const uint32_t* row = nullptr;  // own submitted load, [experts]
};

// Copies, then validates the copy. Empty when it may be used, else what is wrong with it.
inline std::string ReadRecord(const PlanRecordLayout& layout, const PlanShape& shape,
                              const unsigned char* shared, const RecordExpectation& expect,
                              PlanChecker* checker, RecordedPlan* plan) {
  auto wrong = [](const char* what, uint64_t found, uint64_t expected) {
    return std::string("plan record: ") + what + " is " + std::to_string(found) + ", expected " +
           std::to_string(expected);
  };
  plan->shape = shape;
  CopyFromShared(&plan->header, shared, sizeof plan->header);
  const PlanHeader& head = plan->header;
  if (head.generation != expect.generation)
    return wrong("generation", head.generation, expect.generation);
  if (head.sequence != expect.sequence) return wrong("sequence", head.sequence, expect.sequence);
  if (head.replicas > layout.max_replicas)
    return wrong("number of replicas", head.replicas, layout.max_replicas);
  if (head.columns > layout.max_columns)
    return wrong("number of columns", head.columns, layout.max_columns);
  internal::CopyArray(&plan->replicas, shared + sizeof(PlanHeader), head.replicas);
  internal::CopyArray(&plan->columns, shared + layout.columns_at,
                      uint64_t{head.columns} * layout.ranks);
  internal::CopyArray(&plan->column_experts, shared + layout.experts_at, head.columns);
  if (plan->Content() != head.content) return wrong("digest", plan->Content(), head.content);

  for (uint32_t c = 0; c < head.columns; ++c) {
    const uint32_t expert = plan->column_experts[c];
    if (expert >= shape.experts) return wrong("column's expert", expert, shape.experts - 1);
    if (c && expert <= plan->column_experts[c - 1])
      return wrong("order of columns", expert, plan->column_experts[c - 1]);
    if (plan->column(c)[expect.source] != expect.row[expert])
      return wrong("own load of a replicated expert", plan->column(c)[expect.source],
                   expect.row[expert]);
  }
  auto tokens = [&](uint32_t expert) -> uint64_t {
    auto at = std::lower_bound(plan->column_experts.begin(), plan->column_experts.end(), expert);
    if (at == plan->column_experts.end() || *at != expert) return 0;
    uint64_t sum = 0;
    const uint32_t* column = plan->column(at - plan->column_experts.begin());
    for (uint32_t r = 0; r < shape.ranks; ++r) sum += column[r];
    return sum;
  };
  if (PlanFault fault = checker->Check(shape, plan->replicas, tokens)) return fault.text();
  return "";
}

}  // namespace ultraep
