// The op SpatialConv: X, W, mask, B?, residual?, threshold? -> Y, skipped?, macs?
#include "spatial_conv/spatial_conv.h"

#include <array>
#include <memory>

#include "ort/op.h"
#include "ort/ops.h"
#include "ort/patch_inputs.h"
#include "ort/signatures.h"
#include "spatial_conv/conv_inputs.h"
#include "spatial_conv/engine.h"
#include "spatial_conv/padded_map.h"

namespace spatialonnx {
namespace {

// Best first; the reference, which has no vector kernels, is last.
constexpr Variant<const ConvKernels*> kKernels[] = {
#define X(isa) {Isa::isa, &isa::conv_kernels},
    SPATIALONNX_VECTOR_ISAS(X)
#undef X
    {Isa::reference, nullptr},
};

class SpatialConv : public Kernel {
 public:
  explicit SpatialConv(const NodeInfo& info)
      : kernels_(choose_variant(kKernels, choose_isa())),
        attributes_(info, constant(info, 1, "W").shape()) {
    const Tensor w = constant(info, 1, "W");
    const Tensor mask = constant(info, 2, "mask");
    const PatchGrid grid = grid_of_mask(attributes_, mask);
    const MaskView view = check_mask(mask, grid);
    const auto threshold = info.constant_input(5, "threshold");
    const ThresholdView thresholds = check_threshold(threshold, attributes_.outputs);
    if (kernels_ != nullptr) {
      plan_ = std::make_unique<const ConvPlan>(attributes_, w.data<float>(), view,
                                               PerAxis{grid.rows(), grid.columns()}, thresholds,
                                               *kernels_);
    }
    constant_threshold_ = threshold.has_value();
  }

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const ConvShape shape(attributes_, x);
    const ConvInputs inputs = check_inputs(context, attributes_, shape);
    const auto threshold = constant_threshold(context, 5, constant_threshold_);
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    ConvTask task{
        .attributes = &attributes_,
        .shape = &shape,
        .mask = view_mask(context.input(2, "mask"), shape.grid),  // the patterns are checked
        .threshold = check_threshold(threshold, attributes_.outputs),
        .x = x.data<float>(),
        .w = context.input(1, "W").data<float>(),
        .bias = inputs.bias,
        .residual = inputs.residual,
        .y = context.output<float>(0, shape.output_shape()),
        .skipped = context.output<std::int64_t>(1, counts),
        .macs = context.output<std::int64_t>(2, counts),
    };
    if (shape.batch == 0) return;
    if (kernels_ != nullptr && PaddedMap::is_bounded(attributes_, shape)) {
      run_spatial_conv(context, task, *plan_, *kernels_, threads_);
    } else {
      const auto planes = static_cast<std::size_t>(shape.batch * attributes_.outputs);
      context.parallel_for(planes,
                           [&](std::size_t i) { reference::conv_planes(task, i, i + 1); });
    }
  }

 private:
  const ConvKernels* kernels_;
  const ConvAttributes attributes_;
  bool constant_threshold_ = false;
  std::unique_ptr<const ConvPlan> plan_;
  mutable ThreadCount threads_;  // learns from run to run, and changes no output
};

}  // namespace

const OpDefinition kSpatialConv = {
    .name = "SpatialConv",
    .provider = nullptr,
    .inputs = kConvInputs,
    .outputs = kConvOutputs,
    .create = create_kernel<SpatialConv>,
};

}  // namespace spatialonnx
