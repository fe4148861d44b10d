// What an op sees of ONNX Runtime: a node's attributes and constant inputs when its kernel is
// created (NodeInfo), its tensors, memory and threads when it runs (RunContext).
//
// Everything here throws; registration.cc turns exceptions into an OrtStatus, in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/errors.h"
#include "core/patch_index.h"
#include "ort/ort_abi.h"

namespace spatialonnx {

// A status that ORT returned to us, on its way back to ORT.
class OrtCallError : public std::runtime_error {
 public:
  OrtCallError(abi::ErrorCode code, const char* message)
      : std::runtime_error(message), code(code) {}
  const abi::ErrorCode code;
};

// Throws OrtCallError unless `status` is null; releases it.
void check(const abi::Functions& ort, abi::Status* status);

template <class T>
constexpr abi::ElementType element_type() {
  if constexpr (std::is_same_v<T, float>) return abi::kFloat;
  if constexpr (std::is_same_v<T, std::uint8_t>) return abi::kUint8;
  if constexpr (std::is_same_v<T, std::int8_t>) return abi::kInt8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return abi::kUint16;
  if constexpr (std::is_same_v<T, std::int32_t>) return abi::kInt32;
  if constexpr (std::is_same_v<T, std::int64_t>) return abi::kInt64;
  if constexpr (std::is_same_v<T, Half>) return abi::kFloat16;
}

const char* element_type_name(abi::ElementType type);

// The product of dimensions; throws OpError where one is negative or the product overflows.
std::int64_t element_count(std::span<const std::int64_t> shape);

// An input: borrowed from ORT, valid as long as the call that handed it over.
class Tensor {
 public:
  Tensor(const abi::Functions& ort, const abi::Value* value, const char* name);

  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t dim(std::size_t axis) const { return shape_[axis]; }
  std::int64_t count() const { return element_count(shape_); }

  // Throws OpError, with `takes` in the message, unless the tensor has `rank` dimensions.
  void expect_rank(std::size_t rank, const char* takes) const;

  // The elements. Throws OpError where they are of another type.
  template <class T>
  const T* data() const {
    expect_type(element_type<T>());
    return static_cast<const T*>(data_);
  }

  const abi::Value* value() const { return value_; }

 private:
  void expect_type(abi::ElementType type) const;

  const abi::Value* value_;
  const char* name_;
  abi::ElementType type_ = abi::kUndefined;
  std::vector<std::int64_t> shape_;
  const void* data_ = nullptr;
};

// Memory from one of ORT's allocators, released with this object.
template <class T>
class Scratch {
 public:
  Scratch(const abi::Functions& ort, abi::Allocator* allocator, void* memory, std::size_t count)
      : ort_(&ort), allocator_(allocator), memory_(memory), count_(count) {}
  Scratch(Scratch&& other) noexcept
      : ort_(other.ort_),
        allocator_(std::exchange(other.allocator_, nullptr)),
        memory_(std::exchange(other.memory_, nullptr)),
        count_(std::exchange(other.count_, 0)) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch();

  T* data() const { return static_cast<T*>(memory_); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data()[i]; }

 private:
  const abi::Functions* ort_;
  abi::Allocator* allocator_;
  void* memory_;
  std::size_t count_;
};

// A node, while its kernel is created.
class NodeInfo {
 public:
  NodeInfo(const abi::Functions& ort, const abi::KernelInfo* info) : ort_(ort), info_(info) {}

  // The node's name, or the name of its first output where it has none.
  std::string name() const;

  // Attributes; the default where the node has none of that name. One of another type is an error.
  std::int64_t integer(const char* attribute, std::int64_t default_value) const;
  float number(const char* attribute, float default_value) const;
  std::string text(const char* attribute, const std::string& default_value) const;
  std::vector<std::int64_t> integers(const char* attribute,
                                     std::vector<std::int64_t> default_value) const;

  std::size_t input_count() const;
  std::size_t output_count() const;

  // Whether the node names this input: an optional one may be left out.
  bool has_input(std::size_t index) const;

  // An input that is a constant of the model; nothing where it is fed or computed (or absent).
  std::optional<Tensor> constant_input(std::size_t index, const char* name) const;

  // Memory of the node's provider that lives as long as the kernel: device memory on CUDA.
  Scratch<std::byte> provider_memory(std::size_t bytes) const;

 private:
  bool found(abi::Status* status, const char* attribute, const char* takes) const;
  bool exists(const char* attribute) const;

  const abi::Functions& ort_;
  const abi::KernelInfo* info_;
};

// One run of a node.
class RunContext {
 public:
  RunContext(const abi::Functions& ort, abi::KernelContext* context, const abi::MemoryInfo* host)
      : ort_(ort), context_(context), host_(host) {}

  // Throws OpError where the input is absent.
  Tensor input(std::size_t index, const char* name) const;
  std::optional<Tensor> optional_input(std::size_t index, const char* name) const;

  // Allocates an output and returns its elements; null where the node does not ask for it (it
  // lists fewer outputs, or leaves this one's name empty), and null or a valid pointer where the
  // shape holds no elements.
  template <class T>
  T* output(std::size_t index, std::span<const std::int64_t> shape) const {
    return static_cast<T*>(output_memory(index, shape));
  }

  // Uninitialised host memory for `count` elements, aligned for vectors.
  template <class T>
  Scratch<T> scratch(std::size_t count) const {
    static_assert(std::is_trivially_copyable_v<T>);
    abi::Allocator* allocator = nullptr;
    void* memory = scratch_memory(count, sizeof(T), &allocator);
    return Scratch<T>(ort_, allocator, memory, count);
  }

  // Uninitialised memory on the device that holds `beside`, for work on this run's stream. It may be
  // released while that work is still to come: what takes it next comes behind it on the stream.
  Scratch<std::byte> device_scratch(const Tensor& beside, std::size_t bytes) const;

  // Runs body(i) for every i < total on ORT's own threads (the session's intra-op pool) and waits.
  // With one task or one thread it runs here. The first exception of a body is thrown again.
  template <class Body>
  void parallel_for(std::size_t total, Body&& body) const {
    if (total == 1) {
      body(std::size_t{0});
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run_tasks(total, [](void* state, std::size_t i) { (*static_cast<Plain*>(state))(i); },
              const_cast<void*>(static_cast<const void*>(&body)));
  }

  // The CUDA stream of the node's provider; null on the CPU provider.
  void* gpu_stream() const;

 private:
  void* output_memory(std::size_t index, std::span<const std::int64_t> shape) const;
  void* scratch_memory(std::size_t count, std::size_t size, abi::Allocator** allocator) const;
  void run_tasks(std::size_t total, void (*task)(void*, std::size_t), void* state) const;

  const abi::Functions& ort_;
  abi::KernelContext* context_;
  const abi::MemoryInfo* host_;
};

// Not inline in the class: releases what scratch_memory took.
void release_scratch(const abi::Functions& ort, abi::Allocator* allocator, void* memory);

template <class T>
Scratch<T>::~Scratch() {
  release_scratch(*ort_, allocator_, memory_);
}

}  // namespace spatialonnx
