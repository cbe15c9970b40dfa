// Tells a forked child (a data loader) from the process that made a client: the child has neither
// its threads nor its shared memory.
#pragma once

namespace ultraep {

// Forks between the program's start (or the first call) and now, as this process sees them.
int ForkCount();

}  // namespace ultraep
