// Any number of filters times any number of positions, cut into tiles.
#pragma once

#include <cstdint>

#include "spatial_conv/job.h"

namespace spatialonnx {

// Sums of the worker's first `count` filters for some positions, to worker.sums.
void multiply(const Job& job, std::int64_t count, const float* const* x, int positions);

}  // namespace spatialonnx
