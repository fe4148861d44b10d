// A run of SpatialConv: memory, the conversion of X, and the jobs on ORT's threads.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "spatial_conv.h"
#include "spatial_conv_job.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Converted images that are held at a time, in bytes, unless one is larger.
constexpr int64_t kConvertedBytes = int64_t{8} << 20;
// Rows of a map that are converted at a time.
constexpr int64_t kConvertedRows = 8;
// Portions of the work that each thread takes, so that a thread with more to skip takes more.
constexpr int64_t kPortions = 8;

// ORT has no call that tells its threads; there are no more than processors.
int64_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// Runs body(worker number, portion) for all portions; each thread takes the next one.
template <class Body>
void share_out(const RunContext& context, int64_t workers, int64_t portions, const Body& body) {
  std::atomic<int64_t> next = 0;
  context.parallel_for(static_cast<std::size_t>(std::min(workers, portions)), [&](std::size_t i) {
    for (int64_t portion = next++; portion < portions; portion = next++) body(i, portion);
  });
}

void convert_images(const RunContext& context, const ConvRun& run, int64_t workers, int64_t first,
                    int64_t images, float* converted) {
  const PaddedMap& map = run.map;
  const int64_t pieces = (map.height + kConvertedRows - 1) / kConvertedRows;
  const int64_t maps = images * map.groups;
  const int64_t plane_floats = run.shape.input[0] * run.shape.input[1];
  const auto planes =
      context.scratch<const float*>(static_cast<std::size_t>(checked_product(maps, map.inputs)));
  for (int64_t i = 0; i < maps * map.inputs; ++i) {
    planes[static_cast<std::size_t>(i)] =
        run.task.x + (first * map.groups * map.inputs + i) * plane_floats;
  }
  share_out(context, workers, maps * pieces, [&](std::size_t, int64_t portion) {
    const int64_t i = portion / pieces;
    const int64_t row = portion % pieces * kConvertedRows;
    convert_rows(run.kernels, map, run.shape, planes.data() + i * map.inputs,
                 converted + i * map.map_floats, row, std::min(row + kConvertedRows, map.height));
  });
}

}  // namespace

void run_spatial_conv(const RunContext& context, const ConvTask& task, const ConvPlan& plan,
                      const ConvKernels& kernels) {
  ConvRun run(task, plan, kernels);
  const int64_t batch = run.shape.batch;
  const int64_t image_bytes = checked_product(run.map.image_floats, sizeof(float));
  const int64_t images = std::clamp<int64_t>(kConvertedBytes / std::max<int64_t>(1, image_bytes), 1, batch);
  const auto block_count = static_cast<int64_t>(plan.blocks.size());
  const int64_t bands = run.bands.count();
  const int64_t jobs = checked_product(checked_product(block_count, images), bands);
  const int64_t workers = std::min(processors(), jobs);

  const auto carve = [&](Pieces& pieces) {
    struct Memory {
      float* converted;
      float* bias;
      int64_t* steps;
    };
    return Memory{
        pieces.take<float>(checked_product(images, run.map.image_floats) + kConvSlack),
        pieces.take<float>(run.attributes.outputs + plan.stride),
        pieces.take<int64_t>(plan.segments),
    };
  };
  Pieces measure(nullptr);
  carve(measure);
  const int64_t shared = measure.used();
  Worker(measure, run);
  const int64_t per_worker = measure.used() - shared;
  const auto memory = context.scratch<char>(
      static_cast<std::size_t>(shared + checked_product(per_worker, workers)));
  Pieces pieces(memory.data());
  const auto [converted, bias, steps] = carve(pieces);
  std::vector<Worker> memories;
  for (int64_t i = 0; i < workers; ++i) memories.emplace_back(pieces, run);

  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    bias[i] = task.bias == nullptr ? 0.0f : task.bias[plan.order[i]];
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
  for (int64_t* counts : {task.skipped, task.macs}) {
    if (counts != nullptr) std::fill_n(counts, batch * run.attributes.outputs, 0);
  }

  for (int64_t first = 0; first < batch; first += images) {
    const int64_t now = std::min(images, batch - first);
    convert_images(context, run, workers, first, now, converted);
    // Neighbouring jobs share a block of weights.
    const int64_t all = block_count * now * bands;
    const int64_t portion = std::clamp<int64_t>(all / (kPortions * workers), 1, now * bands);
    share_out(context, workers, (all + portion - 1) / portion, [&](std::size_t w, int64_t i) {
      for (int64_t job = i * portion; job < std::min(all, (i + 1) * portion); ++job) {
        const int64_t image = job / bands % now;
        run_job(run, memories[w], first + image, converted + image * run.map.image_floats,
                plan.blocks[static_cast<std::size_t>(job / bands / now)], job % bands);
      }
    });
  }
}

}  // namespace spatialonnx
