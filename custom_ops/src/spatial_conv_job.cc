// Stage 1 computes the probes of all channels of the block. Stage 2 gathers, patch by patch, the
// channels that fired and computes their other positions with rows of weights reached through
// pointers, so that any subset of channels costs what it computes and nothing else. Finished
// outputs wait channels-last in the staging buffer and leave for Y's planes together.
#include "spatial_conv_job.h"

#include <algorithm>
#include <cstring>

namespace spatialonnx {
namespace {

using std::int64_t;

// Enough positions that stage 1 divides into whole tiles, few enough that they stay in cache.
constexpr int64_t kLeastBandPositions = 96;
constexpr int64_t kMostBandColumns = 128;

// The places of a patch inside the map: probes and others. The places of a blind patch are all
// probes: it is computed in full.
struct Places {
  Places(unsigned pattern, unsigned inside, int64_t patch_size) {
    const unsigned seen = (pattern & inside) != 0 ? pattern & inside : inside;
    for (int i = 0; i < patch_size * patch_size; ++i) {
      if (seen >> i & 1) {
        probe[probes++] = i;
      } else if (inside >> i & 1) {
        other[others++] = i;
      }
    }
  }

  int probes = 0;
  int others = 0;
  int probe[kMostPositions];
  int other[kMostPositions];
};

// Positions of a patch as the kernels take them.
struct Positions {
  int count = 0;
  const float* x[kMostPositions];
  float* out[kMostPositions];
  const float* residual[kMostPositions];
};

class Job {
 public:
  Job(const ConvRun& run, Worker& worker, int64_t image, const float* map, const ConvBlock& block,
      int64_t band);

  void run();

 private:
  Places places(int64_t patch, int64_t channel) const;
  int64_t position(int64_t patch, int place) const;
  const float* input(int64_t patch, int place) const;
  Positions positions(int64_t patch, const int* places, int count) const;
  ConvFinish finish(int64_t channel, const float* const* residual) const;

  void read_residual();
  void list_probes();
  void run_panels();
  void run_rows();
  void finish_patch(int64_t patch);
  void finish_mixed_patch(int64_t patch);
  void finish_alike(const Places& places, int64_t patch, const std::int32_t* channels,
                    int64_t count);
  void compute_rows(const std::int32_t* channels, int64_t count, const Positions& at);
  void multiply(int64_t rows, const float* const* x, int positions);
  float finished(float sum, int64_t channel, const float* residual) const;
  void write_planes();
  void add_counts();

  bool counts() const { return task_.skipped != nullptr || task_.macs != nullptr; }
  int64_t groups_of_8() const { return (block_.count + 7) / 8; }
  int64_t sums_stride() const { return plan_.stride + 16; }

