#include "spatial_qconv/job.h"

#include <algorithm>
#include <atomic>

namespace spatialonnx {
namespace {

using std::int64_t;

// Of a set's channels, in tenths: a patch in which so many fired is computed in full.
constexpr int64_t kMostFiredTenths = 7;

// How many of `count` things the next piece takes, where a piece takes at most `most`: no piece is
// much smaller than the others. Without divisions, which would take as long as a small tile.
int next_piece(int count, int most) {
  if (count <= most) return count;
  return count < 2 * most ? (count + 1) / 2 : most;
}

unsigned inside_of(int64_t rows, int64_t columns, int64_t patch_size) {
  unsigned inside = 0;
  for (int64_t r = 0; r < rows; ++r) inside |= ((1u << columns) - 1) << (r * patch_size);
  return inside;
}

}  // namespace

QConvPatchPlaces::QConvPatchPlaces(unsigned pattern, unsigned inside) {
  const unsigned seen = (pattern & inside) != 0 ? pattern & inside : inside;
  for (int i = 0; i < kQConvPlaces; ++i) {
    const auto place = static_cast<unsigned char>(i);
    if (seen >> i & 1) {
      probe[probes++] = place;
    } else if (inside >> i & 1) {
      other[others++] = place;
    }
  }
}

QConvJob::QConvJob(const QConvRun& run, std::uint8_t* scratch, int64_t image,
                   const std::uint8_t* x, const QConvBlock& block, int64_t first_patch_row,
                   int64_t end_patch_row)
    : run_(run),
      block_(block),
      kernels_(run.kernels),
      requantise_(*run.task.requantise),
      outputs_{run.task.y, run.task.residual},
      scratch_(scratch),
      image_(image),
      x_(x),
      first_row_(first_patch_row),
      end_row_(end_patch_row) {
  const int64_t p = run.shape.grid.patch_size;
  for (int64_t i = 0; i < p * p; ++i) {
    place_x_[i] = i / p * run.map.row_step + i % p * run.map.column_step;
    place_at_[i] = (i / p * run.shape.output[1] + i % p) * run.shape.grid.channels;
  }
  if (run.skipped != nullptr) std::fill_n(skipped_, block.count, 0);
}

void QConvJob::run() {
  if (run_.plan.everything) compute_everything();
  if (run_.plan.everything && run_.plan.dense) return;
  if (block_.sets.empty()) {
    each_patch([&](const Patch& patch) { run_mixed_patch(patch); });
  }
  for (const QConvSet& set : block_.sets) run_set(set);
  if (run_.skipped != nullptr) add_counts();
}

// --- Patches and their places ---------------------------------------------------------------------

template <class Body>
void QConvJob::each_patch(Body&& body) const {
  const PatchGrid& grid = run_.shape.grid;
  const int64_t p = grid.patch_size;
  const int64_t x_step = p * run_.map.column_step;
  const int64_t at_step = p * grid.channels;
  for (int64_t row = first_row_; row < end_row_; ++row) {
    const int64_t height = std::min(p, grid.height - row * p);
    const unsigned whole = inside_of(height, p, p);
    Patch patch{
        .row = row,
        .column = 0,
        .inside = whole,
        .kind = height < p ? 2 : 0,
        .x = x_ + row * p * run_.map.row_step,
        .at = (image_ * grid.height + row * p) * grid.width * grid.channels,
    };
    for (int64_t left = grid.width; left > 0; left -= p) {
      if (left < p) {
        patch.inside = inside_of(height, left, p);
        patch.kind |= 1;
      }
      body(patch);
      ++patch.column;
      patch.x += x_step;
      patch.at += at_step;
    }
  }
}

unsigned QConvJob::pattern_of(int64_t channel, const Patch& patch) const {
  return run_.task.mask.at(channel, patch.row, patch.column);
}

// The places of a set's patches, where they are the same but for the borders.
void QConvJob::choose_places(const QConvSet& set) {
  const PatchGrid& grid = run_.shape.grid;
  const int64_t p = grid.patch_size;
  const unsigned pattern = run_.task.mask.at(set.channel, 0, 0);
  const int64_t bottom = grid.height - (grid.rows() - 1) * p;
  const int64_t right = grid.width - (grid.columns() - 1) * p;
  for (int kind = 0; kind < 4; ++kind) {
    const int64_t rows = kind & 2 ? bottom : p;
    const int64_t columns = kind & 1 ? right : p;
    uniform_[kind] = QConvPatchPlaces(pattern, inside_of(rows, columns, p));
  }
}

const QConvPatchPlaces& QConvJob::places(const QConvSet& set, const Patch& patch) {
  const MaskView& mask = run_.task.mask;
  if (run_.plan.dense || (mask.row_stride == 0 && mask.column_stride == 0)) {
    return uniform_[patch.kind];
  }
  return varying_ = QConvPatchPlaces(pattern_of(set.channel, patch), patch.inside);
}

void QConvJob::add(const Patch& patch, const unsigned char* places, int count,
                   QConvPositions& to) const {
  for (int i = 0; i < count; ++i) {
    to.x[to.count] = patch.x + place_x_[places[i]];
    to.at[to.count++] = patch.at + place_at_[places[i]];
  }
}

// --- Probes and the rest ----------------------------------------------------------------------------

void QConvJob::compute_everything() {
  QConvPositions positions;
  const auto flush = [&] {
    compute_panels(positions);
    positions.count = 0;
  };
  static constexpr unsigned char kPlaces[kQConvPlaces] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                          8, 9, 10, 11, 12, 13, 14, 15};
  each_patch([&](const Patch& patch) {
    for (unsigned left = patch.inside; left != 0; left &= left - 1) {
      if (positions.count == kernels_.dense_positions) flush();
      add(patch, kPlaces + __builtin_ctz(left), 1, positions);
    }
  });
  flush();
}

