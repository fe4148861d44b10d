// The ops on CUDA: adapters that check, allocate and launch. Masks and patch sizes are host memory,
// as on the CPU: they are checked there before anything is launched.
#include <array>
#include <cstddef>
#include <vector>

#include "cuda/cuda_kernels.h"
#include "ort/op.h"
#include "ort/ops.h"
#include "core/patch_grid.h"
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

// Pieces of one scratch allocation: counted first, then handed out.
class Pieces {
 public:
  // Returns where the piece begins.
  template <class T>
  std::size_t add(std::int64_t count) {
    const std::size_t begin = bytes_;
    std::size_t size = 0;
    // A device's allocations are aligned to 256 bytes, and so is every piece.
    if (__builtin_mul_overflow(static_cast<std::size_t>(count), sizeof(T), &size) ||
        __builtin_add_overflow(bytes_, size, &bytes_) ||
        __builtin_add_overflow(bytes_, std::size_t{255}, &bytes_)) {
      throw OpError("the work needs more scratch memory than there can be");
    }
    bytes_ -= bytes_ % 256;
    return begin;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_ = 0;
};

// Enqueues a copy of a mask to `patterns`; returns the mask as the device sees it.
MaskView upload(const MaskView& mask, std::int64_t count, std::byte* to, void* stream) {
  auto* patterns = reinterpret_cast<std::uint16_t*>(to);
  // ORT's own memory may be pinned, and then CUDA would read it later, when ORT uses it otherwise.
  const std::vector<std::uint16_t> pageable(mask.patterns, mask.patterns + count);
  check(copy_to_device(patterns, pageable.data(), pageable.size() * sizeof(std::uint16_t), stream));
  return {patterns, mask.channel_stride, mask.row_stride, mask.column_stride};
}

template <class T>
class SpatialPredict : public Kernel {
 public:
  explicit SpatialPredict(const NodeInfo&) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const Tensor mask = context.input(1, "mask");
    const PatchGrid grid = check_map(x, check_patch_size(context.input(2, "patch_size")));
    const MaskView view = check_mask(mask, grid);
    const std::array<std::int64_t, 2> counts{grid.batch, grid.channels};
    PredictArguments<T> arguments{
        .map = device_map(grid),
        .mask = {},
        .x = x.data<T>(),
        .y = context.output<T>(0, x.shape()),
        .skipped = context.output<std::int64_t>(1, counts),
        .false_zero = context.output<std::int64_t>(2, counts),
    };
    if (element_count(counts) == 0) return;
    void* const stream = context.gpu_stream();
    Pieces pieces;
    pieces.add<std::uint16_t>(mask.count());
    const auto scratch = context.device_scratch(x, pieces.bytes());
    // A mask without patterns belongs to a map without patches: nobody reads it.
    if (mask.count() > 0) arguments.mask = upload(view, mask.count(), scratch.data(), stream);
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
    const CodesArguments arguments{device_map(grid), x.data<float>(),
                                   context.output<std::uint16_t>(0, shape)};
    if (x.count() == 0) return;
    check(codes_cuda(arguments, context.gpu_stream()));
  }
};

class SpatialConv : public Kernel {
 public:
  explicit SpatialConv(const NodeInfo& info)
      : attributes_(info, constant(info, 1, "W").shape()) {
    const Tensor mask = constant(info, 2, "mask");
    static_cast<void>(check_mask(mask, grid_of_mask(attributes_, mask)));
  }

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const Tensor mask = context.input(2, "mask");
    const ConvShape shape(attributes_, x);
    const ConvInputs inputs = check_inputs(context, attributes_, shape);
    const std::array<std::int64_t, 2> counts{shape.batch, attributes_.outputs};
    ConvArguments arguments{
        .out = device_map(shape.grid),
        .mask = {},
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
        .tile_begin = nullptr,
        .pending = nullptr,
    };
    const MaskView view = check_mask(mask, shape.grid);
    if (shape.batch == 0) return;
    Pieces pieces;
    const std::size_t states = pieces.add<std::uint8_t>(arguments.pairs());
    const std::size_t tiles = pieces.add<std::int64_t>(tiles_of(arguments) + 1);
    const std::size_t pending = pieces.add<std::int64_t>(arguments.pairs());
    const std::size_t patterns = pieces.add<std::uint16_t>(mask.count());
    const auto scratch = context.device_scratch(x, pieces.bytes());
    arguments.states = reinterpret_cast<std::uint8_t*>(scratch.data() + states);
    arguments.tile_begin = reinterpret_cast<std::int64_t*>(scratch.data() + tiles);
    arguments.pending = reinterpret_cast<std::int64_t*>(scratch.data() + pending);
    void* const stream = context.gpu_stream();
    arguments.mask = upload(view, mask.count(), scratch.data() + patterns, stream);
    check(conv_cuda(arguments, stream));
  }

 private:
  const ConvAttributes attributes_;
};

template <abi::ElementType type>
constexpr TensorDefinition kPredictInputs[] = {
    {type},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
};
template <abi::ElementType type>
constexpr TensorDefinition kPredictOutputs[] = {
    {type},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
};
constexpr TensorDefinition kCodesInputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
};
constexpr TensorDefinition kCodesOutputs[] = {{abi::kUint16}};
constexpr TensorDefinition kConvInputs[] = {
    {abi::kFloat},
    {abi::kFloat},
    {abi::kUint16, abi::kRequired, abi::kCpuInput},
    {abi::kFloat, abi::kOptional},
    {abi::kFloat, abi::kOptional},
};
constexpr TensorDefinition kConvOutputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kOptional},
    {abi::kInt64, abi::kOptional},
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
    .inputs = kCodesInputs,
    .outputs = kCodesOutputs,
    .create = create_kernel<PatchCodes>,
};

}  // namespace spatialonnx
