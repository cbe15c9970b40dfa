#include "plugin/examples/replay/token_ids.h"

#include <utility>

namespace ultraep::replay {

void IdsOfRow(const uint32_t* row, uint32_t experts, Random random, std::vector<int32_t>* ids) {
  ids->clear();
  for (uint32_t e = 0; e < experts; ++e) ids->insert(ids->end(), row[e], static_cast<int32_t>(e));
  for (size_t i = ids->size(); i > 1; --i)
    std::swap((*ids)[i - 1], (*ids)[random.Below(static_cast<uint32_t>(i))]);
}

}  // namespace ultraep::replay
