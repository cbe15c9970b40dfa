// What every function of the C ABI is wrapped in: no exception leaves, and the text of what went
// wrong is kept for the calling thread.
#pragma once

#include <exception>
#include <string>

#include "plugin/core/result.h"

namespace ultraep {

inline std::string& LastError() {
  thread_local std::string text;
  return text;
}

// Nothing may leave the C ABI but a status. body() returns a Result.
template <class Body>
ultraep_status Guard(const char* call, Body body) {
  Result result;
  try {
    result = body();
  } catch (const std::exception& e) {
    result = {ULTRAEP_INTERNAL, e.what()};
  }
  if (!result.ok()) LastError() = std::string(call) + ": " + result.text;
  return result.status;
}

inline Result Null(const char* argument) { return Invalid(std::string(argument) + " is NULL"); }

}  // namespace ultraep