void QConvJob::run_set(const QConvSet& set) {
  choose_places(set);
  if (!run_.plan.everything) {
    QConvPositions positions;
    each_patch([&](const Patch& patch) {
      const QConvPatchPlaces& at = places(set, patch);
      if (positions.count + at.probes > kRowPositions) {
        compute_probes(set, positions);
        positions.count = 0;
      }
      add(patch, at.probe, at.probes, positions);
    });
    compute_probes(set, positions);
  }
  each_patch([&](const Patch& patch) {
    const QConvPatchPlaces& at = places(set, patch);
    if (at.others == 0) return;
    const QConvMembers fired = find_fired(set.members, at, patch);
    if (!run_.plan.everything && 10 * fired.count(block_.words()) >= kMostFiredTenths * set.count) {
      finish_later(set, fired, at, patch);
    } else {
      finish_patch(fired, set.members, at, patch);
    }
  });
  finish_waiting(set);
}

void QConvJob::compute_panels(const QConvPositions& positions) {
  const QConvPanels panels{run_.plan.panels.data() + block_.panel_at, run_.plan.panel_bytes,
                           block_.first, block_.count};
  kernels_.dense(run_.span, panels, requantise_, outputs_, positions.x, positions.at,
                 positions.count, scratch_);
}

void QConvJob::compute_set_panels(const QConvSet& set, const QConvPositions& positions) {
  const QConvPanels panels{run_.plan.panels.data() + set.panel_at, run_.plan.panel_bytes,
                           block_.first, set.count};
  const int64_t width = kernels_.panel_channels;
  const int64_t stride = (set.count + width - 1) / width * width + 16;
  const int most = static_cast<int>(kSums / stride);
  for (int j = 0; j < positions.count;) {
    const int count = next_piece(positions.count - j, most);
    kernels_.panel_sums(run_.span, panels, positions.x + j, count, sums_, stride);
    const std::int32_t* sums = sums_;
    for (int64_t w = 0; w < block_.words(); ++w) {
      const std::uint64_t members = set.members.word[w];
      if (members == 0) continue;
      kernels_.finish(requantise_, outputs_, block_.first + 64 * w, members, members, sums, stride,
                      positions.at + j, count);
      sums += __builtin_popcountll(members);
    }
    j += count;
  }
}

