// Stage 2: the other positions of a band, where probes fired, for channels that share their patterns.
#pragma once

#include "spatial_conv/job.h"

namespace spatialonnx {

// After stage 1 of all patches.
void compute_others(Job& job);

}  // namespace spatialonnx
