#include "spatial_conv/run.h"

#include <algorithm>

#include "core/checked.h"

namespace spatialonnx {

using std::int64_t;

ConvRun::ConvRun(const ConvTask& task, const ConvPlan& plan, const ConvKernels& kernels,
                 int64_t threads)
    : task(task),
      plan(plan),
      kernels(kernels),
      attributes(*task.attributes),
      shape(*task.shape),
      map(*task.attributes, *task.shape),
      bands(choose_bands(plan, task.shape->grid, threads)) {
  const int64_t p = shape.grid.patch_size;
  for (int64_t i = 0; i < p * p; ++i) {
    place_inputs[i] =
        (i / p * attributes.stride[0] * map.width + i % p * attributes.stride[1]) * map.inputs;
  }
}

PerAxis ConvRun::input_rows(int64_t band) const {
  const int64_t p = shape.grid.patch_size;
  const int64_t first = bands.first_row(band) * p;
  const int64_t last = std::min(first + bands.row_count(band) * p, shape.output[0]) - 1;
  return {first * attributes.stride[0],
          last * attributes.stride[0] + (attributes.kernel[0] - 1) * attributes.dilation[0] + 1};
}

bool ConvRun::by_band() const {
  return static_cast<int64_t>(plan.blocks.size()) == attributes.groups;
}

int64_t ConvRun::band_floats() const {
  if (!by_band()) return 0;
  const PerAxis rows = input_rows(0);  // no other band is larger
  return checked_product(rows[1] - rows[0], map.width * map.inputs) + kConvSlack;
}

SharedMemory::SharedMemory(ScratchLayout& layout, const ConvRun& run, int64_t images)
    : maps(layout.take<float>(
          run.by_band() ? 0 : checked_product(images, run.map.image_floats) + kConvSlack)),
      states(layout.take<unsigned char>(SharedMaps::state_count(run.map, images))),
      planes(layout.take<const float*>(
          checked_product(images, run.map.groups * run.map.inputs))),
      bias(layout.take<float>(run.attributes.outputs + run.plan.stride)),
      steps(layout.take<int64_t>(run.plan.segments)) {}

void SharedMemory::fill_constants(ConvRun& run) const {
  const ConvPlan& plan = run.plan;
  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    bias[i] = run.task.bias == nullptr ? 0.0f : run.task.bias[plan.order[i]];
  }
  std::fill_n(bias + plan.order.size(), plan.stride, 0.0f);
  const int64_t taps = plan.segments / run.attributes.kernel[0];
  const int64_t across = run.attributes.dilation[1] * run.map.inputs;
  const int64_t down = run.attributes.dilation[0] * run.map.width * run.map.inputs;
  for (int64_t s = 0; s < plan.segments; ++s) {
    steps[s] = (s + 1) % taps != 0 ? across : down - (taps - 1) * across;
  }
  run.bias = bias;
  run.span = {plan.segments, plan.segment_length, steps};
}

}  // namespace spatialonnx
