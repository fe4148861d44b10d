// What an op is: a row of data that says which tensors it takes and gives, and a kernel object per
// node. An op's file defines one OpDefinition; registration.cc lists them.
#pragma once

#include <memory>
#include <span>

#include "ort/ort.h"

namespace spatialonnx {

// The work of one node. Created once per node and session; several runs of the session may be in
// `run` at the same time, so a kernel keeps nothing from one run to the next that could change an
// output.
class Kernel {
 public:
  Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual ~Kernel() = default;

  // Checks, allocates, calls. Throws OpError for what a model or a feed can get wrong.
  virtual void run(const RunContext& context) const = 0;
};

struct TensorDefinition {
  abi::ElementType type;
  abi::Characteristic presence = abi::kRequired;
  abi::MemoryType memory = abi::kDefault;  // of an input; kCpuInput: host memory on any provider
};

struct OpDefinition {
  const char* name;
  const char* provider;  // null: the CPU provider
  std::span<const TensorDefinition> inputs;
  std::span<const TensorDefinition> outputs;
  std::unique_ptr<Kernel> (*create)(const NodeInfo&);  // throws as Kernel::run does
  // Output 0 may take the buffer of input 0 where nothing else reads that.
  bool in_place = false;
};

template <class K>
std::unique_ptr<Kernel> create_kernel(const NodeInfo& info) {
  return std::make_unique<K>(info);
}

}  // namespace spatialonnx
