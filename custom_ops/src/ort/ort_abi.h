// The slots of ONNX Runtime's C ABI that the ops use.
//
// ORT's Python packages ship no C headers. Its C ABI is a table of function pointers that only ever
// grows, so a slot's number is a fact which holds for every later version. The list below is the
// only place where numbers are written; abi_check.cc compares each of them, and each signature, with
// the official headers where those exist (.ci/abi).
#pragma once

#include <cstddef>
#include <cstdint>

namespace spatialonnx::abi {

// The API version asked for. 18 has every slot below; a newer ORT serves it too.
inline constexpr std::uint32_t kApiVersion = 18;

// Opaque to us.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TypeAndShape;
struct MemoryInfo;
struct Allocator;
struct ShapeInferContext;

enum ErrorCode : int {
  kFail = 1,
  kInvalidArgument = 2,
  kRuntimeException = 6,
};

// ONNX TensorProto.DataType, as ORT numbers it.
enum ElementType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt32 = 6,
  kInt64 = 7,
  kFloat16 = 10,
};

enum Characteristic : int { kRequired = 0, kOptional = 1 };

// Where an input has to be when the kernel runs. On the CPU provider both mean host memory.
enum MemoryType : int { kCpuInput = -2, kCpuOutput = -1, kDefault = 0 };

enum AllocatorType : int { kArenaAllocator = 1 };

// X(slot, name, result, parameters)
#define SPATIALONNX_ORT_SLOTS(X)                                                                   \
  X(0, CreateStatus, Status*, (ErrorCode, const char*))                                            \
  X(1, GetErrorCode, ErrorCode, (const Status*))                                                   \
  X(2, GetErrorMessage, const char*, (const Status*))                                              \
  X(26, CreateCustomOpDomain, Status*, (const char*, CustomOpDomain**))                            \
  X(27, CustomOpDomain_Add, Status*, (CustomOpDomain*, const struct CustomOp*))                    \
  X(28, AddCustomOpDomain, Status*, (SessionOptions*, CustomOpDomain*))                            \
  X(51, GetTensorMutableData, Status*, (Value*, void**))                                           \
  X(60, GetTensorElementType, Status*, (const TypeAndShape*, ElementType*))                        \
  X(61, GetDimensionsCount, Status*, (const TypeAndShape*, std::size_t*))                          \
  X(62, GetDimensions, Status*, (const TypeAndShape*, std::int64_t*, std::size_t))                 \
  X(65, GetTensorTypeAndShape, Status*, (const Value*, TypeAndShape**))                            \
  X(69, CreateCpuMemoryInfo, Status*, (AllocatorType, MemoryType, MemoryInfo**))                   \
  X(75, AllocatorAlloc, Status*, (Allocator*, std::size_t, void**))                                \
  X(76, AllocatorFree, Status*, (Allocator*, void*))                                               \
  X(85, KernelInfoGetAttribute_float, Status*, (const KernelInfo*, const char*, float*))           \
  X(86, KernelInfoGetAttribute_int64, Status*, (const KernelInfo*, const char*, std::int64_t*))    \
  X(87, KernelInfoGetAttribute_string, Status*,                                                    \
    (const KernelInfo*, const char*, char*, std::size_t*))                                         \
  X(88, KernelContext_GetInputCount, Status*, (const KernelContext*, std::size_t*))                \
  X(89, KernelContext_GetOutputCount, Status*, (const KernelContext*, std::size_t*))               \
  X(90, KernelContext_GetInput, Status*, (const KernelContext*, std::size_t, const Value**))       \
  X(91, KernelContext_GetOutput, Status*,                                                          \
    (KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**))                      \
  X(93, ReleaseStatus, void, (Status*))                                                            \
  X(94, ReleaseMemoryInfo, void, (MemoryInfo*))                                                    \
  X(99, ReleaseTensorTypeAndShapeInfo, void, (TypeAndShape*))                                      \
  X(132, ReleaseAllocator, void, (Allocator*))                                                     \
  X(162, KernelInfoGetAttributeArray_float, Status*,                                               \
    (const KernelInfo*, const char*, float*, std::size_t*))                                        \
  X(163, KernelInfoGetAttributeArray_int64, Status*,                                               \
    (const KernelInfo*, const char*, std::int64_t*, std::size_t*))                                 \
  X(193, KernelContext_GetGPUComputeStream, Status*, (const KernelContext*, void**))               \
  X(194, GetTensorMemoryInfo, Status*, (const Value*, const MemoryInfo**))                         \
  X(230, KernelInfo_GetInputCount, Status*, (const KernelInfo*, std::size_t*))                     \
  X(231, KernelInfo_GetOutputCount, Status*, (const KernelInfo*, std::size_t*))                    \
  X(232, KernelInfo_GetInputName, Status*,                                                         \
    (const KernelInfo*, std::size_t, char*, std::size_t*))                                         \
  X(233, KernelInfo_GetOutputName, Status*,                                                        \
    (const KernelInfo*, std::size_t, char*, std::size_t*))                                         \
  X(244, KernelInfo_GetNodeName, Status*, (const KernelInfo*, char*, std::size_t*))                \
  X(249, KernelInfoGetConstantInput_tensor, Status*,                                               \
    (const KernelInfo*, std::size_t, int*, const Value**))                                         \
  X(253, KernelContext_GetAllocator, Status*,                                                      \
    (const KernelContext*, const MemoryInfo*, Allocator**))                                        \
  X(274, KernelContext_ParallelFor, Status*,                                                       \
    (const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*))         \
  X(277, KernelContext_GetScratchBuffer, Status*,                                                  \
    (const KernelContext*, const MemoryInfo*, std::size_t, void**))                                \
  X(278, KernelInfoGetAllocator, Status*, (const KernelInfo*, MemoryType, Allocator**))

// ORT's table as it lies in memory: nothing but function pointers.
struct ApiTable {
  void (*slots[1])();
};

struct ApiBase {
  const ApiTable* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

// The slots by name, read from ORT's table once.
struct Functions {
#define X(slot, name, result, parameters) result(*name) parameters;
  SPATIALONNX_ORT_SLOTS(X)
#undef X

  explicit Functions(const ApiTable* table) {
    void (*const* slots)() = table->slots;
#define X(slot, name, result, parameters) name = reinterpret_cast<result(*) parameters>(slots[slot]);
    SPATIALONNX_ORT_SLOTS(X)
#undef X
  }
};

// OrtCustomOp: what ORT asks an op. 26 slots since API version 18; ORT skips those which stay null.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const ApiTable*, const KernelInfo*);  // unused: see V2
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);  // unused: see V2
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const ApiTable*, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  // Pairs of an input and the output that may take its buffer. Arrays stay owned by the op until
  // the matching Release call.
  std::size_t (*GetMayInplace)(int** input_index, int** output_index);
  void (*ReleaseMayInplace)(int* input_index, int* output_index);
  std::size_t (*GetAliasMap)(int** input_index, int** output_index);
  void (*ReleaseAliasMap)(int* input_index, int* output_index);
};

static_assert(sizeof(CustomOp) == 26 * sizeof(void*));

}  // namespace spatialonnx::abi
