// Maps one segment of a generation out of the files that hold them all.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "protocol/boards.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// files: [kSegmentFiles]. The mapping goes to the end of `mappings`, its address to `boards`, whose
// layout is set; ranks come in their order. Empty on success.
inline std::string MapSegment(const std::vector<Descriptor>& files, SegmentKind kind, uint32_t rank,
                              bool writable, std::vector<Mapping>* mappings, Boards* boards) {
  const GroupLayout& layout = *boards->layout;
  Mapping mapping;
  std::string wrong = mapping.Map(files[uint32_t(layout.file(kind))].get(),
                                  layout.offset(kind, rank), layout.bytes(kind), writable);
  if (!wrong.empty()) return wrong;
  boards->Place(kind, mapping.base());
  mappings->push_back(std::move(mapping));
  return "";
}

}  // namespace ultraep
