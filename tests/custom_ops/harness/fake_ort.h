// As much of ONNX Runtime as the ops call: nodes that are made by hand, tensors, a thread pool.
//
// It makes it possible to run an op without ONNX Runtime, whose own code is not built with a
// sanitizer, and to answer as no version of ONNX Runtime does.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "ort/ort_abi.h"

extern "C" spatialonnx::abi::Status* RegisterCustomOps(spatialonnx::abi::SessionOptions*,
                                                       const spatialonnx::abi::ApiBase*);

// --- What ORT's opaque types are here ------------------------------------------------------------

namespace spatialonnx::abi {

struct Status {
  ErrorCode code;
  std::string message;
};
struct TypeAndShape {
  ElementType type;
  std::vector<std::int64_t> shape;
};
struct Value {
  TypeAndShape info;
  std::vector<char> bytes;
};
struct CustomOpDomain {
  std::vector<const CustomOp*> ops;
};
struct SessionOptions {
  std::vector<CustomOpDomain*> domains;
};
struct MemoryInfo {};
struct Allocator {};
struct ShapeInferContext {};

using Attribute = std::variant<float, std::int64_t, std::string, std::vector<float>,
                               std::vector<std::int64_t>>;

struct KernelInfo {
  std::string name;
  std::map<std::string, Attribute> attributes;
  std::vector<const Value*> constants;  // by input; null: fed, or absent
  std::size_t outputs;
};
struct KernelContext {
  std::vector<const Value*> inputs;  // null: absent
  std::vector<Value> outputs;
  std::size_t threads;
  std::size_t most_tasks = 0;  // of any call of ParallelFor
};

}  // namespace spatialonnx::abi

namespace fake_ort {

using namespace spatialonnx::abi;

#define X(slot, name, result, parameters) result name parameters;
SPATIALONNX_ORT_SLOTS(X)
#undef X

// --- Status and tensors --------------------------------------------------------------------------

// What a node that lacks an attribute is told: no message of ORT's.
inline constexpr const char* kNoSuchAttribute = "computer says no";

inline Status* fail(const char* message) { return new Status{kFail, message}; }

inline Status* CreateStatus(ErrorCode code, const char* message) {
  return new Status{code, message};
}
inline ErrorCode GetErrorCode(const Status* status) { return status->code; }
inline const char* GetErrorMessage(const Status* status) { return status->message.c_str(); }
inline void ReleaseStatus(Status* status) { delete status; }

inline Status* GetTensorMutableData(Value* value, void** out) {
  *out = value->bytes.data();
  return nullptr;
}
inline Status* GetTensorTypeAndShape(const Value* value, TypeAndShape** out) {
  *out = new TypeAndShape(value->info);
  return nullptr;
}
inline Status* GetTensorElementType(const TypeAndShape* info, ElementType* out) {
  *out = info->type;
  return nullptr;
}
inline Status* GetDimensionsCount(const TypeAndShape* info, std::size_t* out) {
  *out = info->shape.size();
  return nullptr;
}
inline Status* GetDimensions(const TypeAndShape* info, std::int64_t* out, std::size_t count) {
  std::memcpy(out, info->shape.data(), count * sizeof *out);
  return nullptr;
}
inline void ReleaseTensorTypeAndShapeInfo(TypeAndShape* info) { delete info; }
inline Status* GetTensorMemoryInfo(const Value*, const MemoryInfo** out) {
  static constexpr MemoryInfo host;
  *out = &host;
  return nullptr;
}

// --- Domains -------------------------------------------------------------------------------------

inline Status* CreateCustomOpDomain(const char*, CustomOpDomain** out) {
  *out = new CustomOpDomain;
  return nullptr;
}
inline Status* CustomOpDomain_Add(CustomOpDomain* domain, const CustomOp* op) {
  domain->ops.push_back(op);
  return nullptr;
}
inline Status* AddCustomOpDomain(SessionOptions* options, CustomOpDomain* domain) {
  options->domains.push_back(domain);
  return nullptr;
}

// --- Memory --------------------------------------------------------------------------------------

// Allocations that are still to succeed; negative: all of them.
inline std::atomic<int> allocations_left = -1;

inline Status* CreateCpuMemoryInfo(AllocatorType, MemoryType, MemoryInfo** out) {
  *out = new MemoryInfo;
  return nullptr;
}
inline void ReleaseMemoryInfo(MemoryInfo* info) { delete info; }
inline Status* KernelContext_GetAllocator(const KernelContext*, const MemoryInfo*,
                                          Allocator** out) {
  *out = new Allocator;
  return nullptr;
}
inline Status* KernelInfoGetAllocator(const KernelInfo*, MemoryType, Allocator** out) {
  *out = new Allocator;
  return nullptr;
}
inline void ReleaseAllocator(Allocator* allocator) { delete allocator; }
inline Status* AllocatorAlloc(Allocator*, std::size_t bytes, void** out) {
  if (allocations_left == 0) return fail("no memory is left");
  if (allocations_left > 0) --allocations_left;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return nullptr;
}
inline Status* AllocatorFree(Allocator*, void* memory) {
  std::free(memory);
  return nullptr;
}
inline Status* KernelContext_GetScratchBuffer(const KernelContext*, const MemoryInfo*, std::size_t,
                                              void**) {
  return fail("no stream");
}
inline Status* KernelContext_GetGPUComputeStream(const KernelContext*, void** out) {
  *out = nullptr;
  return nullptr;
}

// --- A node --------------------------------------------------------------------------------------

template <class T>
Status* attribute(const KernelInfo* info, const char* name, T& out) {
  const auto found = info->attributes.find(name);
  if (found == info->attributes.end()) return fail(kNoSuchAttribute);
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) return fail(kNoSuchAttribute);
  out = *value;
  return nullptr;
}

