// The two stages of a job, where all channels of its block share their patterns.
#include <algorithm>
#include <cstring>

#include "spatial_conv/job.h"

namespace spatialonnx {

using std::int64_t;

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

// Panels are a second copy of the weights: it has to be read for enough probes.
bool Job::panels_pay() const {
  constexpr int64_t kLeastProbes = 48;
  return block_.panels > 0 && probes() * run_.bands.count() * grid_.batch >= kLeastProbes;
}

void Job::run_panels() {
  const int64_t probes = this->probes();
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
      const float* ahead = worker_.ahead.take(inputs * kConvLine / 2);
      kernels_.panel[count][ahead != nullptr](run_.span, weights, worker_.probe_x + first, ahead,
                                              finish(channel, residual), out);
      first += count;
    }
  }
}

// The probes of the channels from `channel` on, without panels.
void Job::run_rows(int64_t channel) {
  const int64_t count = block_.count - channel;
  if (count <= 0) return;
  const int64_t groups = (count + 7) / 8;
  for (int64_t c = 0; c < count; ++c) {
    worker_.rows[c] = plan_.rows.data() + (block_.first + channel + c) * plan_.row_length;
  }
  std::memset(worker_.bits, 0xff, static_cast<std::size_t>(groups));
  worker_.bits[groups - 1] = static_cast<unsigned char>(0xff >> (8 * groups - count));
  for (int64_t first = 0; first < probes();) {
    const int64_t left = std::min<int64_t>(kMostPositions, probes() - first);
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
      const float* ahead = worker_.ahead.take(plan_.row_length / 2);
      kernels_.tile[across][down][ahead != nullptr](run_.span, worker_.rows + i, x + j, ahead,
                                                    sums + j * sums_stride() + i, sums_stride());
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

}  // namespace spatialonnx
