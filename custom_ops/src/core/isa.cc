#include "core/isa.h"

#include <cstdlib>
#include <cstring>

#include "core/errors.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
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

#if defined(__x86_64__)
namespace {

// Whether the processor has 8-bit tiles and the kernel lets this process use them, which has to be
// asked for.
bool tiles_allowed() {
#if defined(__linux__)
  constexpr unsigned kTile = 1u << 24;
  constexpr unsigned kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool allowed = [] {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTile) != 0 && (d & kInt8) != 0 &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return allowed;
#else
  return false;
#endif
}

}  // namespace
#endif

bool isa_runs_here(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni") &&
                          __builtin_cpu_supports("avx512vbmi") &&
                          __builtin_cpu_supports("avx512vbmi2");
  switch (isa) {
    case Isa::amx: return avx512vnni && tiles_allowed();
    case Isa::avx512vnni: return avx512vnni;
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

bool has_dot_products() {
#if defined(__x86_64__)
  return isa_runs_here(Isa::avxvnni) ||
         (isa_runs_here(Isa::avx512) && __builtin_cpu_supports("avx512vnni"));
#elif defined(__aarch64__)
  return isa_runs_here(Isa::dotprod);
#else
  return false;
#endif
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
