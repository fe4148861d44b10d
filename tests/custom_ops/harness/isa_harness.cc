// Runs SpatialQConv nodes with every instruction set of this processor and compares their outputs
// with the reference's, bit by bit, without Python and ONNX Runtime: for processors that are only
// emulated (.ci/aarch64). Ends with 0 where all are equal.
#include <algorithm>
#include <cstdio>

#include "core/isa.h"
#include "fake_ort.h"

namespace {

using namespace fake_ort;

class Random {
 public:
  // From 0 to `most`.
  std::uint32_t below(std::uint32_t most) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 33) % (most + 1);
  }

 private:
  std::uint64_t state_ = 1;
};

template <class T>
Value tensor(ElementType type, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  Value value{{type, std::move(shape)}, std::vector<char>(values.size() * sizeof(T))};
  std::memcpy(value.bytes.data(), values.data(), value.bytes.size());
  return value;
}

template <class T, class Make>
std::vector<T> fill(std::int64_t count, Make make) {
  std::vector<T> values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return static_cast<T>(make()); });
  return values;
}

struct Convolution {
  const char* name;
  std::int64_t images, inputs, size, outputs, kernel, group, patch_size;
  bool by_channel;
  bool residual;
};

struct Case {
  explicit Case(const Convolution& c) {
    Random random;
    const std::int64_t out = c.size, own = c.inputs / c.group, pad = c.kernel / 2;
    const auto any = [&] { return random.below(255); };
    const auto scalar = [](float value) { return tensor<float>(kFloat, {}, {value}); };
    const auto zero = [](int value) {
      return tensor<std::uint8_t>(kUint8, {}, {static_cast<std::uint8_t>(value)});
    };
    const std::uint32_t full = (1u << (c.patch_size * c.patch_size)) - 1;
    const std::uint32_t patterns[] = {1, 2, full, full};
    values = {
        tensor<std::uint8_t>(kUint8, {c.images, c.size, c.size, c.inputs},
                             fill<std::uint8_t>(c.images * c.size * c.size * c.inputs, any)),
        scalar(0.02f), zero(7),
        tensor<std::int8_t>(
            kInt8, {c.outputs, own, c.kernel, c.kernel},
            fill<std::int8_t>(c.outputs * own * c.kernel * c.kernel,
                              [&] { return static_cast<int>(random.below(255)) - 128; })),
        tensor<float>(kFloat, {c.outputs},
                      fill<float>(c.outputs, [&] { return 0.001f + 1e-5f * random.below(99); })),
        scalar(0.02f * 0.0015f * 80 * static_cast<float>(own * c.kernel * c.kernel) / 16), zero(3),
        tensor<std::uint16_t>(
            kUint16, {c.by_channel ? c.outputs : 1, 1, 1},
            fill<std::uint16_t>(c.by_channel ? c.outputs : 1,
                                [&] { return c.by_channel ? patterns[random.below(3)] : 1u; })),
        tensor<std::int32_t>(kInt32, {c.outputs},
                             fill<std::int32_t>(c.outputs, [&] { return int(random.below(9999)) - 9000; })),
        tensor<std::uint8_t>(kUint8, {c.images, out, out, c.outputs},
                             fill<std::uint8_t>(c.images * out * out * c.outputs, any)),
        scalar(0.03f), zero(9), scalar(0.04f), zero(120)};
    const std::size_t used = c.residual ? values.size() : 9;
    for (std::size_t i = 0; i < used; ++i) inputs.push_back(&values[i]);
    info = {"the conv",
            {{"patch_size", c.patch_size},
             {"group", c.group},
             {"pads", std::vector<std::int64_t>{pad, pad, pad, pad}}},
            inputs,
            3};
    info.constants[0] = nullptr;
    if (c.residual) info.constants[9] = nullptr;
  }

  KernelContext run(const char* isa) const {
    setenv("SPATIALONNX_ISA", isa, 1);
    const Node node("SpatialQConv", info);
    KernelContext context{inputs, {{{kUint8, {}}, {}}, {{kInt64, {}}, {}}, {{kInt64, {}}, {}}}, 2};
    node.run(context);
    return context;
  }

  std::vector<Value> values;
  std::vector<const Value*> inputs;
  KernelInfo info;
};

}  // namespace

int main() {
  const Convolution kConvolutions[] = {
      {"3 x 3", 2, 16, 11, 70, 3, 1, 2, false, false},
      {"3 x 3 with a residual", 1, 64, 9, 130, 3, 1, 2, false, true},
      {"patterns by channel", 1, 64, 9, 130, 3, 1, 2, true, true},
      {"few inputs", 1, 3, 12, 20, 3, 1, 3, false, false},
      {"1 x 1", 1, 72, 7, 40, 1, 1, 2, true, false},
      {"5 x 5 in groups", 1, 12, 9, 18, 5, 3, 4, false, false},
  };
  int failures = 0;
  for (const spatialonnx::Isa isa : spatialonnx::int8_isas()) {
    if (isa == spatialonnx::Isa::reference || !spatialonnx::isa_runs_here(isa)) continue;
    const char* name = spatialonnx::isa_name(isa);
    for (const Convolution& conv : kConvolutions) {
      try {
        const Case given(conv);
        const KernelContext want = given.run("reference");
        const KernelContext got = given.run(name);
        bool same = true;
        for (std::size_t i = 0; i < want.outputs.size(); ++i) {
          same = same && got.outputs[i].bytes == want.outputs[i].bytes;
        }
        std::printf("%s %s: %s\n", same ? "ok  " : "FAIL", name, conv.name);
        failures += !same;
      } catch (const std::string& message) {
        std::printf("FAIL %s: %s: %s\n", name, conv.name, message.c_str());
        ++failures;
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