void QConvJob::compute_probes(const QConvSet& set, const QConvPositions& positions) {
  if (block_.panel_at >= 0 && set.all) {
    compute_panels(positions);
  } else if (set.panel_at >= 0) {
    compute_set_panels(set, positions);
  } else {
    compute(set.members, set.members, positions);
  }
}

QConvMembers QConvJob::find_fired(const QConvMembers& members, const QConvPatchPlaces& places,
                                  const Patch& patch) {
  QConvPositions probes;
  add(patch, places.probe, places.probes, probes);
  QConvMembers fired;
  for (int64_t w = 0; w < block_.words(); ++w) {
    if (members.word[w] == 0) continue;
    fired.word[w] = kernels_.fired(requantise_, outputs_.y, block_.first + 64 * w, members.word[w],
                                   probes.at, probes.count);
  }
  if (run_.skipped != nullptr) count_skipped(fired, members, places.others);
  return fired;
}

void QConvJob::finish_patch(const QConvMembers& fired, const QConvMembers& members,
                            const QConvPatchPlaces& places, const Patch& patch) {
  QConvPositions others;
  add(patch, places.other, places.others, others);
  if (run_.plan.everything) {
    clear(fired, members, others);
  } else {
    compute(fired, members, others);
  }
}

void QConvJob::finish_later(const QConvSet& set, const QConvMembers& fired,
                            const QConvPatchPlaces& places, const Patch& patch) {
  if (waiting_.count + places.others > kRowPositions) finish_waiting(set);
  waiting_patch_[waiting_patches_++] = {fired, waiting_.count, places.others};
  add(patch, places.other, places.others, waiting_);
}

void QConvJob::finish_waiting(const QConvSet& set) {
  if (waiting_patches_ == 0) return;
  compute_probes(set, waiting_);
  for (int i = 0; i < waiting_patches_; ++i) {
    const Waiting& patch = waiting_patch_[i];
    QConvPositions others;
    others.count = patch.count;
    std::copy_n(waiting_.at + patch.first, patch.count, others.at);
    clear(patch.fired, set.members, others);
  }
  waiting_.count = 0;
  waiting_patches_ = 0;
}

void QConvJob::run_mixed_patch(const Patch& patch) {
  const MaskView& mask = run_.task.mask;
  const std::uint16_t* channels = run_.plan.sorted_channels(
      block_, patch.row * run_.shape.grid.columns() + patch.column);
  for (int64_t i = 0; i < block_.count;) {
    const unsigned pattern = pattern_of(block_.first + channels[i], patch);
    QConvMembers members;
    for (; i < block_.count && mask.at(block_.first + channels[i], patch.row, patch.column) == pattern;
         ++i) {
      members.add(channels[i]);
    }
    const QConvPatchPlaces at(pattern, patch.inside);
    if (!run_.plan.everything) {
      QConvPositions probes;
      add(patch, at.probe, at.probes, probes);
      compute(members, members, probes);
    }
    if (at.others == 0) continue;
    finish_patch(find_fired(members, at, patch), members, at, patch);
  }
}

// --- Rows of weights --------------------------------------------------------------------------------

