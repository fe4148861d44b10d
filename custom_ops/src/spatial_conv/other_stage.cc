#include "spatial_conv/other_stage.h"

#include "spatial_conv/tiles.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// A patch whose probes are computed.
struct Probed {
  PatchStart start;
  Places places;
};

void count_probes(const Job& job, const Probed& patch) {
  if (!job.run.counts()) return;
  for (int64_t c = 0; c < job.block.count; ++c) job.worker.computed[c] += patch.places.probes;
}

// Which channels have a probe that fired.
void find_fired(const Job& job, const Probed& patch, unsigned char* bits) {
  const int64_t octets = job.octets();
  const int64_t index = patch.start.row * job.patches.columns + patch.start.column;
  job.run.kernels.fired(job.worker.probe_out + job.worker.first_probe[index], patch.places.probes,
                        octets, job.run.plan.thresholds.data() + job.block.first, bits);
  // Behind the last channel there is padding, whose outputs mean nothing.
  bits[octets - 1] &= static_cast<unsigned char>(0xff >> (8 * octets - job.block.count));
  count_probes(job, patch);
  if (!job.run.counts()) return;
  for (int64_t c = 0; c < job.block.count; ++c) {
    if ((bits[c / 8] >> (c % 8) & 1) == 0) job.worker.skipped[c] += patch.places.others;
  }
}

// The channels whose bit is set, at some positions; the others become zero, or stay with `keep`.
void compute_fired(const Job& job, const unsigned char* bits, const Positions& at, bool keep) {
  Worker& worker = job.worker;
  const ConvKernels& kernels = job.run.kernels;
  const int64_t fired = kernels.compress(bits, job.octets(), worker.channels);
  for (int64_t i = 0; i < fired; ++i) worker.filters[i] = job.filter(worker.channels[i]);
  if (job.run.counts()) {
    for (int64_t i = 0; i < fired; ++i) worker.computed[worker.channels[i]] += at.count;
  }
  if (fired > 0) multiply(job, fired, at.x, at.count);
  kernels.expand(bits, job.octets(), worker.sums, sums_stride(job.run.plan), at.count,
                 job.finish(0, at.residual), keep, at.out);
}

void finish_patch(const Job& job, const Probed& patch) {
  find_fired(job, patch, job.worker.bits);
  Positions others;
  others.add(job, patch.start, patch.places.other, patch.places.others);
  compute_fired(job, job.worker.bits, others, false);
}

// Two patches with few other positions: the channels that fired in both are computed together,
// because a tile of few positions is bound by the loads of its weights.
void finish_two(const Job& job, const Probed& first, const Probed& second) {
  Worker& worker = job.worker;
  find_fired(job, first, worker.bits);
  find_fired(job, second, worker.next_bits);
  for (int64_t g = 0; g < job.octets(); ++g) {
    worker.common_bits[g] = worker.bits[g] & worker.next_bits[g];
    worker.bits[g] ^= worker.common_bits[g];
    worker.next_bits[g] ^= worker.common_bits[g];
  }
  Positions of_first;
  Positions of_second;
  of_first.add(job, first.start, first.places.other, first.places.others);
  of_second.add(job, second.start, second.places.other, second.places.others);
  Positions both = of_first;
  both.add(job, second.start, second.places.other, second.places.others);
  compute_fired(job, worker.common_bits, both, false);
  compute_fired(job, worker.bits, of_first, true);
  compute_fired(job, worker.next_bits, of_second, true);
}

}  // namespace

void compute_others(Job& job) {
  // Of two patches together: no more than a tile has positions.
  constexpr int kMostOthers = 6;
  Probed waiting;
  for (int64_t row = 0; row < job.patches.rows; ++row) {
    for (int64_t column = 0; column < job.patches.columns; ++column) {
      const Probed patch{job.patches.start(row, column), job.patches.shared_places(row, column)};
      if (patch.places.others == 0) {
        count_probes(job, patch);
      } else if (waiting.places.others == 0) {
        waiting = patch;
      } else if (waiting.places.others + patch.places.others <= kMostOthers) {
        finish_two(job, waiting, patch);
        waiting.places.others = 0;
      } else {
        finish_patch(job, waiting);
        waiting = patch;
      }
    }
  }
  if (waiting.places.others > 0) finish_patch(job, waiting);
}

}  // namespace spatialonnx
