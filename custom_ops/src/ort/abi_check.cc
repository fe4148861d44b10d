// Compiles only if ort_abi.h agrees with ORT's official headers. Target abi_check.
#include "ort/ort_abi.h"

#include <cstddef>
#include <type_traits>

#include <onnxruntime_c_api.h>

namespace abi = spatialonnx::abi;

static_assert(ORT_API_VERSION >= abi::kApiVersion);

// --- Signatures: types that mean the same, ours and ORT's ----------------------------------------

namespace {

template <class Ours, class Theirs>
constexpr bool same = std::is_same_v<Ours, Theirs>;

template <class Ours, class Theirs>
constexpr bool same<const Ours, const Theirs> = same<Ours, Theirs>;
template <class Ours, class Theirs>
constexpr bool same<Ours*, Theirs*> = same<Ours, Theirs>;
template <class OurResult, class... Ours, class TheirResult, class... Theirs>
constexpr bool same<OurResult(Ours...), TheirResult(Theirs...)> = [] {
  if constexpr (sizeof...(Ours) != sizeof...(Theirs)) {
    return false;
  } else {
    return same<OurResult, TheirResult> && (same<Ours, Theirs> && ...);
  }
}();
template <class Ours, class TheirResult, class... Theirs>
constexpr bool same<Ours, TheirResult(Theirs...) noexcept> = same<Ours, TheirResult(Theirs...)>;

// Opaque structs, of which only pointers are handed over, and enums of the same size.
#define SAME_TYPE(ours, theirs) \
  template <>                   \
  constexpr bool same<abi::ours, theirs> = true
SAME_TYPE(Status, OrtStatus);
SAME_TYPE(SessionOptions, OrtSessionOptions);
SAME_TYPE(CustomOpDomain, OrtCustomOpDomain);
SAME_TYPE(CustomOp, OrtCustomOp);
SAME_TYPE(ApiTable, OrtApi);
SAME_TYPE(KernelInfo, OrtKernelInfo);
SAME_TYPE(KernelContext, OrtKernelContext);
SAME_TYPE(Value, OrtValue);
SAME_TYPE(TypeAndShape, OrtTensorTypeAndShapeInfo);
SAME_TYPE(MemoryInfo, OrtMemoryInfo);
SAME_TYPE(Allocator, OrtAllocator);
SAME_TYPE(ShapeInferContext, OrtShapeInferContext);
#undef SAME_TYPE
#define SAME_ENUM(ours, theirs)                         \
  static_assert(sizeof(abi::ours) == sizeof(theirs));   \
  template <>                                           \
  constexpr bool same<abi::ours, theirs> = true
SAME_ENUM(ErrorCode, OrtErrorCode);
SAME_ENUM(ElementType, ONNXTensorElementDataType);
SAME_ENUM(Characteristic, OrtCustomOpInputOutputCharacteristic);
SAME_ENUM(MemoryType, OrtMemType);
SAME_ENUM(AllocatorType, OrtAllocatorType);
#undef SAME_ENUM

// That the comparison tells types apart.
static_assert(!same<int*, float*>);
static_assert(!same<abi::Status*(int), OrtStatus*(int, int)>);
static_assert(!same<abi::Status*(const int*), OrtStatus*(int*) noexcept>);
static_assert(!same<abi::Status*(abi::Value**), OrtStatus*(OrtMemoryInfo**) noexcept>);

}  // namespace

// ORT's declarations carry attributes for the compiler's warnings, which are no part of a type.
#pragma GCC diagnostic ignored "-Wignored-attributes"

#define X(slot, name, result, parameters)                                            \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), "slot of " #name); \
  static_assert(same<decltype(abi::Functions::name), decltype(OrtApi::name)>, "type of " #name);
SPATIALONNX_ORT_SLOTS(X)
#undef X

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(abi::ApiBase, GetApi));
static_assert(same<decltype(abi::ApiBase::GetApi), decltype(OrtApiBase::GetApi)>);
static_assert(same<decltype(abi::ApiBase::GetVersionString), decltype(OrtApiBase::GetVersionString)>);

// Values of two different enums, ours and ORT's.
#define EQUAL(ours, theirs) static_assert(static_cast<int>(abi::ours) == static_cast<int>(theirs))
EQUAL(kFail, ORT_FAIL);
EQUAL(kInvalidArgument, ORT_INVALID_ARGUMENT);
EQUAL(kRuntimeException, ORT_RUNTIME_EXCEPTION);
EQUAL(kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
EQUAL(kUint16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16);
EQUAL(kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
EQUAL(kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
EQUAL(kRequired, INPUT_OUTPUT_REQUIRED);
EQUAL(kOptional, INPUT_OUTPUT_OPTIONAL);
EQUAL(kCpuInput, OrtMemTypeCPUInput);
EQUAL(kCpuOutput, OrtMemTypeCPUOutput);
EQUAL(kDefault, OrtMemTypeDefault);
EQUAL(kArenaAllocator, OrtArenaAllocator);
#undef EQUAL

// A newer ORT may append slots to OrtCustomOp; it reads only those of the version we state.
static_assert(sizeof(OrtCustomOp) >= sizeof(abi::CustomOp));
#define SAME(name)                                                                         \
  static_assert(offsetof(OrtCustomOp, name) == offsetof(abi::CustomOp, name), #name);      \
  static_assert(same<decltype(abi::CustomOp::name), decltype(OrtCustomOp::name)>, "type of " #name)
SAME(version);
SAME(CreateKernel);
SAME(GetName);
SAME(GetExecutionProviderType);
SAME(GetInputType);
SAME(GetInputTypeCount);
SAME(GetOutputType);
SAME(GetOutputTypeCount);
SAME(KernelCompute);
SAME(KernelDestroy);
SAME(GetInputCharacteristic);
SAME(GetOutputCharacteristic);
SAME(GetInputMemoryType);
SAME(GetVariadicInputMinArity);
SAME(GetVariadicInputHomogeneity);
SAME(GetVariadicOutputMinArity);
SAME(GetVariadicOutputHomogeneity);
SAME(CreateKernelV2);
SAME(KernelComputeV2);
SAME(InferOutputShapeFn);
SAME(GetStartVersion);
SAME(GetEndVersion);
SAME(GetMayInplace);
SAME(ReleaseMayInplace);
SAME(GetAliasMap);
SAME(ReleaseAliasMap);
#undef SAME
