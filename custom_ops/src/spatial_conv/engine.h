// SpatialConv by vector kernels, on ORT's threads.
#pragma once

#include "ort/workers.h"
#include "spatial_conv/plan.h"
#include "spatial_conv/spatial_conv.h"

namespace spatialonnx {

// Every output is written once; the counts are complete. `threads` is the node's, and learns.
void run_spatial_conv(const RunContext& context, const ConvTask& task, const ConvPlan& plan,
                      const ConvKernels& kernels, ThreadCount& threads);

}  // namespace spatialonnx
