// Runs CUDA kernels on the host (emulation.h). Reads requests from standard input until it ends,
// writes an answer for each to standard output, and what it saw of the kernels at the end.
//
// A request is one line of words and the bytes of its arrays; an answer is the bytes of its arrays,
// whose sizes follow from the request. tests/support/harness.py is the other side.
//
//     predict TYPE ORDER MOST N C H W P THRESHOLDS MASK IN_PLACE COUNTS
//                                               x, thresholds, patterns -> y, skipped, false_zero
//     codes ORDER MOST N C H W P THRESHOLDS     x, thresholds -> codes
//     conv ORDER MOST N C H W P THRESHOLDS MASK COUNTS GROUPS INPUTS IH IW KH KW SH SW DH DW PH PW
//         CLIP BIAS RESIDUAL        x, thresholds, w, patterns, bias, residual -> y, skipped, macs
//
// MOST is the largest grid; THRESHOLDS is 0 (none), 1 or C; MASK is three strides and a count. COUNTS has bit 0 for the first
// count and bit 1 for the second. An optional argument --skip-barrier PLACE plants a fault.
#include "emulation.h"

#include <iostream>
#include <sstream>
#include <type_traits>

#include "patch_codes/patch_codes_device.h"
#include "spatial_conv/spatial_conv_device.h"
#include "spatial_predict/spatial_predict_device.h"

namespace harness {
namespace {

using namespace spatialonnx;

// Memory of exactly its size, so that the sanitizer sees every access beyond; filled with rubbish.
template <class T>
class Array {
 public:
  explicit Array(std::int64_t count)
      : bytes_(static_cast<std::size_t>(count) * sizeof(T)), data_(new char[bytes_]) {
    std::memset(data_.get(), 0xa5, bytes_);
  }
  T* data() const { return reinterpret_cast<T*>(data_.get()); }
  std::int64_t count() const { return static_cast<std::int64_t>(bytes_ / sizeof(T)); }

  void read() const {
    if (!std::cin.read(data_.get(), static_cast<std::streamsize>(bytes_))) die("input ends early");
  }
  void write() const { std::cout.write(data_.get(), static_cast<std::streamsize>(bytes_)); }

 private:
  std::size_t bytes_;
  std::unique_ptr<char[]> data_;
};

ThresholdView view_of(const Array<float>& thresholds) {
  if (thresholds.count() == 0) return {};
  return {thresholds.data(), thresholds.count() == 1 ? 0 : 1};
}

class Request {
 public:
  Request(const std::string& line, Record& record) : words_(line), record_(record) {}

  template <class T>
  T next() {
    T value{};
    if (!(words_ >> value)) die("a request is too short");
    return value;
  }
  std::int64_t integer() { return next<std::int64_t>(); }

  Launch launch() {
    const auto order = static_cast<Order>(next<int>());
    return Launch(record_, order, integer());
  }
  DeviceMap map() {
    const std::int64_t batch = integer(), channels = integer(), height = integer();
    const std::int64_t width = integer();
    return {batch, channels, height, width, next<std::int32_t>()};
  }
  // Thresholds of a map, to be read behind x.
  Array<float> thresholds(std::int64_t channels) {
    const std::int64_t count = integer();
    if (count != 0 && count != 1 && count != channels) die("a request has strange thresholds");
    return Array<float>(count);
  }
  void per_axis(std::int64_t (&values)[2]) {
    values[0] = integer();
    values[1] = integer();
  }

