#include "ort/workers.h"

#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace spatialonnx {
namespace {

// The processors that this process may use.
std::int64_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

ThreadCount::ThreadCount() : processors_(processors()) {}

}  // namespace spatialonnx
