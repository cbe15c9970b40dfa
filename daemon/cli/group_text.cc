#include "daemon/cli/group_text.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "daemon/status_json.h"
#include "protocol/boards.h"

namespace ultraep {

std::string NotReadyText(const StatusGroup& group) {
  const uint32_t ranks = std::min(group.config.ranks, kMaxRanks);
  std::string text;
  for (uint32_t first = 0; first < ranks;) {
    const uint8_t state = group.members[first];
    uint32_t end = first + 1;
    while (end < ranks && group.members[end] == state) ++end;
    if (MemberState(state) != MemberState::kReady) {
      const std::string who = end == first + 1 ? absl::StrFormat("rank %d", first)
                                               : absl::StrFormat("ranks %d-%d", first, end - 1);
      text += (text.empty() ? "" : ", ") + who + " " + MemberName(state);
    }
    first = end;
  }
  return text;
}

}  // namespace ultraep