  const ConvRun& run_;
  const ConvTask& task_;
  const ConvPlan& plan_;
  const ConvKernels& kernels_;
  Worker& worker_;
  const int64_t image_;
  const float* const map_;  // of the block's group
  const ConvBlock& block_;
  const PatchGrid& grid_;
  int64_t patch_row_;  // the band's first patch
  int64_t patch_column_;
  int64_t patch_rows_;
  int64_t patch_columns_;
  int64_t y_;  // its first position
  int64_t x_;
  int64_t height_;
  int64_t width_;
};

Job::Job(const ConvRun& run, Worker& worker, int64_t image, const float* map,
         const ConvBlock& block, int64_t band)
    : run_(run),
      task_(run.task),
      plan_(run.plan),
      kernels_(run.kernels),
      worker_(worker),
      image_(image),
      map_(map + block.group * run.map.map_floats),
      block_(block),
      grid_(run.shape.grid) {
  const Bands& bands = run.bands;
  const int64_t p = grid_.patch_size;
  patch_row_ = band / bands.across * bands.patch_rows;
  patch_column_ = band % bands.across * bands.patch_columns;
  patch_rows_ = std::min(bands.patch_rows, grid_.rows() - patch_row_);
  patch_columns_ = std::min(bands.patch_columns, grid_.columns() - patch_column_);
  y_ = patch_row_ * p;
  x_ = patch_column_ * p;
  height_ = std::min(patch_rows_ * p, grid_.height - y_);
  width_ = std::min(patch_columns_ * p, grid_.width - x_);
}

// --- Where things are ----------------------------------------------------------------------------

Places Job::places(int64_t patch, int64_t channel) const {
  const int64_t row = patch / patch_columns_;
  const int64_t column = patch % patch_columns_;
  const int64_t p = grid_.patch_size;
  const int64_t down = std::min(p, height_ - row * p);
  const int64_t across = std::min(p, width_ - column * p);
  const unsigned in_row = (1u << across) - 1;
  unsigned inside = 0;
  for (int64_t y = 0; y < down; ++y) inside |= in_row << (y * p);
  const unsigned pattern = task_.mask.at(plan_.order[static_cast<std::size_t>(channel)],
                                         patch_row_ + row, patch_column_ + column);
  return {pattern, inside, p};
}

int64_t Job::position(int64_t patch, int place) const {
  const int64_t p = grid_.patch_size;
  const int64_t y = patch / patch_columns_ * p + place / p;
  const int64_t x = patch % patch_columns_ * p + place % p;
  return (y * width_ + x) * plan_.stride;
}

const float* Job::input(int64_t patch, int place) const {
  const int64_t p = grid_.patch_size;
  const int64_t y = y_ + patch / patch_columns_ * p + place / p;
  const int64_t x = x_ + patch % patch_columns_ * p + place % p;
  const Pair& stride = run_.attributes.stride;
  return map_ + (y * stride[0] * run_.map.width + x * stride[1]) * run_.map.inputs;
}

Positions Job::positions(int64_t patch, const int* places, int count) const {
  Positions all;
  all.count = count;
  for (int j = 0; j < count; ++j) {
    all.x[j] = input(patch, places[j]);
    all.out[j] = worker_.staging + position(patch, places[j]);
    all.residual[j] = worker_.residual + position(patch, places[j]);
  }
  return all;
}

// `channel` counts from the block's first one.
ConvFinish Job::finish(int64_t channel, const float* const* residual) const {
  return {.bias = run_.bias + block_.first + channel,
          .residual = task_.residual == nullptr ? nullptr : residual,
          .clip_max = run_.attributes.clip_max};
}

// --- In and out ----------------------------------------------------------------------------------

void Job::read_residual() {
  if (task_.residual == nullptr) return;
  for (int64_t c = 0; c < block_.count; ++c) {
    const int64_t channel = plan_.order[static_cast<std::size_t>(block_.first + c)];
    worker_.residual_planes[c] =
        task_.residual + (image_ * grid_.channels + channel) * grid_.map_size();
  }
  for (int64_t y = 0; y < height_; ++y) {
    for (int64_t x = 0; x < width_; x += kMostPositions) {
      const int count = static_cast<int>(std::min<int64_t>(kMostPositions, width_ - x));
      float* rows[kMostPositions];
      for (int q = 0; q < count; ++q) {
        rows[q] = worker_.residual + (y * width_ + x + q) * plan_.stride;
      }
      kernels_.gather(worker_.residual_planes, block_.count, (y_ + y) * grid_.width + x_ + x, count,
                      rows);
    }
  }
}

void Job::write_planes() {
  for (int64_t c = 0; c < block_.count; ++c) {
    const int64_t channel = plan_.order[static_cast<std::size_t>(block_.first + c)];
    worker_.planes[c] = task_.y + (image_ * grid_.channels + channel) * grid_.map_size();
  }
  // Whole rows of the map follow each other in its planes.
  const bool whole = width_ == grid_.width;
  const int64_t runs = whole ? 1 : height_;
  const int64_t count = whole ? height_ * width_ : width_;
  for (int64_t i = 0; i < runs; ++i) {
    kernels_.scatter(worker_.staging + i * count * plan_.stride, plan_.stride, count,
                     worker_.planes, block_.count, (y_ + i) * grid_.width + x_);
  }
}

// Threads that work on the same channels of the same image add to the same counts.
void Job::add_counts() {
  for (int64_t c = 0; c < block_.count; ++c) {
    const int64_t at =
        image_ * grid_.channels + plan_.order[static_cast<std::size_t>(block_.first + c)];
    if (task_.skipped != nullptr) {
      __atomic_fetch_add(task_.skipped + at, worker_.skipped[c], __ATOMIC_RELAXED);
    }
    if (task_.macs != nullptr) {
      __atomic_fetch_add(task_.macs + at, worker_.computed[c] * run_.attributes.macs(),
                         __ATOMIC_RELAXED);
    }
  }
}

// --- Stage 1 -------------------------------------------------------------------------------------

void Job::list_probes() {
  std::int32_t count = 0;
  for (int64_t patch = 0; patch < patch_rows_ * patch_columns_; ++patch) {
    worker_.first_probe[patch] = count;
    const Places at = places(patch, block_.first);
    for (int i = 0; i < at.probes; ++i, ++count) {
      worker_.probe_x[count] = input(patch, at.probe[i]);
      worker_.probe_out[count] = worker_.staging + position(patch, at.probe[i]);
      worker_.probe_residual[count] = worker_.residual + position(patch, at.probe[i]);
    }
  }
  worker_.first_probe[patch_rows_ * patch_columns_] = count;
}

void Job::run_panels() {
  const int64_t probes = worker_.first_probe[patch_rows_ * patch_columns_];
  const int64_t width = kernels_.panel_channels;
  const int64_t inputs = plan_.segments * plan_.segment_length;
  const int64_t calls = (probes + kernels_.panel_positions - 1) / kernels_.panel_positions;
  for (int64_t panel = 0; panel < block_.panels; ++panel) {
    const float* weights = plan_.panels.data() + block_.panel_at + panel * width * inputs;
    const int64_t channel = panel * width;
    for (int64_t call = 0, first = 0; call < calls; ++call) {
      // As even as possible: a call for few positions is slow.
      const int64_t count = (probes - first + calls - call - 1) / (calls - call);
      float* out[kMostPositions];
      const float* residual[kMostPositions];
      for (int64_t j = 0; j < count; ++j) {
        out[j] = worker_.probe_out[first + j] + channel;
        residual[j] = worker_.probe_residual[first + j] + channel;
      }
      kernels_.panel[count](run_.span, weights, worker_.probe_x + first,
                            finish(channel, residual), out);
      first += count;
    }
  }
}

// The probes of the channels that have no panel.
void Job::run_rows() {
  const int64_t channel = std::min(block_.count, block_.panels * kernels_.panel_channels);
  const int64_t count = block_.count - channel;
  if (count == 0) return;
  const int64_t groups = (count + 7) / 8;
  for (int64_t c = 0; c < count; ++c) {
    worker_.rows[c] = plan_.rows.data() + (block_.first + channel + c) * plan_.row_length;
  }
  std::memset(worker_.bits, 0xff, static_cast<std::size_t>(groups));
  worker_.bits[groups - 1] = static_cast<unsigned char>(0xff >> (8 * groups - count));
  const int64_t probes = worker_.first_probe[patch_rows_ * patch_columns_];
  for (int64_t first = 0; first < probes;) {
    const int64_t left = std::min<int64_t>(kMostPositions, probes - first);
    const int positions = kernels_.first_tile[left];
    multiply(count, worker_.probe_x + first, positions);
    float* out[kMostPositions];
    const float* residual[kMostPositions];
    for (int j = 0; j < positions; ++j) {
      out[j] = worker_.probe_out[first + j] + channel;
      residual[j] = worker_.probe_residual[first + j] + channel;
    }
    kernels_.expand(worker_.bits, groups, worker_.sums, sums_stride(), positions,
                    finish(channel, residual), out);
    first += positions;
  }
}

// --- Stage 2 -------------------------------------------------------------------------------------

// Sums of `rows` of the worker's rows for some positions, to worker.sums.
void Job::multiply(int64_t rows, const float* const* x, int positions) {
  for (int j = 0; j < positions;) {
    const int across = kernels_.first_tile[positions - j];
    const int64_t most = kernels_.tile_rows[across];
    for (int64_t i = 0; i < rows;) {
      const int64_t left = rows - i;
      // The last two tiles share what is left evenly: a tile of one row is slow.
      const int64_t down = left <= most ? left : left >= most + 3 ? most : (left + 1) / 2;
      kernels_.tile[across][down](run_.span, worker_.rows + i, x + j,
                                  worker_.sums + j * sums_stride() + i, sums_stride());
      i += down;
    }
    j += across;
  }
}

void Job::finish_patch(int64_t patch) {
  const Places at = places(patch, block_.first);
  if (counts()) {
    for (int64_t c = 0; c < block_.count; ++c) worker_.computed[c] += at.probes;
  }
  if (at.others == 0) return;
  const int64_t groups = groups_of_8();
  kernels_.fired(worker_.probe_out + worker_.first_probe[patch], at.probes, groups, worker_.bits);
  // Behind the last channel there is padding, whose outputs mean nothing.
  worker_.bits[groups - 1] &= static_cast<unsigned char>(0xff >> (8 * groups - block_.count));
  const int64_t fired = kernels_.compress(worker_.bits, groups, worker_.channels);
  const Positions others = positions(patch, at.other, at.others);
  if (counts()) {
    for (int64_t c = 0; c < block_.count; ++c) {
      if ((worker_.bits[c / 8] >> (c % 8) & 1) == 0) worker_.skipped[c] += at.others;
    }
    for (int64_t i = 0; i < fired; ++i) worker_.computed[worker_.channels[i]] += at.others;
  }
  for (int64_t i = 0; i < fired; ++i) {
    worker_.rows[i] =
        plan_.rows.data() + (block_.first + worker_.channels[i]) * plan_.row_length;
  }
  if (fired > 0) multiply(fired, others.x, others.count);
  kernels_.expand(worker_.bits, groups, worker_.sums, sums_stride(), others.count,
                  finish(0, others.residual), others.out);
}

// --- Patches whose channels differ in their patterns ---------------------------------------------

float Job::finished(float sum, int64_t channel, const float* residual) const {
  sum += run_.bias[block_.first + channel];
  if (task_.residual != nullptr) sum += residual[channel];
  sum = sum <= 0 ? 0 : sum;
  return sum > run_.attributes.clip_max ? run_.attributes.clip_max : sum;
}

// The outputs of some channels at some positions.
void Job::compute_rows(const std::int32_t* channels, int64_t count, const Positions& at) {
  for (int64_t i = 0; i < count; ++i) {
    worker_.rows[i] = plan_.rows.data() + (block_.first + channels[i]) * plan_.row_length;
  }
  multiply(count, at.x, at.count);
  for (int j = 0; j < at.count; ++j) {
    for (int64_t i = 0; i < count; ++i) {
      const std::int32_t c = channels[i];
      at.out[j][c] = finished(worker_.sums[j * sums_stride() + i], c, at.residual[j]);
    }
  }
  if (!counts()) return;
  for (int64_t i = 0; i < count; ++i) worker_.computed[channels[i]] += at.count;
}

// Channels that share a pattern in this patch.
void Job::finish_alike(const Places& places, int64_t patch, const std::int32_t* channels,
                       int64_t count) {
  const Positions probes = positions(patch, places.probe, places.probes);
  const Positions others = positions(patch, places.other, places.others);
  compute_rows(channels, count, probes);
  int64_t fired = 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::int32_t c = channels[i];
    const bool fires = std::any_of(probes.out, probes.out + probes.count,
                                   [c](const float* out) { return out[c] != 0; });
    if (fires) {
      worker_.channels[fired++] = c;
      continue;
    }
    for (int j = 0; j < others.count; ++j) others.out[j][c] = 0;
    worker_.skipped[c] += others.count;
  }
  if (fired > 0 && others.count > 0) compute_rows(worker_.channels, fired, others);
}

void Job::finish_mixed_patch(int64_t patch) {
  const int64_t row = patch_row_ + patch / patch_columns_;
  const int64_t column = patch_column_ + patch % patch_columns_;
  const int64_t patches = grid_.rows() * grid_.columns();
  const std::int32_t* sorted = plan_.sorted.data() + block_.first * patches +
                               (row * grid_.columns() + column) * block_.count;
  const auto pattern_of = [&](std::int32_t c) {
    return task_.mask.at(plan_.order[static_cast<std::size_t>(block_.first + c)], row, column);
  };
  for (int64_t first = 0; first < block_.count;) {
    int64_t last = first + 1;
    while (last < block_.count && pattern_of(sorted[last]) == pattern_of(sorted[first])) ++last;
    finish_alike(places(patch, block_.first + sorted[first]), patch, sorted + first, last - first);
    first = last;
  }
}

void Job::run() {
  if (counts() || block_.mixed) {
    std::fill_n(worker_.skipped, block_.count, 0);
    std::fill_n(worker_.computed, block_.count, 0);
  }
  read_residual();
  const int64_t patches = patch_rows_ * patch_columns_;
  if (block_.mixed) {
    for (int64_t patch = 0; patch < patches; ++patch) finish_mixed_patch(patch);
  } else {
    list_probes();
    run_panels();
    run_rows();
    for (int64_t patch = 0; patch < patches; ++patch) finish_patch(patch);
  }
  write_planes();
  if (counts()) add_counts();
}

}  // namespace

