#include "spatial_qconv/quantisation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "spatial_conv/conv_inputs.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Nothing where the node leaves the input out.
std::optional<Tensor> optional_constant(const NodeInfo& info, QConvInput index, const char* name) {
  if (!info.has_input(index)) return std::nullopt;
  return constant(info, index, name);
}

// The element of a constant of one element.
template <class T>
T scalar(const NodeInfo& info, QConvInput index, const char* name) {
  const Tensor tensor = constant(info, index, name);
  if (tensor.count() != 1) {
    throw OpError(std::string("input ") + name + " has shape " + shape_text(tensor.shape()) +
                  ", but takes one element");
  }
  return *tensor.data<T>();
}

float checked_scale(float scale, const char* name) {
  if (!(scale > 0) || !std::isfinite(scale)) {
    throw OpError(std::string("input ") + name + " holds " + std::to_string(scale) +
                  ", but takes finite numbers above 0");
  }
  return scale;
}

float scalar_scale(const NodeInfo& info, QConvInput index, const char* name) {
  return checked_scale(scalar<float>(info, index, name), name);
}

float checked_ratio(float ratio, const char* what) {
  if (!std::isfinite(ratio)) {
    throw OpError(std::string("the ratio of ") + what + " is not a finite float32");
  }
  return ratio;
}

// The elements of an input that has one element, or one for each channel of Y.
template <class T>
const T* per_channel(const Tensor& tensor, const char* name, int64_t outputs, int64_t* step) {
  const bool one = tensor.count() == 1;
  if (tensor.shape().size() > 1 || (!one && tensor.count() != outputs)) {
    throw OpError(std::string("input ") + name + " has shape " + shape_text(tensor.shape()) +
                  ", but takes [1] or [" + std::to_string(outputs) + "]");
  }
  *step = one ? 0 : 1;
  return tensor.data<T>();
}

std::uint8_t read_y_max(const NodeInfo& info, std::uint8_t y_zero_point) {
  const int64_t y_max = info.integer("y_max", 255);
  if (y_max <= y_zero_point || y_max > 255) {
    throw OpError("attribute y_max is " + std::to_string(y_max) + ", but takes " +
                  std::to_string(y_zero_point + 1) + " to 255: above y_zero_point");
  }
  return static_cast<std::uint8_t>(y_max);
}

// B - zero * (sum of the weights), for every channel. A sum of products of 8-bit numbers
// has to fit 32 bits, as in ONNX Runtime.
void fill_bias(const NodeInfo& info, const ConvAttributes& attributes, std::int32_t zero,
               std::int32_t* bias) {
  constexpr int64_t kMostMacs = std::numeric_limits<std::int32_t>::max() / (255 * 128);
  const int64_t macs = attributes.macs();
  if (macs > kMostMacs) {
    throw OpError("an output has " + std::to_string(macs) + " products, but the op takes at most " +
                  std::to_string(kMostMacs) + ": their sum has to fit 32 bits");
  }
  const Tensor w = constant(info, kW, "W");
  const auto* weights = w.data<std::int8_t>();
  const auto b = optional_constant(info, kB, "B");
  if (b && (b->shape().size() != 1 || b->dim(0) != attributes.outputs)) {
    throw OpError("input B has shape " + shape_text(b->shape()) + ", but takes [" +
                  std::to_string(attributes.outputs) + "]");
  }
  for (int64_t channel = 0; channel < attributes.outputs; ++channel) {
    std::int32_t sum = 0;
    for (int64_t i = 0; i < macs; ++i) sum += weights[channel * macs + i];
    const auto start = static_cast<std::uint32_t>(b ? b->data<std::int32_t>()[channel] : 0);
    bias[channel] = static_cast<std::int32_t>(start - static_cast<std::uint32_t>(zero) *
                                                          static_cast<std::uint32_t>(sum));
  }
}

void fill_limits(const NodeInfo& info, int64_t outputs, std::uint8_t y_zero_point,
                 std::uint8_t* limit) {
  std::fill_n(limit, outputs, y_zero_point);
  const auto threshold = optional_constant(info, kThreshold, "threshold");
  if (!threshold) return;
  int64_t step = 0;
  const auto* steps = per_channel<std::uint8_t>(*threshold, "threshold", outputs, &step);
  for (int64_t channel = 0; channel < outputs; ++channel) {
    limit[channel] = static_cast<std::uint8_t>(std::min(255, y_zero_point + steps[channel * step]));
  }
}

}  // namespace

QConvQuantisation::QConvQuantisation(const NodeInfo& info, const ConvAttributes& attributes,
                                     int input_flip)
    : scale_(static_cast<std::size_t>(attributes.outputs + kRequantiseSlack)),
      bias_(static_cast<std::size_t>(attributes.outputs + kRequantiseSlack)),
      limit_(static_cast<std::size_t>(attributes.outputs + kRequantiseSlack)),
      x_zero_point_(scalar<std::uint8_t>(info, kXZeroPoint, "x_zero_point")),
      requantise_{} {
  Requantise& q = requantise_;
  const float x_scale = scalar_scale(info, kXScale, "x_scale");
  const float y_scale = scalar_scale(info, kYScale, "y_scale");
  q.y_zero_point = scalar<std::uint8_t>(info, kYZeroPoint, "y_zero_point");
  q.y_max = read_y_max(info, q.y_zero_point);
  q.residual_first = info.integer("residual_first", 0) != 0;
  q.add = info.has_input(kResidual);
  float conv_scale = y_scale;
  if (q.add) {
    const float residual_scale = scalar_scale(info, kResidualScale, "residual_scale");
    const auto residual_zero = scalar<std::uint8_t>(info, kResidualZeroPoint, "residual_zero_point");
    conv_scale = scalar_scale(info, kConvScale, "conv_scale");
    q.zero_point = scalar<std::uint8_t>(info, kConvZeroPoint, "conv_zero_point");
    q.least = static_cast<float>(-q.zero_point);
    q.most = static_cast<float>(255 - q.zero_point);
    q.conv_ratio = checked_ratio(conv_scale / y_scale, "conv_scale and y_scale");
    q.residual_ratio = checked_ratio(residual_scale / y_scale, "residual_scale and y_scale");
    const float conv_part = q.conv_ratio * static_cast<float>(q.zero_point);
    const float residual_part = q.residual_ratio * static_cast<float>(residual_zero);
    q.fixed = static_cast<float>(q.y_zero_point) -
              (q.residual_first ? residual_part + conv_part : conv_part + residual_part);
    checked_ratio(q.fixed, "scales and zero points");
  } else {
    q.zero_point = q.y_zero_point;
    q.least = 0;
    q.most = static_cast<float>(q.y_max - q.y_zero_point);
  }

  const Tensor w_scale = constant(info, kWScale, "w_scale");
  int64_t step = 0;
  const auto* scales = per_channel<float>(w_scale, "w_scale", attributes.outputs, &step);
  for (int64_t channel = 0; channel < attributes.outputs; ++channel) {
    const float scale = checked_scale(scales[channel * step], "w_scale");
    scale_[static_cast<std::size_t>(channel)] =
        checked_ratio(x_scale * scale / conv_scale, "x_scale * w_scale and the Conv's scale");
  }
  // X ^ 128, as s8, is X - 128.
  fill_bias(info, attributes, x_zero_point_ - input_flip, bias_.data());
  fill_limits(info, attributes.outputs, q.y_zero_point, limit_.data());
  q.scale = scale_.data();
  q.bias = bias_.data();
  q.limit = limit_.data();
}

}  // namespace spatialonnx
