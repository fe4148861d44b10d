// Both stages of a band whose channels differ in their patterns, patch by patch.
#pragma once

#include "spatial_conv/job.h"

namespace spatialonnx {

// In every patch the channels that share a pattern are worked on together.
void compute_mixed(Job& job);

}  // namespace spatialonnx
