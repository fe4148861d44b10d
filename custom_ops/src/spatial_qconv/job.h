// A job of SpatialQConv: a block of channels on a band of rows of patches of one image.
//
// Channels with the same pattern are a set. The probes of a set are computed for the whole band, as
// panels (of the block, or of the set, whose channels need not be neighbours) or from rows of weights.
// Then, patch by patch, the channels that fired are listed, and the patch's other positions are
// computed from their rows, which are reached through pointers, so that any subset of channels costs
// what it computes and little else. Patches in which most channels fired wait: many positions share
// weights better than few channels do, so they are computed together and in full, as probes are, and
// what did not fire is set to zero. Where patterns differ patch by patch, all is done patch by patch.
//
// Where everything is computed (the plan says so), panels compute the band, and then, patch by patch,
// what did not fire is set to zero.
#pragma once

#include <cstdint>

#include "spatial_qconv/run.h"

namespace spatialonnx {

inline constexpr int kQConvPlaces = kMaxPatchSize * kMaxPatchSize;

// The places of a patch inside the map: probes and others. The places of a blind patch are all
// probes: it is computed in full.
struct QConvPatchPlaces {
  QConvPatchPlaces() = default;
  QConvPatchPlaces(unsigned pattern, unsigned inside);

  int probes = 0;
  int others = 0;
  unsigned char probe[kQConvPlaces];
  unsigned char other[kQConvPlaces];
};

// Positions as the kernels take them.
struct QConvPositions {
  static constexpr int kMost = 64;
  int count = 0;
  const std::uint8_t* x[kMost];
  std::int64_t at[kMost];
};

class QConvJob {
 public:
  // `scratch` is the thread's. `image` of Y; its map begins at `x`.
  QConvJob(const QConvRun& run, std::uint8_t* scratch, std::int64_t image, const std::uint8_t* x,
           const QConvBlock& block, std::int64_t first_patch_row, std::int64_t end_patch_row);

  void run();

 private:
  // A patch: what is inside the map, and its first place.
  struct Patch {
    std::int64_t row;
    std::int64_t column;
    unsigned inside;
    int kind;  // bit 0: cut by the right border, bit 1: by the bottom border
    const std::uint8_t* x;
    std::int64_t at;
  };

  template <class Body>
  void each_patch(Body&& body) const;
  unsigned pattern_of(std::int64_t channel, const Patch& patch) const;
  void choose_places(const QConvSet& set);
  const QConvPatchPlaces& places(const QConvSet& set, const Patch& patch);
  void add(const Patch& patch, const unsigned char* places, int count, QConvPositions& to) const;

  void run_set(const QConvSet& set);
  void compute_everything();
  void compute_panels(const QConvPositions& positions);
  void compute_set_panels(const QConvSet& set, const QConvPositions& positions);
  void compute_probes(const QConvSet& set, const QConvPositions& positions);
  QConvMembers find_fired(const QConvMembers& members, const QConvPatchPlaces& places,
                          const Patch& patch);
  void finish_patch(const QConvMembers& fired, const QConvMembers& members,
                    const QConvPatchPlaces& places, const Patch& patch);
  void finish_later(const QConvSet& set, const QConvMembers& fired, const QConvPatchPlaces& places,
                    const Patch& patch);
  void finish_waiting(const QConvSet& set);
  void run_mixed_patch(const Patch& patch);

  void compute(const QConvMembers& fired, const QConvMembers& members,
               const QConvPositions& positions);
  void clear(const QConvMembers& fired, const QConvMembers& members, const QConvPositions& positions);
  void multiply(const std::int8_t* const* rows, int count, const QConvPositions& positions,
                std::int64_t sums_stride);
  void count_skipped(const QConvMembers& fired, const QConvMembers& members, int others);
  void add_counts();

  // Positions that share rows at a time.
  static constexpr int kRowPositions = 48;
  // Sums of so many positions and one word of channels, or of fewer positions and more words.
  static constexpr std::int64_t kSums = kRowPositions * (64 + 16);
  // Of so many positions all words fit.
  static constexpr int kFewPositions = kSums / (kQConvBlockChannels + 16);

  const QConvRun& run_;
  const QConvBlock& block_;
  const QConvKernels& kernels_;
  const Requantise& requantise_;
  const QConvOutputs outputs_;
  std::uint8_t* const scratch_;
  const std::int64_t image_;
  const std::uint8_t* x_;
  const std::int64_t first_row_;
  const std::int64_t end_row_;
  std::int64_t place_x_[kQConvPlaces];  // from a patch's first place to its others
  std::int64_t place_at_[kQConvPlaces];
  // Of a set whose pattern is the same in all patches: by Patch::kind.
  QConvPatchPlaces uniform_[4];
  QConvPatchPlaces varying_;
  // Patches that wait: what fired, and their positions of waiting_.
  struct Waiting {
    QConvMembers fired;
    int first;
    int count;
  };
  QConvPositions waiting_;
  Waiting waiting_patch_[kRowPositions];
  int waiting_patches_ = 0;
  std::int32_t skipped_[kQConvBlockChannels];
  alignas(64) std::int32_t sums_[kSums];
};

}  // namespace spatialonnx
