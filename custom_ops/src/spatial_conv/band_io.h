// A job's way in and out: Y and the residual are planes of channels, a job works on channels that
// lie side by side.
#pragma once

#include "spatial_conv/job.h"

namespace spatialonnx {

// Finds the planes of Y and asks for the lines that write_planes will write.
void prepare_planes(const Job& job);

// Copies the band's residual, if there is one, to the worker.
void read_residual(const Job& job);

// Copies the band's finished outputs to the planes.
void write_planes(const Job& job);

}  // namespace spatialonnx
