// What a call inside the plugin says: a status of the C ABI and, when it is not OK, the reason.
#pragma once

#include <string>
#include <utility>

#include "plugin/api/ultraep.h"

namespace ultraep {

struct Result {
  ultraep_status status = ULTRAEP_OK;
  std::string text;

  bool ok() const { return status == ULTRAEP_OK; }
};

inline Result Ok() { return {}; }
inline Result Invalid(std::string text) { return {ULTRAEP_INVALID, std::move(text)}; }
inline Result RefusedJoin(std::string text) { return {ULTRAEP_REFUSED, std::move(text)}; }
inline Result Failed(std::string text) { return {ULTRAEP_FAILED, std::move(text)}; }
inline Result Timeout(std::string text) { return {ULTRAEP_TIMEOUT, std::move(text)}; }

}  // namespace ultraep
