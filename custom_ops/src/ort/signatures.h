// The inputs and outputs of the ops that more than one provider has: written once, for all of them.
#pragma once

#include "ort/op.h"

namespace spatialonnx {

// Masks and patch sizes are host memory on every provider: they are checked there.

// X, mask, patch_size -> Y, skipped?, false_zero?; X and Y of one type.
template <abi::ElementType type>
inline constexpr TensorDefinition kPredictInputs[] = {
    {type},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
};
template <abi::ElementType type>
inline constexpr TensorDefinition kPredictOutputs[] = {
    {type},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

// X, patch_size -> codes.
inline constexpr TensorDefinition kCodesInputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
};
inline constexpr TensorDefinition kCodesOutputs[] = {{abi::kUint16}};

// X, W, mask, B?, residual? -> Y, skipped?, macs?
inline constexpr TensorDefinition kConvInputs[] = {
    {abi::kFloat},
    {abi::kFloat},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional},
};
inline constexpr TensorDefinition kConvOutputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

}  // namespace spatialonnx
