// Calls every launcher where there is no CUDA device: prints what each says, and succeeds if all of
// them report an error by name. Never run on a machine with a device: nothing here is memory of it.
#include <cstdio>

#include "cuda/cuda_kernels.h"

namespace {

using namespace spatialonnx;

int failures = 0;

void expect_error(const CudaStatus& status) {
  std::printf("%s: %s (%s)\n", status.where, status.name, status.text);
  if (!status.failed()) ++failures;
}

}  // namespace

int main() {
  const DeviceMap map{1, 1, 4, 4, 2};
  PredictArguments<float> predict{};
  predict.map = map;
  expect_error(predict_cuda(predict, nullptr));
  PredictArguments<Half> half{};
  half.map = map;
  expect_error(predict_cuda(half, nullptr));
  CodesArguments codes{};
  codes.map = map;
  expect_error(codes_cuda(codes, nullptr));
  ConvArguments conv{};
  conv.out = map;
  expect_error(conv_cuda(conv, nullptr));
  const int value = 0;
  expect_error(copy_to_device(nullptr, &value, sizeof value, nullptr));
  expect_error(copy_to_device_now(nullptr, &value, sizeof value));
  return failures;
}
