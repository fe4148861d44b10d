// Runs one SpatialConv node from several threads at once, without Python and ONNX Runtime: what is
// run is built with a sanitizer throughout (.ci/threads). Ends with 0 where all checks hold.
#include <algorithm>
#include <cstdio>
#include <limits>

#include <sched.h>

#include "fake_ort.h"

namespace {

using namespace fake_ort;

int failures = 0;

void expect(bool holds, const std::string& what) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", what.c_str());
  if (!holds) ++failures;
}

// Numbers that are the same everywhere.
class Random {
 public:
  float normal() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<float>(next() % 65536) / 65536;
    return sum - 6;
  }
  std::uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 33);
  }

 private:
  std::uint64_t state_ = 1;
};

template <class T, class Make>
Value tensor(ElementType type, std::vector<std::int64_t> shape, Make make) {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
  std::vector<T> values(count);
  std::generate(values.begin(), values.end(), make);
  Value value{{type, std::move(shape)}, std::vector<char>(count * sizeof(T))};
  std::memcpy(value.bytes.data(), values.data(), value.bytes.size());
  return value;
}

// A convolution with what its node holds.
struct Convolution {
  const char* name;
  std::int64_t images, inputs, size, outputs, patch_size;
  std::vector<std::int64_t> mask_shape;
  bool residual;
};

struct Case {
  explicit Case(const Convolution& conv) {
    Random random;
    const auto normal = [&] { return random.normal(); };
    const std::uint32_t full = (1u << (conv.patch_size * conv.patch_size)) - 1;
    x = tensor<float>(kFloat, {conv.images, conv.inputs, conv.size, conv.size}, normal);
    w = tensor<float>(kFloat, {conv.outputs, conv.inputs, 3, 3}, normal);
    b = tensor<float>(kFloat, {conv.outputs}, normal);
    mask = tensor<std::uint16_t>(kUint16, conv.mask_shape, [&] {
      return static_cast<std::uint16_t>(1 + random.next() % full);
    });
    residual = tensor<float>(kFloat, {conv.images, conv.outputs, conv.size, conv.size}, normal);
    info = {"the conv",
            {{"patch_size", conv.patch_size}, {"pads", std::vector<std::int64_t>{1, 1, 1, 1}}},
            {nullptr, &w, &mask, &b, nullptr},
            3};
    inputs = {&x, &w, &mask, &b, conv.residual ? &residual : nullptr};
  }

  KernelContext context(std::size_t threads) const {
    return {inputs, {{{kFloat, {}}, {}}, {{kInt64, {}}, {}}, {{kInt64, {}}, {}}}, threads};
  }

  Value x, w, b, mask, residual;
  KernelInfo info;
  std::vector<const Value*> inputs;
};

bool same(const KernelContext& a, const KernelContext& b) {
  for (std::size_t i = 0; i < a.outputs.size(); ++i) {
    if (a.outputs[i].bytes != b.outputs[i].bytes) return false;
  }
  return true;
}

// Four threads, whose runs have pools of three threads, all on one node.
void run_at_once(const Convolution& conv) {
  const Case given(conv);
  const Node node("SpatialConv", given.info);
  KernelContext want = given.context(1);
  node.run(want);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 6; ++i) {
        KernelContext got = given.context(3);
        node.run(got);
        if (!same(got, want)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect(wrong == 0, std::string("four threads at once: ") + conv.name);
}

// The work of a session of one thread is cut for one, on a machine of many processors.
void follow_threads(const Convolution& conv) {
  // An emulator's hardware_concurrency() counts processors that this process may not use.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) < 2) return;
  const Case given(conv);
  const Node node("SpatialConv", given.info);
  std::size_t first = 0;
  std::size_t later = std::numeric_limits<std::size_t>::max();
  for (int i = 0; i < 12; ++i) {
    KernelContext context = given.context(1);
    node.run(context);
    if (i == 0) first = context.most_tasks;
    later = context.most_tasks;
  }
  expect(first > 1 && later == 0, "a session of one thread is not divided for all processors");
}

std::string error_of(const KernelInfo& info) {
  try {
    const Node node("SpatialConv", info);
    return "";
  } catch (const std::string& message) {
    return message;
  }
}

// ORT's words for a missing attribute do not matter.
void tell_attributes(const Convolution& conv) {
  Case given(conv);
  expect(error_of(given.info).empty(), "missing attributes have defaults, whatever ORT says");
  given.info.attributes["group"] = 1.0f;
  expect(error_of(given.info) ==
             "SpatialConv node 'the conv': attribute group has another type, but takes an integer",
         "an attribute of another type is an error");
}

void run_out_of_memory(const Convolution& conv) {
  const Case given(conv);
  const Node node("SpatialConv", given.info);
  KernelContext context = given.context(2);
  allocations_left = 0;
  std::string message;
  try {
    node.run(context);
  } catch (const std::string& error) {
    message = error;
  }
  allocations_left = -1;
  expect(message == "SpatialConv node 'the conv': no memory is left", "no memory is an error");
  node.run(context);
}

}  // namespace

int main() {
  const Convolution kConvolutions[] = {
      {"one pattern", 2, 16, 24, 40, 2, {1, 1, 1}, false},
      {"patterns per channel, several blocks", 3, 32, 20, 96, 2, {96, 1, 1}, true},
      {"patterns per patch", 2, 16, 20, 24, 2, {24, 10, 10}, true},
      {"one pattern of 3 x 3", 1, 24, 30, 33, 3, {1, 1, 1}, false},
  };
  try {
    for (const Convolution& conv : kConvolutions) run_at_once(conv);
    follow_threads(kConvolutions[0]);
    tell_attributes(kConvolutions[0]);
    run_out_of_memory(kConvolutions[0]);
  } catch (const std::string& message) {
    expect(false, message);
  }
  return failures == 0 ? 0 : 1;
}
