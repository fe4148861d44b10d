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
constexpr int64_t kBandPositions = 96;
// Of a map too small to give every thread such bands.
constexpr int64_t kSmallBandPositions = 24;
constexpr int64_t kMostBandColumns = 128;

// The places of a patch inside the map: probes and others. The places of a blind patch are all
// probes: it is computed in full.
struct Places {
  Places() = default;
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

// Where a patch of the band begins.
struct PatchStart {
  std::int64_t row;  // of patches, in the band
  std::int64_t column;
  const float* x;         // the inputs of its first place
  std::int64_t position;  // of that place, in the staging buffer
};

// A patch whose probes are computed.
struct Unfinished {
  PatchStart start;
  Places places;
};

// Positions as the kernels take them.
struct Positions {
  int count = 0;
  const float* x[kMostPositions];
  float* out[kMostPositions];
  const float* residual[kMostPositions];
};

class Job {
 public:
  Job(const ConvRun& run, Worker& worker, int64_t image, MapRows rows, const ConvBlock& block,
      int64_t band);

  void run();

 private:
  unsigned inside(int64_t row, int64_t column) const;
  Places places(int64_t row, int64_t column, int64_t channel) const;
  const Places& shared_places(int64_t row, int64_t column);
  PatchStart start(int64_t row, int64_t column) const;
  void add_positions(const PatchStart& patch, const int* places, int count, Positions& to) const;
  ConvFinish finish(int64_t channel, const float* const* residual) const;

  void expect_writes() const;
  void read_residual();
  void list_probes();
  void run_panels();
  void run_rows();
  void count_probes(const Unfinished& patch);
  void find_fired(const Unfinished& patch, unsigned char* bits);
  void compute_fired(const unsigned char* bits, const Positions& at, bool keep);
  void finish_patches();
  void finish_patch(const Unfinished& patch);
  void finish_pair(const Unfinished& patch, const Unfinished& next);
  void finish_mixed_patches();
  void finish_mixed_patch(const PatchStart& patch);
  void finish_alike(const Places& places, const PatchStart& patch, const std::int32_t* channels,
                    int64_t count);
  void compute_rows(const std::int32_t* channels, int64_t count, const Positions& at);
  void multiply(int64_t rows, const float* const* x, int positions);
  void multiply_rows(int64_t rows, const float* const* x, int positions, int across, float* sums);
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
  const MapRows input_;
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
  int64_t place_positions_[kMostPositions];  // from a patch's first place to its others
  // Of a mask that is the same everywhere: of whole patches, and of those cut by a border.
  Places uniform_[4];
  Places varying_;
};

Job::Job(const ConvRun& run, Worker& worker, int64_t image, MapRows rows, const ConvBlock& block,
         int64_t band)
    : run_(run),
      task_(run.task),
      plan_(run.plan),
      kernels_(run.kernels),
      worker_(worker),
      image_(image),
      input_(rows),
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
  for (int64_t i = 0; i < p * p; ++i) {
    place_positions_[i] = (i / p * width_ + i % p) * plan_.stride;
  }
  for (int64_t i = 0; i < 4 && !block.mixed; ++i) {
    uniform_[i] = places(i / 2 * (patch_rows_ - 1), i % 2 * (patch_columns_ - 1), block.first);
  }
}

// --- Where things are ----------------------------------------------------------------------------

// The places of a patch that lie in the map.
unsigned Job::inside(int64_t row, int64_t column) const {
  const int64_t p = grid_.patch_size;
  const int64_t down = std::min(p, height_ - row * p);
  const unsigned in_row = (1u << std::min(p, width_ - column * p)) - 1;
  unsigned places = 0;
  for (int64_t y = 0; y < down; ++y) places |= in_row << (y * p);
  return places;
}

// `channel` is one of the plan's order.
Places Job::places(int64_t row, int64_t column, int64_t channel) const {
  const unsigned pattern = task_.mask.at(plan_.order[static_cast<std::size_t>(channel)],
                                         patch_row_ + row, patch_column_ + column);
  return {pattern, inside(row, column), grid_.patch_size};
}

