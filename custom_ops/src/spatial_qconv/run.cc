#include "spatial_qconv/run.h"

#include <algorithm>
#include <cstring>

#include "core/checked.h"
#include "core/scratch_layout.h"
#include "spatial_qconv/job.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Images that are converted at a time: their maps take so many bytes, unless one takes more.
constexpr int64_t kConvertedBytes = int64_t{4} << 20;
// Of a map, that are worth a task of their own.
constexpr int64_t kTaskBytes = int64_t{128} << 10;
// Of a map, that a band reads: they stay in the second-level cache beside a block's weights.
constexpr int64_t kBandBytes = int64_t{256} << 10;
// Jobs a thread, where there is enough to do.
constexpr int64_t kJobsPerThread = 4;
// MACs of a job that is worth a thread.
constexpr int64_t kJobMacs = int64_t{1} << 20;
// Patches of a band with less work than that.
constexpr int64_t kBandPatches = 24;
// A map is bounded by so many times the bytes of X and Y, and these.
constexpr double kMostTimes = 32;
constexpr double kAlwaysBytes = 4 << 20;

// What all images take, in MACs of the kernels: they fill up short segments.
double work_of(const QConvRun& run) {
  const QConvPlan& plan = run.plan;
  const int64_t line = (plan.segment_length + kQConvLine - 1) / kQConvLine * kQConvLine;
  return static_cast<double>(run.shape.grid.map_size()) *
         static_cast<double>(run.shape.grid.channels) * static_cast<double>(plan.segments * line) *
         static_cast<double>(run.shape.grid.batch);
}

// `channels`: blocks, or pieces of them.
QConvBands choose_bands(const QConvRun& run, int64_t channels, int64_t images, int64_t threads) {
  const PatchGrid& grid = run.shape.grid;
  const int64_t for_cache = (run.map.group_bytes + kBandBytes - 1) / kBandBytes;
  int64_t for_threads = 1;
  if (threads > 1) {
    const double work = work_of(run) / static_cast<double>(grid.batch);
    const int64_t worth = static_cast<int64_t>(std::min(work / kJobMacs, 1e6)) / channels;
    const int64_t wanted = (kJobsPerThread * threads + channels * images - 1) / (channels * images);
    const int64_t patches = run.plan.everything
                                ? run.kernels.dense_positions / (grid.patch_size * grid.patch_size)
                                : kBandPatches;
    const int64_t rows = std::max<int64_t>(1, patches / grid.columns());
    for_threads = std::min({worth, wanted, (grid.rows() + rows - 1) / rows});
    if (for_threads > threads) for_threads -= for_threads % threads;  // equal shares
  }
  return {grid.rows(), std::clamp<int64_t>(std::max(for_cache, for_threads), 1, grid.rows())};
}

// Where a position's inputs lie.
void fill_steps(const QConvRun& run, int64_t* steps) {
  if (run.map.unfolded) return;
  const int64_t taps = run.plan.segments / run.attributes.kernel[0];
  const int64_t across = run.attributes.dilation[1] * run.map.inputs;
  const int64_t down = run.attributes.dilation[0] * run.map.width * run.map.inputs;
  for (int64_t s = 0; s < run.plan.segments; ++s) {
    steps[s] = (s + 1) % taps != 0 ? across : down - (taps - 1) * across;
  }
}

// Copies a few bytes, of which both ends may be copied twice: faster than a call of memcpy.
void copy_few(std::uint8_t* to, const std::uint8_t* from, int64_t bytes) {
  const auto ends = [&]<std::size_t size>() {
    std::memcpy(to, from, size);
    std::memcpy(to + bytes - size, from + bytes - size, size);
  };
  if (bytes > 16) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  } else if (bytes >= 8) {
    ends.template operator()<8>();
  } else if (bytes >= 4) {
    ends.template operator()<4>();
  } else if (bytes >= 2) {
    ends.template operator()<2>();
  } else if (bytes == 1) {
    *to = *from;
  }
}

void convert_images(const RunContext& context, const QConvRun& run, int64_t first, int64_t images,
                    std::uint8_t* to) {
  const int64_t rows = images * run.map.height;
  const int64_t row_bytes = run.map.image_bytes / run.map.height;
  const int64_t at_once = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes));
  context.parallel_for(static_cast<std::size_t>((rows + at_once - 1) / at_once), [&](std::size_t i) {
    const int64_t begin = static_cast<int64_t>(i) * at_once;
    for (int64_t row = begin; row < std::min(rows, begin + at_once); ++row) {
      const int64_t image = row / run.map.height;
      run.map.fill_row(run.task, run.kernels.input_flip, first + image, row % run.map.height,
                       to + image * run.map.image_bytes);
    }
  });
}

// The threads that this much work is worth, of those there are.
int64_t threads_worth(const QConvRun& run, int64_t most) {
  return std::clamp<int64_t>(static_cast<int64_t>(std::min(work_of(run) / kJobMacs, 1e6)), 1, most);
}

