#include "spatial_conv/engine.h"

#include <algorithm>
#include <vector>

#include "core/checked.h"
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

// The threads that this much work is worth, of those there are.
int64_t threads_worth(const ConvTask& task, int64_t most) {
  const int64_t outputs =
      task.shape->batch * task.attributes->outputs * task.shape->grid.map_size();
  const double macs = static_cast<double>(outputs) * static_cast<double>(task.attributes->macs());
  return std::clamp<int64_t>(static_cast<int64_t>(std::min(macs / kLeastMacs, 1e6)), 1, most);
}

// Images that are converted at a time.
int64_t images_at_a_time(const ConvRun& run) {
  const int64_t bytes = checked_product(run.map.image_floats, sizeof(float));
  return std::clamp<int64_t>(kConvertedBytes / std::max<int64_t>(1, bytes), 1, run.shape.batch);
}

int64_t job_count(const ConvRun& run, int64_t images) {
  const auto blocks = static_cast<int64_t>(run.plan.blocks.size());
  return checked_product(checked_product(blocks, images), run.bands.count());
}

// All blocks on images [first, first + images); returns how many workers took part. Jobs are
// numbered so that neighbours share a block of weights: block, image, band.
int64_t run_images(const RunContext& context, const ConvRun& run, const SharedMemory& memory,
                   std::vector<Worker>& workers, int64_t first, int64_t images) {
  const int64_t channels = run.map.groups * run.map.inputs;
  const int64_t plane_floats = run.shape.input[0] * run.shape.input[1];
  for (int64_t i = 0; i < images * channels; ++i) {
    memory.planes[i] = run.task.x + (first * channels + i) * plane_floats;
  }
  SharedMaps maps(run.map, memory.maps, memory.states);
  maps.begin(images);
  const int64_t bands = run.bands.count();
  const int64_t jobs = job_count(run, images);
  const auto run_one = [&](std::size_t worker, int64_t number) {
    const int64_t image = number / bands % images;
    const ConvBlock& block = run.plan.blocks[static_cast<std::size_t>(number / bands / images)];
    const int64_t band = number % bands;
    const auto [begin, end] = run.input_rows(band);
    const int64_t map_index = image * run.map.groups + block.group;
    const float* const* planes = memory.planes + map_index * run.map.inputs;
    // Of the whole batch: what a worker keeps outlives these images.
    const int64_t map_number = first * run.map.groups + map_index;
    const MapRows rows =
        run.by_band()
            ? workers[worker].band_rows.rows(run.kernels, run.shape, planes, map_number, begin, end)
            : maps.rows(run.kernels, run.shape, planes, image, block.group, begin, end, worker);
    const bool last_of_block = (number + 1) % (bands * images) == 0 && number + 1 < jobs;
    Job job{run, workers[worker], first + image, block, last_of_block ? &block + 1 : nullptr,
            BandPatches(run, block, rows, band)};
    run_job(job);
  };
  const auto count = static_cast<int64_t>(workers.size());
  const int64_t portion = std::clamp<int64_t>(jobs / (kPortions * count), 1, images * bands);
  const int64_t portions = (jobs + portion - 1) / portion;
  return share_out(context, count, portions, [&](std::size_t worker, int64_t i) {
    const int64_t end = std::min(jobs, (i + 1) * portion);
    for (int64_t number = i * portion; number < end; ++number) run_one(worker, number);
  });
}

}  // namespace

void run_spatial_conv(const RunContext& context, const ConvTask& task, const ConvPlan& plan,
                      const ConvKernels& kernels, ThreadCount& threads) {
  const int64_t wanted = threads_worth(task, threads.expected());
  ConvRun run(task, plan, kernels, wanted);
  const int64_t batch = task.shape->batch;
  const int64_t images = images_at_a_time(run);
  const int64_t count = std::min(wanted, job_count(run, images));

  ScratchLayout measure(nullptr, ScratchLayout::kHostAlignment);
  SharedMemory(measure, run, images);
  const int64_t shared = measure.used();
  Worker(measure, run);
  const int64_t per_worker = measure.used() - shared;
  const auto bytes = context.scratch<std::byte>(
      static_cast<std::size_t>(shared + checked_product(per_worker, count)));
  ScratchLayout layout(bytes.data(), ScratchLayout::kHostAlignment);
  const SharedMemory memory(layout, run, images);
  std::vector<Worker> workers;
  for (int64_t i = 0; i < count; ++i) workers.emplace_back(layout, run);

  memory.fill_constants(run);
  for (int64_t* counts : {task.skipped, task.macs}) {
    if (counts != nullptr) std::fill_n(counts, batch * run.attributes.outputs, 0);
  }
  int64_t took_part = 0;
  for (int64_t first = 0; first < batch; first += images) {
    const int64_t now = std::min(images, batch - first);
    took_part = std::max(took_part, run_images(context, run, memory, workers, first, now));
  }
  threads.observe(count, took_part);
}

}  // namespace spatialonnx
