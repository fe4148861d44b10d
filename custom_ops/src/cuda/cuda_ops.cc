// The ops on CUDA: adapters that check, allocate and launch. Masks and patch sizes are host memory,
// as on the CPU: they are checked there before anything is launched. SpatialConv's mask and
// thresholds are constant, so they are checked and uploaded once, when the kernel is created.
#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "core/patch_grid.h"
#include "core/scratch_layout.h"
#include "cuda/cuda_kernels.h"
#include "ort/op.h"
#include "ort/ops.h"
#include "ort/patch_inputs.h"
#include "ort/signatures.h"
#include "spatial_conv/conv_inputs.h"

namespace spatialonnx {
namespace {

// An error of CUDA, on its way to an OrtStatus.
void check(const CudaStatus& status) {
  if (!status.failed()) return;
  throw std::runtime_error(std::string("CUDA error ") + status.name + " (" + status.text + ") in " +
                           status.where);
}

DeviceMap device_map(const PatchGrid& grid) {
  return {grid.batch, grid.channels, grid.height, grid.width,
          static_cast<std::int32_t>(grid.patch_size)};
}

MaskView with_patterns(const MaskView& mask, const std::uint16_t* patterns) {
  return {patterns, mask.channel_stride, mask.row_stride, mask.column_stride};
}

void refuse_zero_point(const RunContext& context, std::size_t index) {
  if (!context.optional_input(index, "zero_point")) return;
  throw OpError("input zero_point goes with 8-bit maps, but X is a map of floats");
}

// Enqueues a copy of an array.
template <class T>
void upload(const T* from, std::int64_t count, T* to, void* stream) {
  // ORT's own memory may be pinned, and then CUDA would read it later, when ORT uses it otherwise.
  const std::vector<T> pageable(from, from + count);
  check(copy_to_device(to, pageable.data(), pageable.size() * sizeof(T), stream));
}

// A constant of the model in device memory, from when the kernel is created.
template <class T>
class DeviceConstant {
 public:
  DeviceConstant(const NodeInfo& info, const Tensor& host)
      : memory_(info.provider_memory(static_cast<std::size_t>(host.count()) * sizeof(T))) {
    check(copy_to_device_now(memory_.data(), host.data<T>(), memory_.size()));
  }
  const T* data() const { return reinterpret_cast<const T*>(memory_.data()); }

 private:
  const Scratch<std::byte> memory_;
};

template <class T>
class SpatialPredict : public Kernel {
 public:
  explicit SpatialPredict(const NodeInfo&) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const Tensor mask = context.input(1, "mask");
    const PatchGrid grid = check_map(x, check_patch_size(context.input(2, "patch_size")));
    const MaskView view = check_mask(mask, grid);
    refuse_zero_point(context, 4);
    const auto threshold = context.optional_input(3, "threshold");
    const ThresholdView on_host = check_threshold(threshold, grid.channels);
    const std::array<std::int64_t, 2> counts{grid.batch, grid.channels};
    PredictArguments<T> arguments{
        .map = device_map(grid),
        .mask = {},
        .threshold = {},
        .x = x.data<T>(),
        .y = context.output<T>(0, x.shape()),
        .skipped = context.output<std::int64_t>(1, counts),
        .false_zero = context.output<std::int64_t>(2, counts),
    };
    if (element_count(counts) == 0) return;
    void* const stream = context.gpu_stream();
    const auto lay_out = [&](ScratchLayout& layout) {
      return std::pair(layout.take<std::uint16_t>(mask.count()),
                       layout.take<float>(threshold ? threshold->count() : 0));
    };
    ScratchLayout measure(nullptr, ScratchLayout::kDeviceAlignment);
    lay_out(measure);
    const auto scratch = context.device_scratch(x, static_cast<std::size_t>(measure.used()));
    ScratchLayout layout(scratch.data(), ScratchLayout::kDeviceAlignment);
    const auto [patterns, thresholds] = lay_out(layout);
    // A mask without patterns belongs to a map without patches: nobody reads it.
    if (mask.count() > 0) upload(view.patterns, mask.count(), patterns, stream);
    arguments.mask = with_patterns(view, patterns);
    if (threshold) {
      upload(on_host.values, threshold->count(), thresholds, stream);
      arguments.threshold = {thresholds, on_host.stride};
    }
    check(predict_cuda(arguments, stream));
  }
};

class PatchCodes : public Kernel {
 public:
  explicit PatchCodes(const NodeInfo&) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const PatchGrid grid = check_map(x, check_patch_size(context.input(1, "patch_size")));
    const std::array<std::int64_t, 4> shape{grid.batch, grid.channels, grid.rows(),
                                            grid.columns()};
    refuse_zero_point(context, 3);
    const auto threshold = context.optional_input(2, "threshold");
    const ThresholdView on_host = check_threshold(threshold, grid.channels);
    CodesArguments arguments{device_map(grid), {}, x.data<float>(),
                             context.output<std::uint16_t>(0, shape)};
    if (x.count() == 0) return;
    void* const stream = context.gpu_stream();
    const std::int64_t count = threshold ? threshold->count() : 0;
    const auto scratch =
        context.device_scratch(x, static_cast<std::size_t>(count) * sizeof(float));
    if (threshold) {
      auto* const thresholds = reinterpret_cast<float*>(scratch.data());
      upload(on_host.values, count, thresholds, stream);
      arguments.threshold = {thresholds, on_host.stride};
    }
    check(codes_cuda(arguments, stream));
  }
};

