#include "core/isa.h"

#include <cstdlib>
#include <cstring>

#include "core/errors.h"

namespace spatialonnx {

const char* isa_name(Isa isa) {
  switch (isa) {
#define X(name) \
  case Isa::name: return #name;
    SPATIALONNX_VECTOR_ISAS(X)
#undef X
    case Isa::reference: break;
  }
  return "reference";
}

std::vector<Isa> compiled_isas() {
  return {
#define X(name) Isa::name,
      SPATIALONNX_VECTOR_ISAS(X)
#undef X
          Isa::reference,
  };
}

bool isa_runs_here(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512) {
    return bits && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  if (isa == Isa::avx2 || isa == Isa::wide) return bits && __builtin_cpu_supports("avx2");
#endif
  return isa == Isa::baseline || isa == Isa::reference;
}

Isa choose_isa() {
  const char* wanted = std::getenv("SPATIALONNX_ISA");
  std::string known;
  for (const Isa isa : compiled_isas()) {
    if (!isa_runs_here(isa)) continue;
    if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, isa_name(isa)) == 0) return isa;
    known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
  }
  throw OpError(std::string("SPATIALONNX_ISA is '") + wanted + "', but this machine runs " + known);
}

}  // namespace spatialonnx