 private:
  std::istringstream words_;
  Record& record_;
};

template <class T>
void predict(Request& request) {
  const Launch launch = request.launch();
  PredictArguments<T> a{};
  a.map = request.map();
  const Array<float> thresholds = request.thresholds(a.map.channels);
  const std::int64_t size = a.map.planes() * a.map.map_size();
  a.mask = {nullptr, request.integer(), request.integer(), request.integer()};
  const Array<std::uint16_t> patterns(request.integer());
  const bool in_place = request.integer() != 0;
  const std::int64_t counts = request.integer();
  const Array<T> x(size), separate(size);
  const Array<std::int64_t> skipped(a.map.planes()), false_zero(a.map.planes());
  x.read();
  thresholds.read();
  patterns.read();
  a.mask.patterns = patterns.data();
  a.threshold = view_of(thresholds);
  a.x = x.data();
  const Array<T>& y = in_place ? x : separate;
  a.y = y.data();
  a.skipped = (counts & 1) != 0 ? skipped.data() : nullptr;
  a.false_zero = (counts & 2) != 0 ? false_zero.data() : nullptr;
  if (launch_predict(launch, a).failed()) die("a launch failed");
  y.write();
  skipped.write();
  false_zero.write();
}

void codes(Request& request) {
  const Launch launch = request.launch();
  CodesArguments a{};
  a.map = request.map();
  const Array<float> thresholds = request.thresholds(a.map.channels);
  const Array<float> x(a.map.planes() * a.map.map_size());
  const Array<std::uint16_t> found(a.map.planes() * a.map.patches());
  x.read();
  thresholds.read();
  a.threshold = view_of(thresholds);
  a.x = x.data();
  a.codes = found.data();
  if (launch_codes(launch, a).failed()) die("a launch failed");
  found.write();
}

void conv(Request& request) {
  const Launch launch = request.launch();
  ConvArguments a{};
  a.out = request.map();
  const Array<float> thresholds = request.thresholds(a.out.channels);
  a.mask = {nullptr, request.integer(), request.integer(), request.integer()};
  const Array<std::uint16_t> patterns(request.integer());
  const std::int64_t counts = request.integer();
  a.groups = request.integer();
  a.inputs = request.integer();
  request.per_axis(a.input);
  request.per_axis(a.kernel);
  request.per_axis(a.stride);
  request.per_axis(a.dilation);
  request.per_axis(a.pad);
  a.clip_max = std::stof(request.next<std::string>());  // "inf" too
  const bool has_bias = request.integer() != 0;
  const bool has_residual = request.integer() != 0;
  const std::int64_t planes = a.out.planes();
  const Array<float> x(a.out.batch * a.groups * a.inputs * a.input[0] * a.input[1]);
  const Array<float> w(a.out.channels * a.inputs * a.kernel[0] * a.kernel[1]);
  const Array<float> bias(has_bias ? a.out.channels : 0);
  const Array<float> residual(has_residual ? planes * a.out.map_size() : 0);
  const Array<float> y(planes * a.out.map_size());
  const Array<std::int64_t> skipped(planes), macs(planes);
  const Array<std::uint8_t> states(a.patches());
  const Array<std::int64_t> chunk_begin(chunks_of(a) + 1), pending(a.patches());
  x.read();
  thresholds.read();
  w.read();
  patterns.read();
  bias.read();
  residual.read();
  a.mask.patterns = patterns.data();
  a.threshold = view_of(thresholds);
  a.x = x.data();
  a.w = w.data();
  a.bias = has_bias ? bias.data() : nullptr;
  a.residual = has_residual ? residual.data() : nullptr;
  a.y = y.data();
  a.skipped = (counts & 1) != 0 ? skipped.data() : nullptr;
  a.macs = (counts & 2) != 0 ? macs.data() : nullptr;
  a.states = states.data();
  a.chunk_begin = chunk_begin.data();
  a.pending = pending.data();
  if (launch_conv(launch, a).failed()) die("a launch failed");
  y.write();
  skipped.write();
  macs.write();
}

void serve(Record& record) {
  std::string line;
  while (std::getline(std::cin, line)) {
    Request request(line, record);
    const auto op = request.next<std::string>();
    if (op == "predict") {
      const auto type = request.next<std::string>();
      type == "float16" ? predict<Half>(request) : predict<float>(request);
    } else if (op == "codes") {
      codes(request);
    } else if (op == "conv") {
      conv(request);
    } else {
      die("unknown request " + op);
    }
  }
  for (const auto& [kernel, blocks] : record.blocks) {
    std::cout << "launches " << kernel;
    for (const std::int64_t count : std::set<std::int64_t>(blocks.begin(), blocks.end())) {
      std::cout << ' ' << count;
    }
    std::cout << '\n';
  }
  for (const auto& [kernel, places] : record.barriers) {
    std::cout << "barriers " << kernel;
    for (const std::string& place : places) std::cout << ' ' << place;
    std::cout << '\n';
  }
}

}  // namespace
}  // namespace harness

int main(int count, char** arguments) {
  harness::Record record;
  if (count == 3 && std::string(arguments[1]) == "--skip-barrier") {
    const std::string place = arguments[2];
    const std::size_t colon = place.find(':');
    if (colon == std::string::npos) harness::die("no place: " + place);
    record.skipped_file = "/" + place.substr(0, colon);
    record.skipped_line = static_cast<unsigned>(std::stoul(place.substr(colon + 1)));
  }
  std::ios::sync_with_stdio(false);
  harness::serve(record);
}
