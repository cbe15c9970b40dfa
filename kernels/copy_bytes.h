// Copies weights into a slot that this CPU will not read: past the caches, so that a transfer does
// not throw out what the step computes with.
#pragma once

#include <cstddef>

namespace ultraep {

// Any alignment, any size, no overlap. A release store publishes the bytes only after
// OrderCopies().
void CopyNonTemporal(void* to, const void* from, size_t bytes);
// To `count` places; the source is read from memory once.
void CopyNonTemporal(void* const* to, size_t count, const void* from, size_t bytes);

// Orders the calling thread's copies like plain stores. Waits until they have left the CPU, so once
// per whole transfer is cheaper than once per chunk.
void OrderCopies();

}  // namespace ultraep
