// The parts of `ultraepctl trace`, and what `ultraepctl report` shares with them.
#pragma once

#include <string>

#include "daemon/trace/convert.h"
#include "daemon/trace/trace_files.h"

namespace ultraep {

// Each returns the exit status. Arguments as on the command line.
int RecordTrace();
int ShowTrace(const std::string& path);
int ConvertTrace(const std::string& path);
int ImportTrace(const std::string& path);

int FailTrace(int status, const std::string& text);

// --steps A-B or A of a trace with so many steps; all of them when the flag is not given. Empty, or
// what is wrong with it.
std::string TakeStepRange(uint64_t steps, trace::StepRange* range);

}  // namespace ultraep
