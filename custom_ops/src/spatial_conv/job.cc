#include "spatial_conv/job.h"

#include <algorithm>

namespace spatialonnx {

using std::int64_t;

Job::Job(const ConvRun& run, Worker& worker, int64_t image, MapRows rows, const ConvBlock& block,
         const ConvBlock* next, int64_t band)
    : run_(run),
      task_(run.task),
      plan_(run.plan),
      kernels_(run.kernels),
      worker_(worker),
      image_(image),
      input_(rows),
      block_(block),
      next_(next),
      grid_(run.shape.grid) {
  const Bands& bands = run.bands;
  const int64_t p = grid_.patch_size;
  patch_row_ = bands.first_row(band);
  patch_column_ = band % bands.across * bands.patch_columns;
  patch_rows_ = bands.row_count(band);
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

// --- Weights in time -----------------------------------------------------------------------------

void Job::expect_rows(const ConvBlock& block) {
  worker_.ahead.expect(plan_.rows.data() + block.first * plan_.row_length,
                       block.count * plan_.row_length);
}

// What the next block begins with.
void Job::expect_next(bool by_panels) {
  if (next_ == nullptr) return;
  if (!by_panels) return expect_rows(*next_);
  const int64_t inputs = plan_.segments * plan_.segment_length;
  worker_.ahead.expect(plan_.panels.data() + next_->panel_at,
                       next_->panels * kernels_.panel_channels * inputs);
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

// --- All of it -----------------------------------------------------------------------------------

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
    expect_next(false);
    finish_mixed_patches();
  } else {
    list_probes();
    const bool by_panels = panels_pay();
    if (by_panels) {
      if (worker_.last_block != &block_) expect_rows(block_);
      run_panels();
    }
    expect_next(by_panels);
    run_rows(by_panels ? block_.panels * kernels_.panel_channels : 0);
    finish_patches();
  }
  worker_.last_block = &block_;
  write_planes();
  if (counts()) add_counts();
}

}  // namespace spatialonnx
