// The op SpatialPredict: X [N, C, H, W], mask, patch_size, threshold?, zero_point? -> Y, skipped?,
// false_zero?. One kernel class per element type of X: float32, uint8 and int8.
#include "spatial_predict/spatial_predict.h"

#include <algorithm>
#include <array>

#include "ort/op.h"
#include "ort/ops.h"
#include "ort/patch_inputs.h"
#include "ort/signatures.h"
#include "ort/zero_limits.h"

namespace spatialonnx {
namespace {

template <class T>
constexpr Variant<PredictPlanes<T>> kKernels[] = {
#define X(isa) {Isa::isa, isa::predict_planes},
    SPATIALONNX_VECTOR_ISAS(X) X(reference)
#undef X
};

// Elements from which an output is written past the caches: 16 MiB, more than a core can call its
// own, so that the next op finds it in memory anyway.
constexpr std::int64_t kStreamed = std::int64_t{1} << 22;

template <class T>
class SpatialPredict : public Kernel {
 public:
  explicit SpatialPredict(const NodeInfo&) : predict_(choose_variant(kKernels<T>, choose_isa())) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const Tensor mask = context.input(1, "mask");
    const std::int64_t patch_size = check_patch_size(context.input(2, "patch_size"));
    PredictTask<T> task{};
    task.grid = check_map(x, patch_size);
    task.mask = check_mask(mask, task.grid);
    const ZeroLimits<T> limits(context, 3, task.grid.channels);
    task.zero = limits.zero();
    task.limits = limits.data();
    task.limit_stride = limits.stride();
    task.x = x.data<T>();
    task.y = context.output<T>(0, x.shape());
    task.stream = sizeof(T) == sizeof(float) && task.x != task.y && x.count() >= kStreamed;
    const std::array<std::int64_t, 2> counts{task.grid.batch, task.grid.channels};
    task.skipped = context.output<std::int64_t>(1, counts);
    task.false_zero = context.output<std::int64_t>(2, counts);
    if (task.grid.map_size() == 0 || x.count() == 0) {
      for (std::int64_t* count : {task.skipped, task.false_zero}) {
        if (count != nullptr) std::fill_n(count, element_count(counts), 0);
      }
      return;
    }
    predict(context, task);
  }

 private:
  void predict(const RunContext& context, PredictTask<T>& task) const {
    const PatchGrid& grid = task.grid;
    // Maps this wide do not occur in CNNs; the reference takes them.
    if (!fits_band(grid)) return run_planes(context, task, reference::predict_planes);

    MaskBits& bits = task.bits;
    bits.bands = make_bands(grid);
    bits.stored_channels = task.mask.channel_stride == 0 ? 1 : grid.channels;
    const auto words = static_cast<std::size_t>(bits.bands.words);
    const auto p = static_cast<std::size_t>(grid.patch_size);
    const auto channel_words = static_cast<std::size_t>(bits.channel_words());
    const auto channels = static_cast<std::size_t>(bits.stored_channels);

    const auto grid_bits = context.scratch<std::uint64_t>((p + 1) * words);
    fill_grid_bits(grid, bits.bands, grid_bits.data());
    bits.columns = grid_bits.data();
    bits.corners = grid_bits.data() + p * words;

    const auto patterns = context.scratch<std::uint64_t>(channels * channel_words);
    const auto active = context.scratch<std::uint8_t>(channels);
    const std::size_t step = planes_per_task(grid);
    context.parallel_for((channels + step - 1) / step, [&](std::size_t i) {
      const std::size_t end = std::min(channels, (i + 1) * step);
      for (std::size_t channel = i * step; channel < end; ++channel) {
        active[channel] =
            fill_pattern_bits(task.mask, grid, bits.bands, static_cast<std::int64_t>(channel),
                              patterns.data() + channel * channel_words);
      }
    });
    bits.patterns = patterns.data();
    bits.active = active.data();
    run_planes(context, task, predict_);
  }

  static void run_planes(const RunContext& context, const PredictTask<T>& task,
                         PredictPlanes<T> predict) {
    const auto planes = static_cast<std::size_t>(task.grid.batch * task.grid.channels);
    const std::size_t step = planes_per_task(task.grid);
    context.parallel_for((planes + step - 1) / step, [&](std::size_t i) {
      predict(task, i * step, std::min(planes, (i + 1) * step));
    });
  }

  PredictPlanes<T> predict_;
};

template <class T>
constexpr OpDefinition define() {
  constexpr abi::ElementType map = element_type<T>();
  return {
      .name = "SpatialPredict",
      .provider = nullptr,
      .inputs = kPredictInputs<map>,
      .outputs = kPredictOutputs<map>,
      .create = create_kernel<SpatialPredict<T>>,
      .in_place = true,
  };
}

}  // namespace

const OpDefinition kSpatialPredict = define<float>();
const OpDefinition kSpatialPredictUint8 = define<std::uint8_t>();
const OpDefinition kSpatialPredictInt8 = define<std::int8_t>();

}  // namespace spatialonnx
