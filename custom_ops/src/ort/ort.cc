#include "ort/ort.h"

#include <atomic>
#include <exception>
#include <memory>

namespace spatialonnx {
namespace {

// ORT says a text's size, its final zero included, when it is asked with a null buffer.
template <class Read>
std::string read_text(const abi::Functions& ort, Read read) {
  std::size_t size = 0;
  check(ort, read(static_cast<char*>(nullptr), &size));
  std::string text(size, '\0');
  if (size > 0) check(ort, read(text.data(), &size));
  text.resize(size > 0 ? size - 1 : 0);
  return text;
}

// What `take` writes: memory from `allocator`. Releases the allocator where there is none.
template <class Take>
void* allocate(const abi::Functions& ort, abi::Allocator* allocator, Take take) {
  void* memory = nullptr;
  try {
    check(ort, take(&memory));
    if (memory == nullptr) throw std::bad_alloc();
  } catch (...) {
    ort.ReleaseAllocator(allocator);
    throw;
  }
  return memory;
}

}  // namespace

void check(const abi::Functions& ort, abi::Status* status) {
  if (status == nullptr) return;
  const std::unique_ptr<abi::Status, void (*)(abi::Status*)> owned(status, ort.ReleaseStatus);
  throw OrtCallError(ort.GetErrorCode(status), ort.GetErrorMessage(status));
}

const char* element_type_name(abi::ElementType type) {
  // ONNX TensorProto.DataType.
  static constexpr const char* kNames[] = {
      "undefined", "float32", "uint8", "int8",    "uint16", "int16",  "int32",     "int64",
      "string",    "bool",    "float16", "float64", "uint32", "uint64", "complex64", "complex128",
      "bfloat16"};
  const auto index = static_cast<std::size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "another type";
}

std::int64_t element_count(std::span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) {
      throw OpError("shape " + shape_text(shape) + " is not one that memory can hold");
    }
  }
  return count;
}

Tensor::Tensor(const abi::Functions& ort, const abi::Value* value, const char* name)
    : value_(value), name_(name) {
  abi::TypeAndShape* raw = nullptr;
  check(ort, ort.GetTensorTypeAndShape(value, &raw));
  const std::unique_ptr<abi::TypeAndShape, void (*)(abi::TypeAndShape*)> info(
      raw, ort.ReleaseTensorTypeAndShapeInfo);
  std::size_t rank = 0;
  check(ort, ort.GetTensorElementType(info.get(), &type_));
  check(ort, ort.GetDimensionsCount(info.get(), &rank));
  shape_.resize(rank);
  check(ort, ort.GetDimensions(info.get(), shape_.data(), rank));
  // The only way to a tensor's elements is declared for writing; data() hands them out const.
  void* data = nullptr;
  check(ort, ort.GetTensorMutableData(const_cast<abi::Value*>(value), &data));
  data_ = data;
}

void Tensor::expect_rank(std::size_t rank, const char* takes) const {
  if (shape_.size() != rank) {
    throw OpError(std::string("input ") + name_ + " has shape " + shape_text(shape_) +
                  ", but takes " + takes);
  }
}

void Tensor::expect_type(abi::ElementType type) const {
  if (type_ != type) {
    throw OpError(std::string("input ") + name_ + " holds " + element_type_name(type_) +
                  ", but takes " + element_type_name(type));
  }
}

std::string NodeInfo::name() const {
  std::string name = read_text(ort_, [this](char* out, std::size_t* size) {
    return ort_.KernelInfo_GetNodeName(info_, out, size);
  });
  if (name.empty() && output_count() > 0) {
    name = read_text(ort_, [this](char* out, std::size_t* size) {
      return ort_.KernelInfo_GetOutputName(info_, 0, out, size);
    });
  }
  return name;
}