class SpatialConv : public Kernel {
 public:
  explicit SpatialConv(const NodeInfo& info)
      : attributes_(info, constant(info, 1, "W").shape()),
        patterns_(info, checked_mask(info, attributes_)) {
    const auto threshold = info.constant_input(5, "threshold");
    check_threshold(threshold, attributes_.outputs);
    if (threshold) thresholds_.emplace(info, *threshold);
  }

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const ConvShape shape(attributes_, x);
    const ConvInputs inputs = check_inputs(context, attributes_, shape);
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    const MaskView mask = view_mask(context.input(2, "mask"), shape.grid);
    const auto threshold = constant_threshold(context, 5, thresholds_.has_value());
    ConvArguments arguments{
        .out = device_map(shape.grid),
        .mask = with_patterns(mask, patterns_.data()),
        .threshold = {},
        .groups = attributes_.groups,
        .inputs = attributes_.inputs,
        .input = {shape.input[0], shape.input[1]},
        .kernel = {attributes_.kernel[0], attributes_.kernel[1]},
        .stride = {attributes_.stride[0], attributes_.stride[1]},
        .dilation = {attributes_.dilation[0], attributes_.dilation[1]},
        .pad = {shape.pad[0], shape.pad[1]},
        .clip_max = attributes_.clip_max,
        .x = x.data<float>(),
        .w = context.input(1, "W").data<float>(),
        .bias = inputs.bias,
        .residual = inputs.residual,
        .y = context.output<float>(0, shape.output_shape()),
        .skipped = context.output<std::int64_t>(1, counts),
        .macs = context.output<std::int64_t>(2, counts),
        .states = nullptr,
        .chunk_begin = nullptr,
        .pending = nullptr,
    };
    if (shape.batch == 0) return;
    if (threshold) arguments.threshold = {thresholds_->data(), threshold->count() == 1 ? 0 : 1};
    ScratchLayout measure(nullptr, ScratchLayout::kDeviceAlignment);
    lay_out(measure, arguments);
    const auto scratch =
        context.device_scratch(x, static_cast<std::size_t>(measure.used()));
    ScratchLayout layout(scratch.data(), ScratchLayout::kDeviceAlignment);
    lay_out(layout, arguments);
    check(conv_cuda(arguments, context.gpu_stream()));
  }

 private:
  static Tensor checked_mask(const NodeInfo& info, const ConvAttributes& attributes) {
    Tensor mask = constant(info, 2, "mask");
    static_cast<void>(check_mask(mask, grid_of_mask(attributes, mask)));
    return mask;
  }

  static void lay_out(ScratchLayout& layout, ConvArguments& arguments) {
    arguments.states = layout.take<std::uint8_t>(arguments.patches());
    arguments.chunk_begin = layout.take<std::int64_t>(chunks_of(arguments) + 1);
    arguments.pending = layout.take<std::int64_t>(arguments.patches());
  }

  const ConvAttributes attributes_;
  const DeviceConstant<std::uint16_t> patterns_;
  std::optional<const DeviceConstant<float>> thresholds_;
};

}  // namespace

const OpDefinition kSpatialConvCuda = {
    .name = "SpatialConv",
    .provider = kCudaProvider,
    .inputs = kConvInputs,
    .outputs = kConvOutputs,
    .create = create_kernel<SpatialConv>,
};

const OpDefinition kSpatialPredictCuda = {
    .name = "SpatialPredict",
    .provider = kCudaProvider,
    .inputs = kPredictInputs<abi::kFloat>,
    .outputs = kPredictOutputs<abi::kFloat>,
    .create = create_kernel<SpatialPredict<float>>,
    .in_place = true,
};

const OpDefinition kSpatialPredictHalfCuda = {
    .name = "SpatialPredict",
    .provider = kCudaProvider,
    .inputs = kPredictInputs<abi::kFloat16>,
    .outputs = kPredictOutputs<abi::kFloat16>,
    .create = create_kernel<SpatialPredict<Half>>,
    .in_place = true,
};

const OpDefinition kPatchCodesCuda = {
    .name = "PatchCodes",
    .provider = kCudaProvider,
    .inputs = kCodesInputs<abi::kFloat>,
    .outputs = kCodesOutputs,
    .create = create_kernel<PatchCodes>,
};

}  // namespace spatialonnx