// Of a patch whose channels, all of the block, share a pattern. Valid until the next call.
const Places& Job::shared_places(int64_t row, int64_t column) {
  if (task_.mask.row_stride == 0 && task_.mask.column_stride == 0) {
    return uniform_[(row == patch_rows_ - 1 ? 2 : 0) + (column == patch_columns_ - 1 ? 1 : 0)];
  }
  varying_ = places(row, column, block_.first);
  return varying_;
}

PatchStart Job::start(int64_t row, int64_t column) const {
  const int64_t p = grid_.patch_size;
  const Pair& stride = run_.attributes.stride;
  const int64_t y = (y_ + row * p) * stride[0];
  const int64_t x = (x_ + column * p) * stride[1];
  return {row, column, input_.data + ((y - input_.first) * run_.map.width + x) * run_.map.inputs,
          (row * width_ + column) * p * plan_.stride};
}

void Job::add_positions(const PatchStart& patch, const int* places, int count,
                        Positions& to) const {
  for (int i = 0; i < count; ++i, ++to.count) {
    const int64_t position = patch.position + place_positions_[places[i]];
    to.x[to.count] = patch.x + run_.place_inputs[places[i]];
    to.out[to.count] = worker_.staging + position;
    to.residual[to.count] = worker_.residual + position;
  }
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

// Fetches the planes' lines that write_planes() will write: so many streams of writes are more
// than a processor follows by itself.
void Job::expect_writes() const {
  constexpr int64_t kLine = 16;
  const bool whole = width_ == grid_.width;
  const int64_t runs = whole ? 1 : height_;
  const int64_t count = whole ? height_ * width_ : width_;
  for (int64_t c = 0; c < block_.count; ++c) {
    for (int64_t i = 0; i < runs; ++i) {
      const float* line = worker_.planes[c] + (y_ + i) * grid_.width + x_;
      for (int64_t q = 0; q < count; q += kLine) __builtin_prefetch(line + q, 1, 2);
    }
  }
}

void Job::write_planes() {
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
  std::int32_t* first = worker_.first_probe;
  for (int64_t row = 0; row < patch_rows_; ++row) {
    for (int64_t column = 0; column < patch_columns_; ++column) {
      *first++ = count;
      const Places& at = shared_places(row, column);
      const PatchStart patch = start(row, column);
      for (int i = 0; i < at.probes; ++i, ++count) {
        const int64_t position = patch.position + place_positions_[at.probe[i]];
        worker_.probe_x[count] = patch.x + run_.place_inputs[at.probe[i]];
        worker_.probe_out[count] = worker_.staging + position;
        worker_.probe_residual[count] = worker_.residual + position;
      }
    }
  }
  *first = count;
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
                    finish(channel, residual), false, out);
    first += positions;
  }
}

// --- Stage 2 -------------------------------------------------------------------------------------

// Sums of the worker's rows for `across` positions, as many as a tile has.
void Job::multiply_rows(int64_t rows, const float* const* x, int positions, int across,
                        float* sums) {
  const int64_t most = kernels_.tile_rows[across];
  for (int64_t i = 0; i < rows;) {
    const int64_t left = rows - i;
    // The last two tiles share what is left evenly: a tile of one row is slow.
    const int64_t down = left <= most ? left : left >= most + 3 ? most : (left + 1) / 2;
    // Tiles beside each other find the weights in the first-level cache.
    for (int j = 0; j < positions; j += across) {
      kernels_.tile[across][down](run_.span, worker_.rows + i, x + j, sums + j * sums_stride() + i,
                                  sums_stride());
    }
    i += down;
  }
}

// Sums of the worker's rows for any number of positions, to worker.sums.
void Job::multiply(int64_t rows, const float* const* x, int positions) {
  for (int j = 0; j < positions;) {
    const int across = kernels_.first_tile[positions - j];
    const int together = (positions - j) % across == 0 ? positions - j : across;
    multiply_rows(rows, x + j, together, across, worker_.sums + j * sums_stride());
    j += together;
  }
}

void Job::count_probes(const Unfinished& patch) {
  if (!counts()) return;
  for (int64_t c = 0; c < block_.count; ++c) worker_.computed[c] += patch.places.probes;
}