// Whether the node has an attribute of this name, whatever its type. ORT reports a missing attribute
// and one of another type by the same code, and the messages differ between its versions, so every
// type is tried. (An attribute that holds a list of texts, a tensor or a graph, which no op takes,
// counts as missing.)
bool NodeInfo::exists(const char* attribute) const {
  const auto ok = [this](abi::Status* status) {
    if (status != nullptr) ort_.ReleaseStatus(status);
    return status == nullptr;
  };
  std::int64_t integer = 0;
  float number = 0;
  std::size_t size = 0;
  return ok(ort_.KernelInfoGetAttribute_int64(info_, attribute, &integer)) ||
         ok(ort_.KernelInfoGetAttribute_float(info_, attribute, &number)) ||
         ok(ort_.KernelInfoGetAttribute_string(info_, attribute, nullptr, &size)) ||
         ok(ort_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size)) ||
         ok(ort_.KernelInfoGetAttributeArray_float(info_, attribute, nullptr, &size));
}

// Whether an attribute was read. Throws OpError where it was not, but exists.
bool NodeInfo::found(abi::Status* status, const char* attribute, const char* takes) const {
  if (status == nullptr) return true;
  ort_.ReleaseStatus(status);
  if (!exists(attribute)) return false;
  throw OpError(std::string("attribute ") + attribute + " has another type, but takes " + takes);
}

std::int64_t NodeInfo::integer(const char* attribute, std::int64_t default_value) const {
  std::int64_t value = 0;
  abi::Status* status = ort_.KernelInfoGetAttribute_int64(info_, attribute, &value);
  return found(status, attribute, "an integer") ? value : default_value;
}

float NodeInfo::number(const char* attribute, float default_value) const {
  float value = 0;
  abi::Status* status = ort_.KernelInfoGetAttribute_float(info_, attribute, &value);
  return found(status, attribute, "a number") ? value : default_value;
}

std::string NodeInfo::text(const char* attribute, const std::string& default_value) const {
  std::size_t size = 0;
  abi::Status* status = ort_.KernelInfoGetAttribute_string(info_, attribute, nullptr, &size);
  if (!found(status, attribute, "a text")) return default_value;
  return read_text(ort_, [&](char* out, std::size_t* room) {
    return ort_.KernelInfoGetAttribute_string(info_, attribute, out, room);
  });
}

std::vector<std::int64_t> NodeInfo::integers(const char* attribute,
                                             std::vector<std::int64_t> default_value) const {
  std::size_t size = 0;
  abi::Status* status = ort_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size);
  if (!found(status, attribute, "integers")) return default_value;
  if (size == 0) {  // so reads a list of another type too
    throw OpError(std::string("attribute ") + attribute +
                  " is empty or has another type, but takes integers");
  }
  std::vector<std::int64_t> values(size);
  check(ort_, ort_.KernelInfoGetAttributeArray_int64(info_, attribute, values.data(), &size));
  return values;
}

std::size_t NodeInfo::input_count() const {
  std::size_t count = 0;
  check(ort_, ort_.KernelInfo_GetInputCount(info_, &count));
  return count;
}

std::size_t NodeInfo::output_count() const {
  std::size_t count = 0;
  check(ort_, ort_.KernelInfo_GetOutputCount(info_, &count));
  return count;
}

bool NodeInfo::has_input(std::size_t index) const {
  if (index >= input_count()) return false;
  const std::string name = read_text(ort_, [&](char* out, std::size_t* size) {
    return ort_.KernelInfo_GetInputName(info_, index, out, size);
  });
  return !name.empty();
}

std::optional<Tensor> NodeInfo::constant_input(std::size_t index, const char* name) const {
  if (index >= input_count()) return std::nullopt;
  int is_constant = 0;
  const abi::Value* value = nullptr;
  check(ort_, ort_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) return std::nullopt;
  return Tensor(ort_, value, name);
}

Scratch<std::byte> NodeInfo::provider_memory(std::size_t bytes) const {
  if (bytes == 0) return {ort_, nullptr, nullptr, 0};
  abi::Allocator* allocator = nullptr;
  check(ort_, ort_.KernelInfoGetAllocator(info_, abi::kDefault, &allocator));
  void* memory = allocate(ort_, allocator, [&](void** out) {
    return ort_.AllocatorAlloc(allocator, bytes, out);
  });
  return {ort_, allocator, memory, bytes};
}

