// A run of SpatialConv: memory, the conversion of X, and the jobs on ORT's threads.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "spatial_conv/spatial_conv.h"
#include "spatial_conv/job.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Converted images that are held at a time, in bytes, unless one is larger.
constexpr int64_t kConvertedBytes = int64_t{8} << 20;
// Portions of the work that each thread takes, so that a thread with more to skip takes more.
constexpr int64_t kPortions = 8;

// MACs that are worth waking a thread for.
constexpr int64_t kLeastMacs = int64_t{1} << 19;

// ORT has no call that tells its threads; there are no more than processors.
int64_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// The portions that a worker begins with; others help with what it has not begun.
struct alignas(64) Share {
  std::atomic<int64_t> next;
  int64_t end;
};

// Runs body(worker number, portion) for all portions. Every worker begins with a share of its own,
// the same in every run: what it wrote for the last op, and reads for this one, is in its cache.
template <class Body>
void share_out(const RunContext& context, int64_t workers, int64_t portions, const Body& body) {
  const int64_t count = std::min(workers, portions);
  std::vector<Share> shares(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    shares[static_cast<std::size_t>(i)].next = i * portions / count;
    shares[static_cast<std::size_t>(i)].end = (i + 1) * portions / count;
  }
  context.parallel_for(shares.size(), [&](std::size_t i) {
    for (std::size_t k = 0; k < shares.size(); ++k) {
      Share& share = shares[(i + k) % shares.size()];
      for (int64_t portion = share.next++; portion < share.end; portion = share.next++) {
        body(i, portion);
      }
    }
  });
}

// Sizes first, with pieces of nothing; then the memory that all threads share.
struct SharedMemory {
  SharedMemory(Pieces& pieces, const ConvRun& run, int64_t images)
      : maps(pieces.take<float>(
            run.by_band() ? 0 : checked_product(images, run.map.image_floats) + kConvSlack)),
        states(pieces.take<unsigned char>(SharedMaps::state_count(run.map, images))),
        planes(pieces.take<const float*>(
            checked_product(images, run.map.groups * run.map.inputs))),
        bias(pieces.take<float>(run.attributes.outputs + run.plan.stride)),
        steps(pieces.take<int64_t>(run.plan.segments)) {}

  float* maps;
  unsigned char* states;
  const float** planes;
  float* bias;
  int64_t* steps;
};

// Biases in the plan's order, and where a position's inputs lie.
void fill_constants(ConvRun& run, const SharedMemory& memory) {
  const ConvPlan& plan = run.plan;
  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    memory.bias[i] = run.task.bias == nullptr ? 0.0f : run.task.bias[plan.order[i]];
  }
  std::fill_n(memory.bias + plan.order.size(), plan.stride, 0.0f);
  const int64_t taps = plan.segments / run.attributes.kernel[0];
  const int64_t across = run.attributes.dilation[1] * run.map.inputs;
  const int64_t down = run.attributes.dilation[0] * run.map.width * run.map.inputs;
  for (int64_t s = 0; s < plan.segments; ++s) {
    memory.steps[s] = (s + 1) % taps != 0 ? across : down - (taps - 1) * across;
  }
  run.bias = memory.bias;
  run.span = {plan.segments, plan.segment_length, memory.steps};
}

// All blocks on images [first, first + images).
void run_images(const RunContext& context, const ConvRun& run, const SharedMemory& memory,
                std::vector<Worker>& workers, int64_t first, int64_t images) {
  const int64_t channels = run.map.groups * run.map.inputs;
  const int64_t plane_floats = run.shape.input[0] * run.shape.input[1];
  for (int64_t i = 0; i < images * channels; ++i) {
    memory.planes[i] = run.task.x + (first * channels + i) * plane_floats;
  }
  SharedMaps maps(run.map, memory.maps, memory.states);
  maps.begin(images);
  // Neighbouring jobs share a block of weights.
  const int64_t bands = run.bands.count();
  const int64_t jobs = static_cast<int64_t>(run.plan.blocks.size()) * images * bands;
  const auto threads = static_cast<int64_t>(workers.size());
  const int64_t portion = std::clamp<int64_t>(jobs / (kPortions * threads), 1, images * bands);
  share_out(context, threads, (jobs + portion - 1) / portion, [&](std::size_t w, int64_t i) {
    for (int64_t job = i * portion; job < std::min(jobs, (i + 1) * portion); ++job) {
      const int64_t image = job / bands % images;
      const ConvBlock& block = run.plan.blocks[static_cast<std::size_t>(job / bands / images)];
      const auto [begin, end] = run.input_rows(job % bands);
      const int64_t map_index = image * run.map.groups + block.group;
      const float* const* planes = memory.planes + map_index * run.map.inputs;
      // Of the whole batch: what a worker keeps outlives these images.
      const int64_t map_number = first * run.map.groups + map_index;
      const MapRows rows =
          run.by_band()
              ? workers[w].band_rows.rows(run.kernels, run.shape, planes, map_number, begin, end)
              : maps.rows(run.kernels, run.shape, planes, image, block.group, begin, end, w);
      const bool last = (job + 1) % (bands * images) == 0 && job + 1 < jobs;
      Job(run, workers[w], first + image, rows, block, last ? &block + 1 : nullptr, job % bands)
          .run();
    }
  });
}

}  // namespace

void run_spatial_conv(const RunContext& context, const ConvTask& task, const ConvPlan& plan,
                      const ConvKernels& kernels) {
  const int64_t batch = task.shape->batch;
  const int64_t outputs = batch * task.attributes->outputs * task.shape->grid.map_size();
  const double macs = static_cast<double>(outputs) * static_cast<double>(task.attributes->macs());
  const auto worth = static_cast<int64_t>(std::min(macs / kLeastMacs, 1e6));
  const int64_t wanted = std::clamp<int64_t>(worth, 1, processors());
  ConvRun run(task, plan, kernels, wanted);
  const int64_t image_bytes = checked_product(run.map.image_floats, sizeof(float));
  const int64_t images =
      std::clamp<int64_t>(kConvertedBytes / std::max<int64_t>(1, image_bytes), 1, batch);
  const int64_t jobs = checked_product(
      checked_product(static_cast<int64_t>(plan.blocks.size()), images), run.bands.count());
  const int64_t threads = std::min(wanted, jobs);

  Pieces measure(nullptr);
  SharedMemory(measure, run, images);
  const int64_t shared = measure.used();
  Worker(measure, run);
  const int64_t per_worker = measure.used() - shared;
  const auto bytes = context.scratch<char>(
      static_cast<std::size_t>(shared + checked_product(per_worker, threads)));
  Pieces pieces(bytes.data());
  const SharedMemory memory(pieces, run, images);
  std::vector<Worker> workers;
  for (int64_t i = 0; i < threads; ++i) workers.emplace_back(pieces, run);

  fill_constants(run, memory);
  for (int64_t* counts : {task.skipped, task.macs}) {
    if (counts != nullptr) std::fill_n(counts, batch * run.attributes.outputs, 0);
  }
  for (int64_t first = 0; first < batch; first += images) {
    run_images(context, run, memory, workers, first, std::min(images, batch - first));
  }
}

}  // namespace spatialonnx
