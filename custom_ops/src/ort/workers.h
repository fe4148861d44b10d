// Uneven work on ORT's threads: who does what, and how many threads there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "ort/ort.h"

namespace spatialonnx {

// How many threads a node's session has. ORT's ABI has no call that tells, and the processors of
// this process are only an upper limit: a session of one thread on a machine of 64 processors would
// have its maps cut for 64. So it is observed how many threads come to help. A thread that is busy
// elsewhere does not come, so the largest number of the first runs counts, and every few runs it is
// looked at again, with work for all processors.
class ThreadCount {
 public:
  ThreadCount();

  // The threads to divide the work of the next run for.
  std::int64_t expected() {
    const std::int64_t run = runs_.fetch_add(1, std::memory_order_relaxed);
    const bool look = run < kFirstRuns || run % kLookEvery == 0;
    return look || !some_stayed_away_.load(std::memory_order_relaxed)
               ? processors_
               : most_.load(std::memory_order_relaxed);
  }

  // Work was divided for `workers`, of which `took_part` did some of it.
  void observe(std::int64_t workers, std::int64_t took_part) {
    std::int64_t most = most_.load(std::memory_order_relaxed);
    while (most < took_part &&
           !most_.compare_exchange_weak(most, took_part, std::memory_order_relaxed)) {
    }
    // Where all of them came, there may be more threads than there was work for.
    if (took_part < workers) some_stayed_away_.store(true, std::memory_order_relaxed);
  }

 private:
  static constexpr std::int64_t kFirstRuns = 8;
  static constexpr std::int64_t kLookEvery = 16;

  const std::int64_t processors_;
  std::atomic<std::int64_t> runs_ = 0;
  std::atomic<std::int64_t> most_ = 1;
  std::atomic<bool> some_stayed_away_ = false;
};

// Runs body(worker, portion) for all portions; returns how many workers took part.
//
//     portions   0  1  2  3 | 4  5  6  7 | 8  9 10 11
//     worker         0      |     1      |     2        each begins with its own share,
//                ->         | ->    <----+-- then takes from the shares of the others
//
// Portions take unequal time, as they skip unequal parts of their work, so a thread that is done
// with its share helps with what the others have not begun. A share is the same in every run of the
// same size: what a thread wrote for the last op, and reads for this one, is in its cache. A worker
// ends only when no portion is left, so one that runs late finds nothing to do, and a single thread
// does everything as worker 0. The workers that took part are therefore different threads.
template <class Body>
std::int64_t share_out(const RunContext& context, std::int64_t workers, std::int64_t portions,
                       const Body& body) {
  struct alignas(64) Share {
    std::atomic<std::int64_t> next;
    std::int64_t end;
    bool took_part = false;  // the worker whose share this is
  };
  const std::int64_t count = std::min(workers, portions);
  std::vector<Share> shares(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    shares[static_cast<std::size_t>(i)].next = i * portions / count;
    shares[static_cast<std::size_t>(i)].end = (i + 1) * portions / count;
  }
  context.parallel_for(shares.size(), [&](std::size_t worker) {
    bool took_part = false;
    for (std::size_t k = 0; k < shares.size(); ++k) {
      Share& share = shares[(worker + k) % shares.size()];
      for (std::int64_t portion = share.next++; portion < share.end; portion = share.next++) {
        took_part = true;
        body(worker, portion);
      }
    }
    shares[worker].took_part = took_part;
  });
  return std::ranges::count_if(shares, &Share::took_part);
}

}  // namespace spatialonnx
