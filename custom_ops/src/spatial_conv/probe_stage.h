// Stage 1: the probes of a band, for all channels of a block that share their patterns.
#pragma once

#include <cstdint>

#include "spatial_conv/job.h"

namespace spatialonnx {

// Lists the band's probes, patch by patch, in the worker.
void list_probes(Job& job);

// Whether enough probes are listed for panels, which are a second copy of the weights to read.
bool panels_pay(const Job& job);

// The listed probes of the channels that have panels.
void compute_probes_by_panels(const Job& job);

// Those of the other channels, from `channel` of the block on.
void compute_probes_by_filters(const Job& job, std::int64_t channel);

}  // namespace spatialonnx
