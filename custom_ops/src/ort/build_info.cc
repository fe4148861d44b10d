// What this library was built from and for, as JSON: read by `spatialonnx doctor` and the tests.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/errors.h"
#include "core/isa.h"
#include "ort/ops.h"

namespace spatialonnx {
namespace {

std::string quoted_list(const std::vector<std::string>& names) {
  std::string text = "[";
  for (const std::string& name : names) text += (text.size() > 1 ? ", \"" : "\"") + name + "\"";
  return text + "]";
}

std::vector<std::string> names_of(const std::vector<Isa>& isas, bool all) {
  std::vector<std::string> names;
  for (const Isa isa : isas) {
    if (all || isa_runs_here(isa)) names.emplace_back(isa_name(isa));
  }
  return names;
}

std::string build_info() {
  std::vector<std::string> ops;
  for (const OpDefinition* op : kOps) {
    const std::string provider = op->provider == nullptr ? "" : op->provider;
    std::string name = op->name + (provider.empty() ? "" : "@" + provider);
    // An op may have a definition for each element type.
    if (std::ranges::find(ops, name) == ops.end()) ops.push_back(std::move(name));
  }
  return std::string("{\"version\": \"") + SPATIALONNX_VERSION + "\", \"compiler\": \"" +
         SPATIALONNX_COMPILER +
         "\", \"instruction_sets\": " + quoted_list(names_of(compiled_isas(), true)) +
         ", \"supported\": " + quoted_list(names_of(vector_isas(), false)) +
         ", \"supported_int8\": " + quoted_list(names_of(int8_isas(), false)) +
         ", \"dot_products\": " + (has_dot_products() ? "true" : "false") +
         ", \"ops\": " + quoted_list(ops) +
         ", \"cuda\": " + (SPATIALONNX_WITH_CUDA ? "true" : "false") +
         ", \"sanitizers\": " + (SPATIALONNX_WITH_SANITIZERS ? "true" : "false") + "}";
}

}  // namespace
}  // namespace spatialonnx

// The text lives as long as the library, and is not destroyed when the process exits. Null where there is no memory for it.
extern "C" __attribute__((visibility("default"))) const char* SpatialOnnxBuildInfo() {
  try {
    static const std::string& info = *new std::string(spatialonnx::build_info());
    return info.c_str();
  } catch (...) {
    return nullptr;
  }
}