inline Status* KernelInfoGetAttribute_float(const KernelInfo* info, const char* name, float* out) {
  return attribute(info, name, *out);
}
inline Status* KernelInfoGetAttribute_int64(const KernelInfo* info, const char* name,
                                            std::int64_t* out) {
  return attribute(info, name, *out);
}
inline Status* text(const std::string& value, char* out, std::size_t* size) {
  if (out != nullptr) std::memcpy(out, value.c_str(), value.size() + 1);
  *size = value.size() + 1;
  return nullptr;
}
inline Status* KernelInfoGetAttribute_string(const KernelInfo* info, const char* name, char* out,
                                             std::size_t* size) {
  std::string value;
  Status* status = attribute(info, name, value);
  return status != nullptr ? status : text(value, out, size);
}
template <class T>
Status* attributes(const KernelInfo* info, const char* name, T* out, std::size_t* size) {
  std::vector<T> values;
  Status* status = attribute(info, name, values);
  if (status != nullptr) return status;
  if (out != nullptr) std::memcpy(out, values.data(), values.size() * sizeof(T));
  *size = values.size();
  return nullptr;
}
inline Status* KernelInfoGetAttributeArray_float(const KernelInfo* info, const char* name,
                                                 float* out, std::size_t* size) {
  return attributes(info, name, out, size);
}
inline Status* KernelInfoGetAttributeArray_int64(const KernelInfo* info, const char* name,
                                                 std::int64_t* out, std::size_t* size) {
  return attributes(info, name, out, size);
}
inline Status* KernelInfo_GetInputCount(const KernelInfo* info, std::size_t* out) {
  *out = info->constants.size();
  return nullptr;
}
inline Status* KernelInfo_GetOutputCount(const KernelInfo* info, std::size_t* out) {
  *out = info->outputs;
  return nullptr;
}
// Every input that a node counts has a name: the harness leaves none out.
inline Status* KernelInfo_GetInputName(const KernelInfo*, std::size_t, char* out,
                                       std::size_t* size) {
  return text("input", out, size);
}
inline Status* KernelInfo_GetOutputName(const KernelInfo*, std::size_t, char* out,
                                        std::size_t* size) {
  return text("output", out, size);
}
inline Status* KernelInfo_GetNodeName(const KernelInfo* info, char* out, std::size_t* size) {
  return text(info->name, out, size);
}
inline Status* KernelInfoGetConstantInput_tensor(const KernelInfo* info, std::size_t i,
                                                 int* is_constant, const Value** out) {
  *out = info->constants[i];
  *is_constant = *out != nullptr ? 1 : 0;
  return nullptr;
}

// --- A run ---------------------------------------------------------------------------------------

inline Status* KernelContext_GetInputCount(const KernelContext* context, std::size_t* out) {
  *out = context->inputs.size();
  return nullptr;
}
inline Status* KernelContext_GetOutputCount(const KernelContext* context, std::size_t* out) {
  *out = context->outputs.size();
  return nullptr;
}
inline Status* KernelContext_GetInput(const KernelContext* context, std::size_t i,
                                      const Value** out) {
  *out = context->inputs[i];
  return nullptr;
}
inline std::size_t element_size(ElementType type) {
  return type == kInt64 ? 8 : type == kFloat ? 4 : 2;
}
inline Status* KernelContext_GetOutput(KernelContext* context, std::size_t i,
                                       const std::int64_t* shape, std::size_t rank, Value** out) {
  Value& value = context->outputs[i];
  value.info.shape.assign(shape, shape + rank);
  std::size_t count = 1;
  for (std::size_t axis = 0; axis < rank; ++axis) count *= static_cast<std::size_t>(shape[axis]);
  value.bytes.assign(count * element_size(value.info.type), 0x55);
  *out = &value;
  return nullptr;
}
// The caller and threads of its own claim tasks one by one, as in ORT's pool.
inline Status* KernelContext_ParallelFor(const KernelContext* context,
                                         void (*task)(void*, std::size_t), std::size_t total,
                                         std::size_t, void* state) {
  auto& most = const_cast<KernelContext*>(context)->most_tasks;
  most = std::max(most, total);
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < total; i = next++) task(state, i);
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(context->threads, total); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return nullptr;
}

// --- A session -----------------------------------------------------------------------------------

inline const ApiTable* api() {
  static void (*slots[512])() = {};
  static const bool filled = [] {
#define X(slot, name, result, parameters) slots[slot] = reinterpret_cast<void (*)()>(&name);
    SPATIALONNX_ORT_SLOTS(X)
#undef X
    return true;
  }();
  static_cast<void>(filled);
  return reinterpret_cast<const ApiTable*>(slots);
}

inline const ApiBase kBase{[](std::uint32_t) { return api(); }, [] { return "fake"; }};

// A node of the library; throws the message of an error.
class Node {
 public:
  Node(const std::string& op, const KernelInfo& info) {
    SessionOptions options;
    check(RegisterCustomOps(&options, &kBase));
    for (const CustomOp* each : options.domains.at(0)->ops) {
      if (each->GetName(each) == op) op_ = each;
    }
    if (op_ == nullptr) throw std::string("no op ") + op;
    check(op_->CreateKernelV2(op_, api(), &info, &kernel_));
  }
  ~Node() {
    if (kernel_ != nullptr) op_->KernelDestroy(kernel_);
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  void run(KernelContext& context) const { check(op_->KernelComputeV2(kernel_, &context)); }

 private:
  static void check(Status* status) {
    if (status == nullptr) return;
    const std::unique_ptr<Status> owned(status);
    throw owned->message;
  }

  const CustomOp* op_ = nullptr;
  void* kernel_ = nullptr;
};

}  // namespace fake_ort
