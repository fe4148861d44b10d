// The op SpatialConv: X, W, mask, B?, residual? -> Y, skipped?, macs?
#include "spatial_conv.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "op.h"
#include "ops.h"

namespace spatialonnx {
namespace {

// Best first; the reference, which has no vector kernels, is last.
constexpr Variant<const ConvKernels*> kKernels[] = {
#define X(isa) {Isa::isa, &isa::conv_kernels},
    SPATIALONNX_VECTOR_ISAS(X)
#undef X
    {Isa::reference, nullptr},
};

// A constant input's tensor. Throws OpError where it is not a constant.
Tensor constant(const NodeInfo& info, std::size_t index, const char* name) {
  std::optional<Tensor> tensor = info.constant_input(index, name);
  if (!tensor) {
    throw OpError(std::string("input ") + name +
                  " is fed or computed, but takes a constant: an initializer that is not an input");
  }
  return *std::move(tensor);
}

// The grid that a mask is made for: of a mask for all patches, one patch.
PatchGrid grid_of_mask(const ConvAttributes& attributes, const Tensor& mask) {
  mask.expect_rank(3, "three dimensions, [C or 1, rows or 1, columns or 1]");
  const std::int64_t p = attributes.patch_size;
  if (mask.count() == 0 || mask.count() > std::numeric_limits<std::int32_t>::max()) {
    throw OpError("input mask has shape " + shape_text(mask.shape()) + ", which holds no patterns");
  }
  return {1, attributes.outputs, mask.dim(1) * p, mask.dim(2) * p, p};
}

class SpatialConv : public Kernel {
 public:
  explicit SpatialConv(const NodeInfo& info)
      : kernels_(choose_variant(kKernels, choose_isa())),
        attributes_(info, constant(info, 1, "W").shape()) {
    const Tensor w = constant(info, 1, "W");
    const Tensor mask = constant(info, 2, "mask");
    const PatchGrid grid = grid_of_mask(attributes_, mask);
    const MaskView view = check_mask(mask, grid);
    const auto* weights = w.data<float>();
    if (kernels_ != nullptr) {
      plan_ = std::make_unique<const ConvPlan>(attributes_, weights, view,
                                               Pair{grid.rows(), grid.columns()}, *kernels_);
    }
  }

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const ConvShape shape(attributes_, x);
    const auto bias = context.optional_input(3, "B");
    const auto residual = context.optional_input(4, "residual");
    const auto output_shape = shape.output_shape();
    const std::array<std::int64_t, 1> bias_shape{attributes_.outputs};
    if (bias) check_shape(*bias, "B", bias_shape);
    if (residual) check_shape(*residual, "residual", output_shape);
    element_count(output_shape);
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    ConvTask task{
        .attributes = &attributes_,
        .shape = &shape,
        .mask = check_mask(context.input(2, "mask"), shape.grid),
        .x = x.data<float>(),
        .w = context.input(1, "W").data<float>(),
        .bias = bias ? bias->data<float>() : nullptr,
        .residual = residual ? residual->data<float>() : nullptr,
        .y = context.output<float>(0, output_shape),
        .skipped = context.output<std::int64_t>(1, counts),
        .macs = context.output<std::int64_t>(2, counts),
    };
    if (shape.batch == 0) return;
    if (kernels_ != nullptr) {
      run_spatial_conv(context, task, *plan_, *kernels_);
    } else {
      const auto planes = static_cast<std::size_t>(shape.batch * attributes_.outputs);
      context.parallel_for(planes,
                           [&](std::size_t i) { reference::conv_planes(task, i, i + 1); });
    }
  }

 private:
  static void check_shape(const Tensor& tensor, const char* name,
                          std::span<const std::int64_t> takes) {
    if (!std::ranges::equal(tensor.shape(), takes)) {
      throw OpError(std::string("input ") + name + " has shape " + shape_text(tensor.shape()) +
                    ", but takes " + shape_text(takes));
    }
  }

  const ConvKernels* kernels_;
  const ConvAttributes attributes_;
  std::unique_ptr<const ConvPlan> plan_;
};

constexpr TensorDefinition kInputs[] = {
    {abi::kFloat},
    {abi::kFloat},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional},
};
constexpr TensorDefinition kOutputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

}  // namespace

const OpDefinition kSpatialConv = {
    .name = "SpatialConv",
    .provider = nullptr,
    .inputs = kInputs,
    .outputs = kOutputs,
    .create = create_kernel<SpatialConv>,
};

}  // namespace spatialonnx
