#include "spatial_conv/job.h"

#include <algorithm>

#include "spatial_conv/band_io.h"
#include "spatial_conv/mixed_stage.h"
#include "spatial_conv/other_stage.h"
#include "spatial_conv/probe_stage.h"

namespace spatialonnx {
namespace {

using std::int64_t;

void expect_filters(const Job& job, const ConvBlock& block) {
  const ConvPlan& plan = job.run.plan;
  job.worker.prefetch.expect(plan.filters.data() + block.first * plan.filter_length,
                             block.count * plan.filter_length);
}

// What the next block begins with.
void expect_next(const Job& job, bool by_panels) {
  if (job.next == nullptr) return;
  if (!by_panels) return expect_filters(job, *job.next);
  const ConvPlan& plan = job.run.plan;
  job.worker.prefetch.expect(plan.panels.data() + job.next->panel_at,
                             job.next->panels * job.run.kernels.panel_channels * plan.inputs());
}

// Threads that work on the same channels of the same image add to the same counts.
void add_counts(const Job& job) {
  const ConvTask& task = job.run.task;
  for (int64_t c = 0; c < job.block.count; ++c) {
    const int64_t at =
        job.image * job.run.shape.grid.channels + job.run.channel(job.block.first + c);
    if (task.skipped != nullptr) {
      __atomic_fetch_add(task.skipped + at, job.worker.skipped[c], __ATOMIC_RELAXED);
    }
    if (task.macs != nullptr) {
      __atomic_fetch_add(task.macs + at, job.worker.computed[c] * job.run.attributes.macs(),
                         __ATOMIC_RELAXED);
    }
  }
}

void compute_in_stages(Job& job) {
  list_probes(job);
  const bool by_panels = panels_pay(job);
  if (by_panels) {
    // Their filters come next: for the channels without panels, and in stage 2.
    if (job.worker.last_block != &job.block) expect_filters(job, job.block);
    compute_probes_by_panels(job);
  }
  expect_next(job, by_panels);
  compute_probes_by_filters(job, by_panels ? job.block.panels * job.run.kernels.panel_channels : 0);
  compute_others(job);
}

}  // namespace

void Positions::add(const Job& job, const PatchStart& patch, const int* places, int number) {
  for (int i = 0; i < number; ++i, ++count) {
    const int64_t position = patch.position + job.patches.place_offset(places[i]);
    x[count] = patch.x + job.run.place_inputs[places[i]];
    out[count] = job.worker.staging + position;
    residual[count] = job.worker.residual + position;
  }
}

void run_job(Job& job) {
  Worker& worker = job.worker;
  if (job.run.counts() || job.block.mixed) {
    std::fill_n(worker.skipped, job.block.count, 0);
    std::fill_n(worker.computed, job.block.count, 0);
  }
  prepare_planes(job);
  read_residual(job);
  if (job.block.mixed) {
    expect_next(job, false);
    compute_mixed(job);
  } else {
    compute_in_stages(job);
  }
  worker.last_block = &job.block;
  write_planes(job);
  if (job.run.counts()) add_counts(job);
}

}  // namespace spatialonnx