// All blocks on images [first, first + images), whose maps are at run.x.
void run_images(const RunContext& context, const QConvRun& run, int64_t first, int64_t images,
                int64_t workers, ThreadCount& threads) {
  const auto coarse = static_cast<int64_t>(run.plan.blocks.size());
  const bool few = workers > 1 && checked_product(coarse, images) < kJobsPerThread * workers;
  const std::vector<QConvBlock>& blocks =
      few && !run.plan.pieces.empty() ? run.plan.pieces : run.plan.blocks;
  const auto channels = static_cast<int64_t>(blocks.size());
  const QConvBands bands = choose_bands(run, channels, images, workers);
  const int64_t jobs = checked_product(checked_product(channels, images), bands.count);
  // Neighbouring jobs share a block of weights.
  const int64_t count = std::min(workers, jobs);
  threads.observe(count, share_out(context, count, jobs, [&](std::size_t worker, int64_t job) {
    const int64_t band = job % bands.count;
    const int64_t image = job / bands.count % images;
    const QConvBlock& block = blocks[static_cast<std::size_t>(job / bands.count / images)];
    const std::uint8_t* x =
        run.x + image * run.map.image_bytes + block.group * run.map.group_bytes;
    std::uint8_t* scratch = run.scratch + static_cast<int64_t>(worker) * run.scratch_bytes;
    QConvJob(run, scratch, first + image, x, block, bands.first_row(band), bands.first_row(band + 1))
        .run();
  }));
}

}  // namespace

namespace {

// What a run works with, behind each other.
struct Memory {
  Memory(ScratchLayout& layout, const QConvRun& run, int64_t images, int64_t workers)
      : steps(layout.take<int64_t>(run.plan.segments)),
        kernels(layout.take<std::uint8_t>(checked_product(workers, run.scratch_bytes))),
        maps(layout.take<std::uint8_t>(
            run.reads_x() ? 0 : checked_product(images, run.map.image_bytes) + kQConvLine)) {}

  int64_t* steps;
  std::uint8_t* kernels;  // of each worker
  std::uint8_t* maps;
};

}  // namespace

bool QConvMap::is_bounded(const ConvAttributes& attributes, const ConvShape& shape,
                          bool unfolded) {
  // In floating point: a product of such numbers may not fit an integer.
  double area = 1;
  for (std::size_t axis = 0; axis < 2 && !unfolded; ++axis) {
    area *= static_cast<double>(shape.output[axis] - 1) *
                static_cast<double>(attributes.stride[axis]) +
            static_cast<double>(attributes.kernel[axis] - 1) *
                static_cast<double>(attributes.dilation[axis]) + 1;
  }
  const double channels = static_cast<double>(attributes.inputs * attributes.groups);
  const double positions = static_cast<double>(shape.grid.map_size());
  const double x = channels * static_cast<double>(shape.input[0] * shape.input[1]);
  const double y = static_cast<double>(attributes.outputs) * positions;
  const double bytes =
      unfolded ? positions * static_cast<double>(attributes.macs() + kQConvLine) : area * channels;
  return bytes <= kMostTimes * (x + y) + kAlwaysBytes;
}

QConvMap::QConvMap(const ConvAttributes& attributes, const ConvShape& shape, bool unfolded)
    : unfolded(unfolded), groups(attributes.groups) {
  if (unfolded) {
    height = shape.output[0];
    width = shape.output[1];
    inputs = (attributes.macs() + kQConvLine - 1) / kQConvLine * kQConvLine;
    column_step = inputs;
    row_step = checked_product(width, inputs);
  } else {
    PerAxis size;
    for (std::size_t axis = 0; axis < 2; ++axis) {
      size[axis] = (shape.output[axis] - 1) * attributes.stride[axis] +
                   (attributes.kernel[axis] - 1) * attributes.dilation[axis] + 1;
    }
    height = size[0];
    width = size[1];
    inputs = attributes.inputs;
    column_step = attributes.stride[1] * inputs;
    row_step = checked_product(checked_product(width, inputs), attributes.stride[0]);
  }
  group_bytes = checked_product(checked_product(height, width), inputs);
  image_bytes = checked_product(group_bytes, groups);
}

void QConvMap::fill_row(const QConvTask& task, std::uint8_t flip, int64_t image, int64_t row,
                        std::uint8_t* map) const {
  for (int64_t group = 0; group < groups; ++group) {
    std::uint8_t* to = map + group * group_bytes + row * width * inputs;
    if (unfolded) {
      fill_unfolded(task, flip, image, row, group, to);
    } else {
      fill_padded(task, flip, image, row, group, to);
    }
  }
}

