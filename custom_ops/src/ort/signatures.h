// The inputs and outputs of the ops that more than one provider has: written once, for all of them.
#pragma once

#include "ort/op.h"

namespace spatialonnx {

// Masks, patch sizes and thresholds are host memory on every provider: they are checked there. A
// threshold is float32 beside float maps, and steps above the zero point, uint8, beside 8-bit maps.
constexpr abi::ElementType threshold_type(abi::ElementType map) {
  return map == abi::kFloat || map == abi::kFloat16 ? abi::kFloat : abi::kUint8;
}

// X, mask, patch_size, threshold?, zero_point? -> Y, skipped?, false_zero?; X and Y of one type.
template <abi::ElementType map>
inline constexpr TensorDefinition kPredictInputs[] = {
    {map},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
    {threshold_type(map), abi::kOptional, abi::kCpuInput},
    {map, abi::kOptional, abi::kCpuInput},
};
template <abi::ElementType map>
inline constexpr TensorDefinition kPredictOutputs[] = {
    {map},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

// X, patch_size, threshold?, zero_point? -> codes.
template <abi::ElementType map>
inline constexpr TensorDefinition kCodesInputs[] = {
    {map},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
    {threshold_type(map), abi::kOptional, abi::kCpuInput},
    {map, abi::kOptional, abi::kCpuInput},
};
inline constexpr TensorDefinition kCodesOutputs[] = {{abi::kUint16}};

// X, W, mask, B?, residual?, threshold? -> Y, skipped?, macs?
inline constexpr TensorDefinition kConvInputs[] = {
    {abi::kFloat},
    {abi::kFloat},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional, abi::kCpuInput},
};
inline constexpr TensorDefinition kConvOutputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

}  // namespace spatialonnx
