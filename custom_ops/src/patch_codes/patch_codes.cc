// The op PatchCodes: X [N, C, H, W], patch_size -> codes uint16 [N, C, nH, nW].
#include "patch_codes/patch_codes.h"

#include <algorithm>
#include <array>

#include "ort/op.h"
#include "ort/ops.h"

namespace spatialonnx {
namespace {

constexpr Variant<CodePlanes> kKernels[] = {
#define X(isa) {Isa::isa, isa::code_planes},
    SPATIALONNX_VECTOR_ISAS(X) X(reference)
#undef X
};

class PatchCodes : public Kernel {
 public:
  explicit PatchCodes(const NodeInfo&) : code_(choose_variant(kKernels, choose_isa())) {}

  void run(const RunContext& context) const override {
    const Tensor x = context.input(0, "X");
    const PatchGrid grid = check_map(x, check_patch_size(context.input(1, "patch_size")));
    const std::array<std::int64_t, 4> shape{grid.batch, grid.channels, grid.rows(),
                                            grid.columns()};
    const CodesTask task{grid, x.data<float>(), context.output<std::uint16_t>(0, shape)};
    if (x.count() == 0) return;
    const auto planes = static_cast<std::size_t>(grid.batch * grid.channels);
    const std::size_t step = planes_per_task(grid);
    context.parallel_for((planes + step - 1) / step, [&](std::size_t i) {
      code_(task, i * step, std::min(planes, (i + 1) * step));
    });
  }

 private:
  CodePlanes code_;
};

constexpr TensorDefinition kInputs[] = {
    {abi::kFloat},
    {abi::kInt64, abi::kRequired, abi::kCpuInput},
};
constexpr TensorDefinition kOutputs[] = {{abi::kUint16}};

}  // namespace

const OpDefinition kPatchCodes = {
    .name = "PatchCodes",
    .provider = nullptr,
    .inputs = kInputs,
    .outputs = kOutputs,
    .create = create_kernel<PatchCodes>,
};

}  // namespace spatialonnx