void QConvMap::fill_padded(const QConvTask& task, std::uint8_t flip, int64_t image, int64_t row,
                           int64_t group, std::uint8_t* to) const {
  const ConvShape& shape = *task.shape;
  const int zero = task.x_zero_point ^ flip;
  const int64_t from_row = row - shape.pad[0];
  const bool inside = from_row >= 0 && from_row < shape.input[0];
  // Columns of the map that have an input, and those before and behind them.
  const int64_t left = std::min(shape.pad[1], width);
  const int64_t filled = inside ? std::min(width - left, shape.input[1]) : 0;
  const int64_t right = width - left - filled;
  std::memset(to, zero, static_cast<std::size_t>(left * inputs));
  to += left * inputs;
  std::memset(to + filled * inputs, zero, static_cast<std::size_t>(right * inputs));
  if (filled == 0) return;
  const int64_t channels = inputs * groups;
  const std::uint8_t* from =
      task.x + (image * shape.input[0] + from_row) * shape.input[1] * channels + group * inputs;
  if (groups == 1 && flip == 0) {
    std::memcpy(to, from, static_cast<std::size_t>(filled * inputs));
    return;
  }
  for (int64_t column = 0; column < filled; ++column) {
    const std::uint8_t* at = from + column * channels;
    for (int64_t i = 0; i < inputs; ++i) to[column * inputs + i] = at[i] ^ flip;
  }
}

void QConvMap::fill_unfolded(const QConvTask& task, std::uint8_t flip, int64_t image, int64_t row,
                             int64_t group, std::uint8_t* to) const {
  const ConvShape& shape = *task.shape;
  const ConvAttributes& attributes = *task.attributes;
  const int64_t own = attributes.inputs;  // channels of the group
  const int64_t channels = own * groups;
  const bool side_by_side = flip == 0 && attributes.dilation[1] == 1;
  std::memset(to, task.x_zero_point ^ flip, static_cast<std::size_t>(width * inputs));
  for (int64_t ky = 0; ky < attributes.kernel[0]; ++ky) {
    const int64_t y = row * attributes.stride[0] + ky * attributes.dilation[0] - shape.pad[0];
    if (y < 0 || y >= shape.input[0]) continue;
    const std::uint8_t* from =
        task.x + (image * shape.input[0] + y) * shape.input[1] * channels + group * own;
    for (int64_t column = 0; column < width; ++column) {
      std::uint8_t* taps = to + column * inputs + ky * attributes.kernel[1] * own;
      int64_t x = column * attributes.stride[1] - shape.pad[1];
      if (side_by_side) {
        const int64_t before = std::max<int64_t>(0, -x);
        const int64_t end = std::max(before, std::min(attributes.kernel[1], shape.input[1] - x));
        copy_few(taps + before * own, from + (x + before) * own, (end - before) * own);
        continue;
      }
      for (int64_t kx = 0; kx < attributes.kernel[1]; ++kx, x += attributes.dilation[1]) {
        if (x < 0 || x >= shape.input[1]) continue;
        for (int64_t i = 0; i < own; ++i) taps[kx * own + i] = from[x * channels + i] ^ flip;
      }
    }
  }
}

QConvRun::QConvRun(const QConvTask& task, const QConvPlan& plan, const QConvKernels& kernels)
    : task(task),
      plan(plan),
      kernels(kernels),
      attributes(*task.attributes),
      shape(*task.shape),
      map(*task.attributes, *task.shape, plan.unfolded),
      scratch_bytes(kernels.scratch_positions * plan.segments *
                    ((plan.segment_length + kQConvLine - 1) / kQConvLine * kQConvLine)) {}

bool QConvRun::reads_x() const {
  return !map.unfolded && map.groups == 1 && kernels.input_flip == 0 && shape.pad == PerAxis{0, 0} &&
         map.height == shape.input[0] && map.width == shape.input[1] &&
         plan.segment_length % kQConvLine == 0;  // kernels read nothing behind a segment
}

void run_spatial_qconv(const RunContext& context, const QConvTask& task, const QConvPlan& plan,
                       const QConvKernels& kernels, ThreadCount& threads) {
  QConvRun run(task, plan, kernels);
  const int64_t batch = run.shape.batch;
  const int64_t workers = threads_worth(run, threads.expected());
  const int64_t images =
      std::clamp<int64_t>(kConvertedBytes / std::max<int64_t>(1, run.map.image_bytes), 1, batch);

  ScratchLayout measure(nullptr, ScratchLayout::kHostAlignment);
  Memory(measure, run, images, workers);
  const auto bytes = context.scratch<std::byte>(static_cast<std::size_t>(measure.used()));
  ScratchLayout layout(bytes.data(), ScratchLayout::kHostAlignment);
  const Memory memory(layout, run, images, workers);

  fill_steps(run, memory.steps);
  run.span = {plan.segments, plan.segment_length, memory.steps};
  run.scratch = memory.kernels;
  run.skipped = task.skipped != nullptr ? task.skipped : task.macs;
  const int64_t counts = batch * run.shape.grid.channels;
  if (run.skipped != nullptr) std::fill_n(run.skipped, counts, 0);
  if (run.reads_x()) {
    run.x = task.x;
    run_images(context, run, 0, batch, workers, threads);
  } else {
    run.x = memory.maps;
    for (int64_t first = 0; first < batch; first += images) {
      const int64_t count = std::min(images, batch - first);
      convert_images(context, run, first, count, memory.maps);
      run_images(context, run, first, count, workers, threads);
    }
  }
  if (task.macs != nullptr) {
    for (int64_t i = 0; i < counts; ++i) {
      task.macs[i] = (run.shape.grid.map_size() - run.skipped[i]) * run.attributes.macs();
    }
  }
}

}  // namespace spatialonnx
