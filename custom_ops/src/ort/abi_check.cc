// Compiles only if ort_abi.h agrees with ORT's official headers. Target abi_check.
#include "ort/ort_abi.h"

#include <cstddef>

#include <onnxruntime_c_api.h>

namespace abi = spatialonnx::abi;

static_assert(ORT_API_VERSION >= abi::kApiVersion);

#define X(slot, name, result, parameters) \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), #name);
SPATIALONNX_ORT_SLOTS(X)
#undef X

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(abi::ApiBase, GetApi));

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
#define SAME(name) static_assert(offsetof(OrtCustomOp, name) == offsetof(abi::CustomOp, name), #name)
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
