// Builds the image of a resolved step: what a CPU works out of the plan for this rank's kernels.
#pragma once

#include <cstdint>

#include "kernels/device/plan_image.h"
#include "kernels/route_tokens.h"
#include "plugin/core/steps.h"

namespace ultraep {

// Whose image, and where its operations happen.
struct ImageContext {
  uint32_t rank = 0;
  uint32_t teams = 1;       // blocks that will share the stream
  uint64_t chunks = 0;      // of a slot
  uint64_t generation = 0;  // whose slots operations use from this step on; 0: none
  uint32_t memory = 0;      // its index
};

// Into `to`, of PlanImageBytes, 16-byte aligned. failed: the verdict is FAILED, and there are no
// replicas. `router` is scratch that saves allocations. Returns the image's bytes.
uint32_t BuildImage(const ResolvedStep& step, bool failed, const ImageContext& context,
                    TokenRouter* router, unsigned char* to);

}  // namespace ultraep
