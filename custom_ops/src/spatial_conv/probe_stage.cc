#include "spatial_conv/probe_stage.h"

#include <algorithm>
#include <cstring>

#include "spatial_conv/tiles.h"

namespace spatialonnx {
namespace {

using std::int64_t;

int64_t probe_count(const Job& job) {
  return job.worker.first_probe[job.patches.rows * job.patches.columns];
}

// Outputs and residuals of listed probes, from one channel on.
struct ProbeOutputs {
  ProbeOutputs(const Worker& worker, int64_t first, int64_t count, int64_t channel) {
    for (int64_t j = 0; j < count; ++j) {
      out[j] = worker.probe_out[first + j] + channel;
      residual[j] = worker.probe_residual[first + j] + channel;
    }
  }

  float* out[kMostPositions];
  const float* residual[kMostPositions];
};

}  // namespace

void list_probes(Job& job) {
  Worker& worker = job.worker;
  std::int32_t count = 0;
  std::int32_t* first = worker.first_probe;
  for (int64_t row = 0; row < job.patches.rows; ++row) {
    for (int64_t column = 0; column < job.patches.columns; ++column) {
      *first++ = count;
      const Places& at = job.patches.shared_places(row, column);
      const PatchStart patch = job.patches.start(row, column);
      for (int i = 0; i < at.probes; ++i, ++count) {
        const int64_t position = patch.position + job.patches.place_offset(at.probe[i]);
        worker.probe_x[count] = patch.x + job.run.place_inputs[at.probe[i]];
        worker.probe_out[count] = worker.staging + position;
        worker.probe_residual[count] = worker.residual + position;
      }
    }
  }
  *first = count;
}

bool panels_pay(const Job& job) {
  constexpr int64_t kLeastProbes = 48;
  const int64_t probes = probe_count(job) * job.run.bands.count() * job.run.shape.batch;
  return job.block.panels > 0 && probes >= kLeastProbes;
}

void compute_probes_by_panels(const Job& job) {
  const ConvKernels& kernels = job.run.kernels;
  const ConvPlan& plan = job.run.plan;
  const int64_t probes = probe_count(job);
  const int64_t width = kernels.panel_channels;
  const int64_t calls = (probes + kernels.panel_positions - 1) / kernels.panel_positions;
  for (int64_t panel = 0; panel < job.block.panels; ++panel) {
    const float* weights =
        plan.panels.data() + job.block.panel_at + panel * width * plan.inputs();
    const int64_t channel = panel * width;
    for (int64_t call = 0, first = 0; call < calls; ++call) {
      // As even as possible: a call for few positions is slow.
      const int64_t count = (probes - first + calls - call - 1) / (calls - call);
      ProbeOutputs outputs(job.worker, first, count, channel);
      const std::uintptr_t ahead = job.worker.prefetch.take(plan.inputs() * kConvLine / 2);
      kernels.panel[count].choose(ahead)(job.run.span, weights, job.worker.probe_x + first, ahead,
                                         job.finish(channel, outputs.residual), outputs.out);
      first += count;
    }
  }
}

void compute_probes_by_filters(const Job& job, int64_t channel) {
  const int64_t count = job.block.count - channel;
  if (count <= 0) return;
  Worker& worker = job.worker;
  const ConvKernels& kernels = job.run.kernels;
  const int64_t octets = (count + 7) / 8;
  for (int64_t c = 0; c < count; ++c) worker.filters[c] = job.filter(channel + c);
  // All channels, and not the padding behind the last.
  std::memset(worker.bits, 0xff, static_cast<std::size_t>(octets));
  worker.bits[octets - 1] = static_cast<unsigned char>(0xff >> (8 * octets - count));
  const int64_t probes = probe_count(job);
  for (int64_t first = 0; first < probes;) {
    const int64_t left = std::min<int64_t>(kMostPositions, probes - first);
    const int positions = kernels.first_tile[left];
    multiply(job, count, worker.probe_x + first, positions);
    ProbeOutputs outputs(worker, first, positions, channel);
    kernels.expand(worker.bits, octets, worker.sums, sums_stride(job.run.plan), positions,
                   job.finish(channel, outputs.residual), false, outputs.out);
    first += positions;
  }
}

}  // namespace spatialonnx