Bands::Bands(const PatchGrid& grid) {
  const int64_t p = grid.patch_size;
  patch_columns = std::min(grid.columns(), kMostBandColumns / p);
  across = (grid.columns() + patch_columns - 1) / patch_columns;
  const int64_t row_positions = p * std::min(grid.width, patch_columns * p);
  const int64_t least = (kLeastBandPositions + row_positions - 1) / row_positions;
  down = std::max<int64_t>(1, grid.rows() / least);
  patch_rows = (grid.rows() + down - 1) / down;
  down = (grid.rows() + patch_rows - 1) / patch_rows;
}

Worker::Worker(Pieces& pieces, const ConvRun& run) {
  const ConvPlan& plan = run.plan;
  const int64_t p = run.shape.grid.patch_size;
  const int64_t positions = run.bands.patches() * p * p;
  const int64_t staged = checked_product(positions, plan.stride) + kConvSlack;
  staging = pieces.take<float>(staged);
  residual = pieces.take<float>(run.task.residual != nullptr ? staged : 0);
  sums = pieces.take<float>(kMostPositions * (plan.stride + 16) + kConvSlack);
  probe_x = pieces.take<const float*>(positions);
  probe_out = pieces.take<float*>(positions);
  probe_residual = pieces.take<const float*>(positions);
  first_probe = pieces.take<std::int32_t>(run.bands.patches() + 1);
  bits = pieces.take<unsigned char>(plan.stride / 8);
  channels = pieces.take<std::int32_t>(plan.stride + 8);
  rows = pieces.take<const float*>(plan.stride);
  planes = pieces.take<float*>(plan.stride);
  residual_planes = pieces.take<const float*>(plan.stride);
  skipped = pieces.take<int64_t>(plan.stride);
  computed = pieces.take<int64_t>(plan.stride);
}

void run_job(const ConvRun& run, Worker& worker, int64_t image, const float* map,
             const ConvBlock& block, int64_t band) {
  Job(run, worker, image, map, block, band).run();
}

}  // namespace spatialonnx