Tensor RunContext::input(std::size_t index, const char* name) const {
  std::optional<Tensor> tensor = optional_input(index, name);
  if (!tensor) throw OpError(std::string("input ") + name + " is missing");
  return *std::move(tensor);
}

std::optional<Tensor> RunContext::optional_input(std::size_t index, const char* name) const {
  std::size_t count = 0;
  check(ort_, ort_.KernelContext_GetInputCount(context_, &count));
  if (index >= count) return std::nullopt;
  const abi::Value* value = nullptr;
  check(ort_, ort_.KernelContext_GetInput(context_, index, &value));
  if (value == nullptr) return std::nullopt;
  return Tensor(ort_, value, name);
}

void* RunContext::output_memory(std::size_t index, std::span<const std::int64_t> shape) const {
  std::size_t count = 0;
  check(ort_, ort_.KernelContext_GetOutputCount(context_, &count));
  if (index >= count) return nullptr;
  abi::Value* value = nullptr;
  check(ort_, ort_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(ort_, ort_.GetTensorMutableData(value, &data));
  return data;
}

void* RunContext::scratch_memory(std::size_t count, std::size_t size,
                                 abi::Allocator** allocator) const {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    throw OpError("the work needs more scratch memory than there can be");
  }
  if (bytes == 0) return nullptr;
  check(ort_, ort_.KernelContext_GetAllocator(context_, host_, allocator));
  return allocate(ort_, *allocator, [&](void** memory) {
    return ort_.AllocatorAlloc(*allocator, bytes, memory);
  });
}

Scratch<std::byte> RunContext::device_scratch(const Tensor& beside, std::size_t bytes) const {
  if (bytes == 0) return {ort_, nullptr, nullptr, 0};
  const abi::MemoryInfo* where = nullptr;
  check(ort_, ort_.GetTensorMemoryInfo(beside.value(), &where));
  abi::Allocator* allocator = nullptr;
  check(ort_, ort_.KernelContext_GetAllocator(context_, where, &allocator));
  void* memory = allocate(ort_, allocator, [&](void** out) {
    // GetScratchBuffer tells the arena which stream the memory belongs to; it takes for granted
    // that there is one.
    return gpu_stream() != nullptr
               ? ort_.KernelContext_GetScratchBuffer(context_, where, bytes, out)
               : ort_.AllocatorAlloc(allocator, bytes, out);
  });
  return {ort_, allocator, memory, bytes};
}

void release_scratch(const abi::Functions& ort, abi::Allocator* allocator, void* memory) {
  if (allocator == nullptr) return;
  abi::Status* status = ort.AllocatorFree(allocator, memory);
  if (status != nullptr) ort.ReleaseStatus(status);  // a destructor has nobody to tell
  ort.ReleaseAllocator(allocator);
}

void RunContext::run_tasks(std::size_t total, void (*task)(void*, std::size_t),
                           void* state) const {
  // An exception must not leave a task: it would unwind through ORT's thread pool.
  struct Tasks {
    void (*task)(void*, std::size_t);
    void* state;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr error;
  } tasks{.task = task, .state = state, .error = nullptr};
  const auto guarded = [](void* opaque, std::size_t i) {
    auto& all = *static_cast<Tasks*>(opaque);
    try {
      all.task(all.state, i);
    } catch (...) {
      if (!all.failed.test_and_set()) all.error = std::current_exception();
    }
  };
  // 0 batches: ORT hands out the tasks one by one.
  check(ort_, ort_.KernelContext_ParallelFor(context_, guarded, total, 0, &tasks));
  if (tasks.error) std::rethrow_exception(tasks.error);
}

void* RunContext::gpu_stream() const {
  void* stream = nullptr;
  check(ort_, ort_.KernelContext_GetGPUComputeStream(context_, &stream));
  return stream;
}

}  // namespace spatialonnx
