// The one exception that an op throws on purpose.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace spatialonnx {

// Something in a model or a feed is not what the op takes. The message says what the op got and
// what it takes; the op's and the node's name are put in front of it where it becomes an OrtStatus.
class OpError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// "[1, 64, 56, 56]"
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace spatialonnx
