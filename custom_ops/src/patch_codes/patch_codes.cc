// The op PatchCodes: X [N, C, H, W], patch_size, threshold?, zero_point? -> codes uint16
// [N, C, nH, nW]. X is float32, uint8 or int8.
#include "patch_codes/patch_codes.h"

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
constexpr Variant<CodePlanes<T>> kKernels[] = {
#define X(isa) {Isa::isa, isa::code_planes},
    SPATIALONNX_VECTOR_ISAS(X) X(reference)
#undef X
};

template <class T>
class PatchCodes : public Kernel {
 public:
  explicit PatchCodes(const NodeInfo&) : code_(choose_variant(kKernels<T>, choose_isa())) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const PatchGrid grid = check_map(x, check_patch_size(context.input(1, "patch_size")));
    const std::array<std::int64_t, 4> shape{grid.batch, grid.channels, grid.rows(),
                                            grid.columns()};
    const ZeroLimits<T> limits(context, 2, grid.channels);
    const CodesTask<T> task{.grid = grid,
                            .x = x.data<T>(),
                            .zero = limits.zero(),
                            .limits = limits.data(),
                            .limit_stride = limits.stride(),
                            .codes = context.output<std::uint16_t>(0, shape)};
    if (x.count() == 0) return;
    const auto planes = static_cast<std::size_t>(grid.batch * grid.channels);
    const std::size_t step = planes_per_task(grid);
    context.parallel_for((planes + step - 1) / step, [&](std::size_t i) {
      code_(task, i * step, std::min(planes, (i + 1) * step));
    });
  }

 private:
  CodePlanes<T> code_;
};

template <class T>
constexpr OpDefinition define() {
  constexpr abi::ElementType map = element_type<T>();
  return {
      .name = "PatchCodes",
      .provider = nullptr,
      .inputs = kCodesInputs<map>,
      .outputs = kCodesOutputs,
      .create = create_kernel<PatchCodes<T>>,
  };
}

}  // namespace

const OpDefinition kPatchCodes = define<float>();
const OpDefinition kPatchCodesUint8 = define<std::uint8_t>();
const OpDefinition kPatchCodesInt8 = define<std::int8_t>();

}  // namespace spatialonnx
