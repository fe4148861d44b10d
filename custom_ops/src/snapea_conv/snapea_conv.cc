// The op SnapeaConv: X, W, B?, residual?, heads?, threshold?, mask?, mask_threshold? -> Y, macs?
#include "snapea_conv/snapea_conv.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "ort/op.h"
#include "ort/ops.h"
#include "ort/patch_inputs.h"
#include "spatial_conv/conv_inputs.h"

namespace spatialonnx {
namespace {

constexpr Variant<SnapeaKernel> kKernels[] = {
#define X(isa) {Isa::isa, isa::snapea_tile},
    SPATIALONNX_VECTOR_ISAS(X)
#undef X
    {Isa::reference, nullptr},
};

class SnapeaConv : public Kernel {
 public:
  explicit SnapeaConv(const NodeInfo& info)
      : kernel_(choose_variant(kKernels, choose_isa())),
        attributes_(info, constant(info, 1, "W").shape(), kMinPatchSize),
        weights_(sorted(info, attributes_)) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const ConvShape shape(attributes_, x);
    const std::array<std::int64_t, 1> per_channel{attributes_.outputs};
    const auto output_shape = shape.output_shape();
    const auto bias = context.optional_input(2, "B");
    const auto residual = context.optional_input(3, "residual");
    const auto heads = context.optional_input(4, "heads");
    const auto threshold = context.optional_input(5, "threshold");
    const auto mask = context.optional_input(6, "mask");
    if (bias) check_shape(*bias, "B", per_channel);
    if (residual) check_shape(*residual, "residual", output_shape);
    if (heads) check_shape(*heads, "heads", per_channel);
    if (threshold) check_shape(*threshold, "threshold", per_channel);
    if (heads.has_value() != threshold.has_value()) {
      throw OpError("inputs heads and threshold go together, but only one of them is given");
    }
    element_count(output_shape);
    std::optional<MaskView> view;
    if (mask) view = check_mask(*mask, shape.grid);
    const auto mask_threshold = context.optional_input(7, "mask_threshold");
    if (mask_threshold && !mask) {
      throw OpError("input mask_threshold goes with a mask, but none is given");
    }
    const auto channels = static_cast<std::size_t>(attributes_.outputs);
    const auto count = channels * static_cast<std::size_t>(weights_.taps());
    const auto taps = context.scratch<std::int32_t>(count);
    const auto weights = context.scratch<float>(count);
    const auto head = context.scratch<std::int32_t>(channels);
    const auto unchecked = context.scratch<std::int32_t>(channels);
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    const SnapeaTask task{
        .attributes = &attributes_,
        .shape = &shape,
        .order = weights_.order(context.input(1, "W").data<float>(),
                                heads ? heads->data<std::int64_t>() : nullptr,
                                {taps.data(), weights.data(), head.data(), unchecked.data()}),
        .threshold = threshold ? threshold->data<float>() : nullptr,
        .mask = view ? &*view : nullptr,
        .mask_threshold = check_threshold(mask_threshold, attributes_.outputs, "mask_threshold"),
        .x = x.data<float>(),
        .bias = bias ? bias->data<float>() : nullptr,
        .residual = residual ? residual->data<float>() : nullptr,
        .y = context.output<float>(0, output_shape),
        .macs = context.output<std::int64_t>(1, counts),
    };
    if (shape.batch == 0) return;
    if (kernel_ != nullptr) {
      run_snapea_conv(context, task, kernel_);
      return;
    }
    const auto planes = static_cast<std::size_t>(shape.batch * attributes_.outputs);
    context.parallel_for(planes, [&](std::size_t i) {
      const auto outputs = static_cast<std::size_t>(shape.grid.map_size());
      const auto macs = context.scratch<std::int32_t>(outputs);
      reference::snapea_planes(task, i, i + 1, macs.data());
    });
  }

 private:
  static SnapeaWeights sorted(const NodeInfo& info, const ConvAttributes& attributes) {
    if (attributes.macs() > std::numeric_limits<std::int32_t>::max()) {
      throw OpError("input W has " + std::to_string(attributes.macs()) +
                    " weights a kernel, but takes at most 2147483647");
    }
    return {constant(info, 1, "W").data<float>(), attributes.outputs, attributes.macs()};
  }

  const SnapeaKernel kernel_;
  const ConvAttributes attributes_;
  const SnapeaWeights weights_;
};

constexpr TensorDefinition kInputs[] = {
    {abi::kFloat},
    {abi::kFloat},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional},
    {abi::kInt64, abi::kOptional, abi::kCpuInput},
    {abi::kFloat, abi::kOptional},
    {abi::kUint16, abi::kOptional, abi::kCpuInput},
    {abi::kFloat, abi::kOptional, abi::kCpuInput},
};
constexpr TensorDefinition kOutputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kOptional},
};

}  // namespace

const OpDefinition kSnapeaConv = {
    .name = "SnapeaConv",
    .provider = nullptr,
    .inputs = kInputs,
    .outputs = kOutputs,
    .create = create_kernel<SnapeaConv>,
};

}  // namespace spatialonnx
