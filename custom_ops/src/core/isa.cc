#include "core/isa.h"

#include <cstdlib>
#include <cstring>

#include "core/errors.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

#include <asm/hwcap.h>
#endif

namespace spatialonnx {

const char* isa_name(Isa isa) {
  switch (isa) {
#define X(name) \
  case Isa::name: return #name;
    SPATIALONNX_ISAS(X)
#undef X
    case Isa::reference: break;
  }
  return "reference";
}

#define X(name) Isa::name,
std::vector<Isa> compiled_isas() { return {SPATIALONNX_ISAS(X) Isa::reference}; }
std::vector<Isa> vector_isas() { return {SPATIALONNX_VECTOR_ISAS(X) Isa::reference}; }
std::vector<Isa> int8_isas() { return {SPATIALONNX_INT8_ISAS(X) Isa::reference}; }
#undef X

bool isa_runs_here(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case Isa::avx512vnni:
      return avx512 && __builtin_cpu_supports("avx512vnni") &&
             __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
    case Isa::avx512: return avx512;
    case Isa::avxvnni: return avx2 && __builtin_cpu_supports("avxvnni");
    case Isa::avx2:
    case Isa::wide: return avx2;
    default: break;
  }
#elif defined(__aarch64__) && defined(__linux__)
  if (isa == Isa::dotprod) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
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
