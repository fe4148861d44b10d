// Every op of the library, one line each. registration.cc registers this list.
#pragma once

#include "op.h"

namespace spatialonnx {

inline constexpr const char* kDomain = "spatialonnx";

extern const OpDefinition kSpatialPredict;
extern const OpDefinition kPatchCodes;

inline constexpr const OpDefinition* kOps[] = {
    &kSpatialPredict,
    &kPatchCodes,
};

}  // namespace spatialonnx