// Which channels have a probe that fired.
void Job::find_fired(const Unfinished& patch, unsigned char* bits) {
  const int64_t groups = groups_of_8();
  const int64_t index = patch.start.row * patch_columns_ + patch.start.column;
  kernels_.fired(worker_.probe_out + worker_.first_probe[index], patch.places.probes, groups, bits);
  // Behind the last channel there is padding, whose outputs mean nothing.
  bits[groups - 1] &= static_cast<unsigned char>(0xff >> (8 * groups - block_.count));
  count_probes(patch);
  if (!counts()) return;
  for (int64_t c = 0; c < block_.count; ++c) {
    if ((bits[c / 8] >> (c % 8) & 1) == 0) worker_.skipped[c] += patch.places.others;
  }
}

// The channels whose bit is set, at some positions; the others become zero, or stay with `keep`.
void Job::compute_fired(const unsigned char* bits, const Positions& at, bool keep) {
  const int64_t fired = kernels_.compress(bits, groups_of_8(), worker_.channels);
  const float* rows = plan_.rows.data() + block_.first * plan_.row_length;
  for (int64_t i = 0; i < fired; ++i) {
    worker_.rows[i] = rows + worker_.channels[i] * plan_.row_length;
  }
  if (counts()) {
    for (int64_t i = 0; i < fired; ++i) worker_.computed[worker_.channels[i]] += at.count;
  }
  if (fired > 0) multiply(fired, at.x, at.count);
  kernels_.expand(bits, groups_of_8(), worker_.sums, sums_stride(), at.count,
                  finish(0, at.residual), keep, at.out);
}

void Job::finish_patch(const Unfinished& patch) {
  find_fired(patch, worker_.bits);
  Positions others;
  add_positions(patch.start, patch.places.other, patch.places.others, others);
  compute_fired(worker_.bits, others, false);
}

// Two patches with few other positions: the channels that fired in both are computed together,
// because a tile of few positions is bound by the loads of its weights.
void Job::finish_pair(const Unfinished& patch, const Unfinished& next) {
  find_fired(patch, worker_.bits);
  find_fired(next, worker_.next_bits);
  for (int64_t g = 0; g < groups_of_8(); ++g) {
    worker_.common_bits[g] = worker_.bits[g] & worker_.next_bits[g];
    worker_.bits[g] ^= worker_.common_bits[g];
    worker_.next_bits[g] ^= worker_.common_bits[g];
  }
  Positions one;
  Positions other;
  add_positions(patch.start, patch.places.other, patch.places.others, one);
  add_positions(next.start, next.places.other, next.places.others, other);
  Positions both = one;
  add_positions(next.start, next.places.other, next.places.others, both);
  compute_fired(worker_.common_bits, both, false);
  compute_fired(worker_.bits, one, true);
  compute_fired(worker_.next_bits, other, true);
}

