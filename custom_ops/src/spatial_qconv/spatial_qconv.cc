// The op SpatialQConv: its inputs are numbered in quantisation.h; Y, skipped?, macs?
#include "spatial_qconv/spatial_qconv.h"

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "ort/op.h"
#include "ort/ops.h"
#include "spatial_conv/conv_inputs.h"
#include "spatial_qconv/quantisation.h"
#include "spatial_qconv/run.h"

namespace spatialonnx {
namespace {

// Best first; the reference, which has no vector kernels, is last.
constexpr Variant<const QConvKernels*> kKernels[] = {
#define X(isa) {Isa::isa, &isa::qconv_kernels},
    SPATIALONNX_INT8_ISAS(X)
#undef X
    {Isa::reference, nullptr},
};

class SpatialQConv : public Kernel {
 public:
  explicit SpatialQConv(const NodeInfo& info)
      : kernels_(choose_variant(kKernels, choose_isa())),
        attributes_(info, constant(info, kW, "W").shape()),
        quantisation_(info, attributes_, kernels_ == nullptr ? 0 : kernels_->input_flip) {
    const Tensor mask = constant(info, kMask, "mask");
    const PatchGrid grid = grid_of_mask(attributes_, mask);
    mask_ = check_mask(mask, grid);
    patterns_.assign(mask_.patterns, mask_.patterns + mask.count());
    mask_.patterns = patterns_.data();
    mask_patches_ = {grid.rows(), grid.columns()};
    if (kernels_ != nullptr) {
      const auto* w = constant(info, kW, "W").data<std::int8_t>();
      plan_ =
          std::make_unique<const QConvPlan>(attributes_, w, mask_, mask_patches_, *kernels_);
    }
  }

  void run(const RunContext& context) const override {
    const Tensor x = context.input(kX, "X");
    const ConvShape shape(attributes_, x, true);
    const std::array<std::int64_t, 4> y_shape{shape.batch, shape.output[0], shape.output[1],
                                              attributes_.outputs};
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    element_count(y_shape);
    const bool one_pattern = mask_patches_ == PerAxis{1, 1};
    if (!one_pattern && mask_patches_ != PerAxis{shape.grid.rows(), shape.grid.columns()}) {
      check_mask(context.input(kMask, "mask"), shape.grid);  // throws
    }
    QConvTask task{
        .attributes = &attributes_,
        .shape = &shape,
        .requantise = &quantisation_.requantise(),
        .mask = mask_,
        .x_zero_point = quantisation_.x_zero_point(),
        .x = x.data<std::uint8_t>(),
        .w = nullptr,
        .x_offset = kernels_ == nullptr ? 0 : kernels_->input_flip,
        .residual = residual(context, y_shape),
        .y = context.output<std::uint8_t>(0, y_shape),
        .skipped = context.output<std::int64_t>(1, counts),
        .macs = context.output<std::int64_t>(2, counts),
    };
    if (shape.batch == 0) return;
    if (kernels_ != nullptr && QConvMap::is_bounded(attributes_, shape, plan_->unfolded)) {
      run_spatial_qconv(context, task, *plan_, *kernels_, threads_);
    } else {
      task.w = context.input(kW, "W").data<std::int8_t>();
      const auto planes = static_cast<std::size_t>(shape.batch * attributes_.outputs);
      context.parallel_for(planes,
                           [&](std::size_t i) { reference::qconv_planes(task, i, i + 1); });
    }
  }

 private:
  const std::uint8_t* residual(const RunContext& context,
                               std::span<const std::int64_t> y_shape) const {
    if (!quantisation_.has_residual()) return nullptr;
    const Tensor residual = context.input(kResidual, "residual");
    if (!std::ranges::equal(residual.shape(), y_shape)) {
      throw OpError("input residual has shape " + shape_text(residual.shape()) + ", but takes " +
                    shape_text(y_shape));
    }
    return residual.data<std::uint8_t>();
  }

  const QConvKernels* kernels_;
  const ConvAttributes attributes_;
  const QConvQuantisation quantisation_;
  std::vector<std::uint16_t> patterns_;  // a copy: ONNX Runtime may give up what the model holds
  MaskView mask_;
  PerAxis mask_patches_;
  std::unique_ptr<const QConvPlan> plan_;
  mutable ThreadCount threads_;  // learns from run to run, and changes no output
};

constexpr TensorDefinition kInputs[] = {
    {abi::kUint8},                  // X
    {abi::kFloat},                  // x_scale
    {abi::kUint8},                  // x_zero_point
    {abi::kInt8},                   // W
    {abi::kFloat},                  // w_scale
    {abi::kFloat},                  // y_scale
    {abi::kUint8},                  // y_zero_point
    {abi::kUint16},                 // mask
    {abi::kInt32, abi::kOptional},  // B
    {abi::kUint8, abi::kOptional},  // residual
    {abi::kFloat, abi::kOptional},  // residual_scale
    {abi::kUint8, abi::kOptional},  // residual_zero_point
    {abi::kFloat, abi::kOptional},  // conv_scale
    {abi::kUint8, abi::kOptional},  // conv_zero_point
    {abi::kUint8, abi::kOptional},  // threshold
};
constexpr TensorDefinition kOutputs[] = {
    {abi::kUint8},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};

}  // namespace

const OpDefinition kSpatialQConv = {
    .name = "SpatialQConv",
    .provider = nullptr,
    .inputs = kInputs,
    .outputs = kOutputs,
    .create = create_kernel<SpatialQConv>,
};

}  // namespace spatialonnx
