// The library's entry point for ORT, and the one place where exceptions become an OrtStatus.
#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ort/op.h"
#include "ort/ops.h"
#include "ort/ort.h"
#include "ort/ort_abi.h"

namespace spatialonnx {
namespace {

// Runs `body`; null, or what it threw as a status with `where` in front, as the body left it. Nothing
// that may throw is done outside: an exception must not cross into ORT, which is not ours.
template <class Body>
abi::Status* guarded(const abi::Functions& ort, const std::string& where, Body&& body) noexcept {
  const auto status = [&](abi::ErrorCode code, const char* what) noexcept {
    try {
      return ort.CreateStatus(code, (where + what).c_str());
    } catch (...) {
      return ort.CreateStatus(code, what);
    }
  };
  try {
    body();
    return nullptr;
  } catch (const OpError& error) {
    return status(abi::kInvalidArgument, error.what());
  } catch (const OrtCallError& error) {
    return status(error.code, error.what());
  } catch (const std::bad_alloc&) {
    return status(abi::kFail, "out of memory");
  } catch (const std::exception& error) {
    return status(abi::kRuntimeException, error.what());
  } catch (...) {
    return status(abi::kRuntimeException, "unknown exception");
  }
}

using HostMemory = std::unique_ptr<abi::MemoryInfo, void (*)(abi::MemoryInfo*)>;

HostMemory host_memory(const abi::Functions& ort) {
  abi::MemoryInfo* info = nullptr;
  check(ort, ort.CreateCpuMemoryInfo(abi::kArenaAllocator, abi::kDefault, &info));
  return {info, ort.ReleaseMemoryInfo};
}

// What ORT keeps per node: the kernel, and what it takes to call it.
struct Node {
  abi::Functions ort;
  std::string where;
  HostMemory host;
  std::unique_ptr<Kernel> kernel;
};

// An OpDefinition in the form that ORT asks for.
struct RegisteredOp : abi::CustomOp {
  const OpDefinition* definition;

  explicit RegisteredOp(const OpDefinition& op) : abi::CustomOp{}, definition(&op) {
    version = abi::kApiVersion;
    GetName = [](const CustomOp* self) { return of(self).name; };
    GetExecutionProviderType = [](const CustomOp* self) { return of(self).provider; };
    GetInputTypeCount = [](const CustomOp* self) { return of(self).inputs.size(); };
    GetInputType = [](const CustomOp* self, std::size_t i) { return of(self).inputs[i].type; };
    GetInputCharacteristic = [](const CustomOp* self, std::size_t i) {
      return of(self).inputs[i].presence;
    };
    GetInputMemoryType = [](const CustomOp* self, std::size_t i) {
      return of(self).inputs[i].memory;
    };
    GetOutputTypeCount = [](const CustomOp* self) { return of(self).outputs.size(); };
    GetOutputType = [](const CustomOp* self, std::size_t i) { return of(self).outputs[i].type; };
    GetOutputCharacteristic = [](const CustomOp* self, std::size_t i) {
      return of(self).outputs[i].presence;
    };
    // ORT asks these of ops without variadic inputs or outputs too, in some versions.
    GetVariadicInputMinArity = [](const CustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const CustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
    CreateKernelV2 = create;
    KernelComputeV2 = compute;
    KernelDestroy = [](void* node) { delete static_cast<Node*>(node); };
    if (op.in_place) {
      GetMayInplace = [](int** input_index, int** output_index) -> std::size_t {
        static int first = 0;
        *input_index = &first;
        *output_index = &first;
        return 1;
      };
      ReleaseMayInplace = [](int*, int*) {};
    }
  }

  static const OpDefinition& of(const CustomOp* self) {
    return *static_cast<const RegisteredOp*>(self)->definition;
  }

  static abi::Status* create(const CustomOp* self, const abi::ApiTable* api,
                             const abi::KernelInfo* raw, void** out) {
    const abi::Functions ort(api);
    std::string where;
    return guarded(ort, where, [&] {
      where = std::string(of(self).name) + ": ";
      where = std::string(of(self).name) + " node '" + NodeInfo(ort, raw).name() + "': ";
      auto node = std::make_unique<Node>(Node{ort, where, host_memory(ort), nullptr});
      node->kernel = of(self).create(NodeInfo(node->ort, raw));
      *out = node.release();
    });
  }

  static abi::Status* compute(void* opaque, abi::KernelContext* context) {
    const Node& node = *static_cast<const Node*>(opaque);
    return guarded(node.ort, node.where, [&] {
      node.kernel->run(RunContext(node.ort, context, node.host.get()));
    });
  }
};

// ORT keeps raw pointers to the ops and to their domain, and may use them while the process exits,
// after this library's destructors have run. So nothing here has a destructor: the ops are trivially
// destructible, the list of domains is leaked on purpose. A domain belongs to the ORT that made it
// and outlives every session that uses it: there is one for each copy of ORT in the process.
template <std::size_t... i>
std::array<RegisteredOp, sizeof...(i)> registered_ops(std::index_sequence<i...>) {
  return {RegisteredOp(*kOps[i])...};
}

abi::CustomOpDomain* domain_of(const abi::ApiTable* api, const abi::Functions& ort) {
  using Domains = std::vector<std::pair<const abi::ApiTable*, abi::CustomOpDomain*>>;
  static_assert(std::is_trivially_destructible_v<RegisteredOp>);
  static const auto ops = registered_ops(std::make_index_sequence<std::size(kOps)>{});
  static std::mutex& mutex = *new std::mutex;
  static Domains& domains = *new Domains;
  const std::lock_guard lock(mutex);
  const auto known = std::ranges::find(domains, api, &Domains::value_type::first);
  if (known != domains.end()) return known->second;
  abi::CustomOpDomain* domain = nullptr;
  check(ort, ort.CreateCustomOpDomain(kDomain, &domain));
  for (const RegisteredOp& op : ops) check(ort, ort.CustomOpDomain_Add(domain, &op));
  domains.emplace_back(api, domain);
  return domain;
}

}  // namespace
}  // namespace spatialonnx

// ORT looks this name up in the library that a session registers.
extern "C" __attribute__((visibility("default"))) spatialonnx::abi::Status* RegisterCustomOps(
    spatialonnx::abi::SessionOptions* options, const spatialonnx::abi::ApiBase* base) {
  using namespace spatialonnx;
  const abi::ApiTable* api = base->GetApi(abi::kApiVersion);
  // Without a table there is no way to make a status either; an ORT this old (before 1.18) fails
  // to load the model with "not a registered function/op".
  if (api == nullptr) return nullptr;
  const abi::Functions ort(api);
  std::string where;
  return guarded(ort, where, [&] {
    where = "spatialonnx: ";
    check(ort, ort.AddCustomOpDomain(options, domain_of(api, ort)));
  });
}