void Job::finish_patches() {
  // Together no more than a tile has positions.
  constexpr int kMostOfPair = 6;
  Unfinished waiting;
  for (int64_t row = 0; row < patch_rows_; ++row) {
    for (int64_t column = 0; column < patch_columns_; ++column) {
      const Unfinished patch{start(row, column), shared_places(row, column)};
      if (patch.places.others == 0) {
        count_probes(patch);
      } else if (waiting.places.others == 0) {
        waiting = patch;
      } else if (waiting.places.others + patch.places.others <= kMostOfPair) {
        finish_pair(waiting, patch);
        waiting.places.others = 0;
      } else {
        finish_patch(waiting);
        waiting = patch;
      }
    }
  }
  if (waiting.places.others > 0) finish_patch(waiting);
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
void Job::finish_alike(const Places& places, const PatchStart& patch, const std::int32_t* channels,
                       int64_t count) {
  Positions probes;
  add_positions(patch, places.probe, places.probes, probes);
  Positions others;
  add_positions(patch, places.other, places.others, others);
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

void Job::finish_mixed_patch(const PatchStart& patch) {
  const int64_t row = patch_row_ + patch.row;
  const int64_t column = patch_column_ + patch.column;
  const int64_t patches = grid_.rows() * grid_.columns();
  const std::int32_t* sorted = plan_.sorted.data() + block_.first * patches +
                               (row * grid_.columns() + column) * block_.count;
  const auto pattern_of = [&](std::int32_t c) {
    return task_.mask.at(plan_.order[static_cast<std::size_t>(block_.first + c)], row, column);
  };
  for (int64_t first = 0; first < block_.count;) {
    int64_t last = first + 1;
    while (last < block_.count && pattern_of(sorted[last]) == pattern_of(sorted[first])) ++last;
    finish_alike(places(patch.row, patch.column, block_.first + sorted[first]), patch,
                 sorted + first, last - first);
    first = last;
  }
}

void Job::finish_mixed_patches() {
  for (int64_t row = 0; row < patch_rows_; ++row) {
    for (int64_t column = 0; column < patch_columns_; ++column) {
      finish_mixed_patch(start(row, column));
    }
  }
}

void Job::run() {
  if (counts() || block_.mixed) {
    std::fill_n(worker_.skipped, block_.count, 0);
    std::fill_n(worker_.computed, block_.count, 0);
  }
  for (int64_t c = 0; c < block_.count; ++c) {
    const int64_t channel = plan_.order[static_cast<std::size_t>(block_.first + c)];
    worker_.planes[c] = task_.y + (image_ * grid_.channels + channel) * grid_.map_size();
  }
  expect_writes();
  read_residual();
  if (block_.mixed) {
    finish_mixed_patches();
  } else {
    list_probes();
    run_panels();
    run_rows();
    finish_patches();
  }
  write_planes();
  if (counts()) add_counts();
}

}  // namespace

Bands::Bands(const PatchGrid& grid, int64_t least_positions) {
  const int64_t p = grid.patch_size;
  patch_columns = std::min(grid.columns(), kMostBandColumns / p);
  across = (grid.columns() + patch_columns - 1) / patch_columns;
  const int64_t row_positions = p * std::min(grid.width, patch_columns * p);
  const int64_t least = (least_positions + row_positions - 1) / row_positions;
  down = std::max<int64_t>(1, grid.rows() / least);
  patch_rows = (grid.rows() + down - 1) / down;
  down = (grid.rows() + patch_rows - 1) / patch_rows;
}

namespace {

Bands choose_bands(const ConvPlan& plan, const PatchGrid& grid, int64_t threads) {
  const Bands bands(grid, kBandPositions);
  const int64_t jobs = static_cast<int64_t>(plan.blocks.size()) * grid.batch * bands.count();
  return threads > 1 && jobs < 2 * threads ? Bands(grid, kSmallBandPositions) : bands;
}

}  // namespace

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

Pair ConvRun::input_rows(int64_t band) const {
  const int64_t first = band / bands.across * bands.patch_rows * shape.grid.patch_size;
  const int64_t last =
      std::min(first + bands.patch_rows * shape.grid.patch_size, shape.output[0]) - 1;
  return {first * attributes.stride[0],
          last * attributes.stride[0] + (attributes.kernel[0] - 1) * attributes.dilation[0] + 1};
}

bool ConvRun::by_band() const {
  return static_cast<int64_t>(plan.blocks.size()) == attributes.groups;
}

int64_t ConvRun::band_floats() const {
  if (!by_band()) return 0;
  const Pair rows = input_rows(0);  // no other band is larger
  return checked_product(rows[1] - rows[0], map.width * map.inputs) + kConvSlack;
}

Worker::Worker(Pieces& pieces, const ConvRun& run)
    : band_rows(run.map, pieces.take<float>(run.band_floats())) {
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
  next_bits = pieces.take<unsigned char>(plan.stride / 8);
  common_bits = pieces.take<unsigned char>(plan.stride / 8);
  channels = pieces.take<std::int32_t>(plan.stride + 8);
  rows = pieces.take<const float*>(plan.stride);
  planes = pieces.take<float*>(plan.stride);
  residual_planes = pieces.take<const float*>(plan.stride);
  skipped = pieces.take<int64_t>(plan.stride);
  computed = pieces.take<int64_t>(plan.stride);
}

void run_job(const ConvRun& run, Worker& worker, int64_t image, MapRows rows,
             const ConvBlock& block, int64_t band) {
  Job(run, worker, image, rows, block, band).run();
}

}  // namespace spatialonnx
