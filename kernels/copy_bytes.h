// Copies weights into a slot that this CPU will not read: past the caches, so that a transfer does
// not throw out what the step computes with.
#pragma once

#include <cstddef>

namespace ultraep {

// Any alignment, any size, no overlap. Ordered like plain stores when it returns: a release store
// that follows publishes the bytes.
void CopyNonTemporal(void* to, const void* from, size_t bytes);

}  // namespace ultraep
