// Every op of the library, one line each. registration.cc registers this list.
#pragma once

#include "op.h"

namespace spatialonnx {

inline constexpr const char* kDomain = "spatialonnx";

extern const OpDefinition kSpatialConv;
extern const OpDefinition kSpatialPredict;
extern const OpDefinition kPatchCodes;
extern const OpDefinition kSnapeaConv;

inline constexpr const OpDefinition* kOps[] = {
    &kSpatialConv,
    &kSpatialPredict,
    &kPatchCodes,
    &kSnapeaConv,
};

}  // namespace spatialonnx