// Computes what fired and sets the members' other outputs to zero.
void QConvJob::compute(const QConvMembers& fired, const QConvMembers& members,
                       const QConvPositions& positions) {
  if (positions.count == 0) return;
  const int64_t words_at_once =
      positions.count <= kFewPositions ? kQConvWords
                                       : std::max<int64_t>(1, (kSums / positions.count - 16) / 64);
  const std::int8_t* rows[kQConvBlockChannels + 8];
  for (int64_t w = 0; w < block_.words();) {
    const int64_t end = std::min(block_.words(), w + words_at_once);
    const int64_t stride = (end - w) * 64 + 16;
    int count = 0;
    for (int64_t i = w; i < end; ++i) {
      if (fired.word[i] == 0) continue;
      const int64_t first = block_.first + 64 * i;
      count += kernels_.list_rows(fired.word[i], run_.plan.rows.data() + first * run_.plan.row_bytes,
                                  run_.plan.row_bytes, rows + count);
    }
    if (count > 0) multiply(rows, count, positions, stride);
    const std::int32_t* sums = sums_;
    for (; w < end; ++w) {
      if (members.word[w] == 0) continue;
      kernels_.finish(requantise_, outputs_, block_.first + 64 * w, fired.word[w], members.word[w],
                      sums, stride, positions.at, positions.count);
      sums += __builtin_popcountll(fired.word[w]);
    }
  }
}

// Sets the outputs of members that did not fire to zero.
void QConvJob::clear(const QConvMembers& fired, const QConvMembers& members,
                     const QConvPositions& positions) {
  for (int64_t w = 0; w < block_.words(); ++w) {
    const std::uint64_t silent = members.word[w] & ~fired.word[w];
    if (silent == 0) continue;
    kernels_.finish(requantise_, outputs_, block_.first + 64 * w, 0, silent, sums_, 0, positions.at,
                    positions.count);
  }
}

// sums_[position * stride + row], tile by tile. Where many positions share the rows, the next
// tile's rows are fetched meanwhile: they may come from the third-level cache.
void QConvJob::multiply(const std::int8_t* const* rows, int count, const QConvPositions& positions,
                        int64_t sums_stride) {
  const int most_rows = kernels_.tile_rows[next_piece(positions.count, kQConvTilePositions)];
  const bool fetch = positions.count > kQConvPlaces;
  for (int r = 0; r < count;) {
    const int tile_rows = next_piece(count - r, most_rows);
    // An address, not a pointer: behind the last row there may be nothing.
    auto next = reinterpret_cast<std::uintptr_t>(rows[r + tile_rows - 1]) +
                static_cast<std::uintptr_t>(run_.plan.row_bytes);
    const int64_t fetched =  // by every tile
        fetch ? tile_rows * run_.plan.row_bytes * kQConvTilePositions / positions.count : 0;
    for (int j = 0; j < positions.count;) {
      const int tile_positions = next_piece(positions.count - j, kQConvTilePositions);
      kernels_.tile[tile_positions][tile_rows](run_.span, rows + r, positions.x + j,
                                               sums_ + j * sums_stride + r, sums_stride);
      j += tile_positions;
      for (const auto end = next + static_cast<std::uintptr_t>(fetched); next < end;
           next += kQConvLine) {
        __builtin_prefetch(reinterpret_cast<const void*>(next));
      }
    }
    r += tile_rows;
  }
}

// --- Counts -----------------------------------------------------------------------------------------

void QConvJob::count_skipped(const QConvMembers& fired, const QConvMembers& members, int others) {
  for (int64_t w = 0; w < block_.words(); ++w) {
    for (std::uint64_t left = members.word[w] & ~fired.word[w]; left != 0; left &= left - 1) {
      skipped_[64 * w + __builtin_ctzll(left)] += others;
    }
  }
}

// Other bands of the same channels are counted at the same time.
void QConvJob::add_counts() {
  int64_t* total = run_.skipped + image_ * run_.shape.grid.channels + block_.first;
  for (int64_t c = 0; c < block_.count; ++c) {
    if (skipped_[c] != 0) {
      std::atomic_ref(total[c]).fetch_add(skipped_[c], std::memory_order_relaxed);
    }
  }
}

}  // namespace spatialonnx
