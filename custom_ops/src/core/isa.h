// Instruction sets: which builds of the vector kernels exist, which this processor runs, which one
// is used.
//
// A vector kernel is one source that CMake compiles once per instruction set; each build puts its
// functions into the namespace of its set (SPATIALONNX_ISA). Such a source must not call inline
// functions of other headers that it does not itself place in that namespace, the standard
// library's templates included: the linker keeps one copy of an inline function, and that copy may
// hold instructions which the processor lacks.
//
// To add a kernel: declare it in its header with SPATIALONNX_VECTOR_ISAS, define it inside
// `namespace spatialonnx::SPATIALONNX_ISA`, name its file in CMakeLists.txt, and list its builds in
// a Variants table, which ends in the readable reference. Kernels of 8-bit dot products have a list
// of their own, SPATIALONNX_INT8_ISAS.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

// Best first. CMakeLists.txt compiles the same lists. SPATIALONNX_ISAS is the union of the other two.
// avx512vnni includes VBMI and VBMI2; amx adds tiles of 8-bit products; avxvnni has the dot products
// without AVX-512. `wide`, never chosen unasked, is AVX2 with the vectors of AVX-512: it tests sources written for those.
#if defined(__x86_64__)
#define SPATIALONNX_ISAS(X) \
  X(amx) X(avx512vnni) X(avx512) X(avxvnni) X(avx2) X(baseline) X(wide)
#define SPATIALONNX_VECTOR_ISAS(X) X(avx512) X(avx2) X(baseline) X(wide)
#define SPATIALONNX_INT8_ISAS(X) X(amx) X(avx512vnni) X(avxvnni) X(avx2) X(baseline)
#elif defined(__aarch64__)
#define SPATIALONNX_ISAS(X) X(dotprod) X(baseline)
#define SPATIALONNX_VECTOR_ISAS(X) X(baseline)
#define SPATIALONNX_INT8_ISAS(X) X(dotprod) X(baseline)
#else
#define SPATIALONNX_ISAS(X) X(baseline)
#define SPATIALONNX_VECTOR_ISAS(X) X(baseline)
#define SPATIALONNX_INT8_ISAS(X) X(baseline)
#endif

namespace spatialonnx {

enum class Isa {
#define X(isa) isa,
  SPATIALONNX_ISAS(X)
#undef X
      reference,
};

// One build of a kernel.
template <class Function>
struct Variant {
  Isa isa;
  Function function;
};

const char* isa_name(Isa isa);

// The sets compiled in, best first; the reference is the last one. Of all kernels, of those in
// SPATIALONNX_VECTOR_ISAS, and of those in SPATIALONNX_INT8_ISAS.
std::vector<Isa> compiled_isas();
std::vector<Isa> vector_isas();
std::vector<Isa> int8_isas();

// Whether this machine has 8-bit dot products, those of narrower processors than Isa::avx512vnni asks for included:
// ONNX Runtime uses them too, and without them its kernels for x86-64 may saturate.
bool has_dot_products();

// Whether this processor (and its operating system) runs the set.
bool isa_runs_here(Isa isa);

// The best set that runs here, or the one that the environment variable SPATIALONNX_ISA names.
// Throws OpError where that name is unknown or does not run here.
Isa choose_isa();

// The build for `isa` in a kernel's table. A kernel without a build of its own for this set takes
// the next entry of the table that runs here; the reference, last, serves every set.
template <class Function, std::size_t n>
Function choose_variant(const Variant<Function> (&table)[n], Isa isa) {
  for (const Variant<Function>& variant : table) {
    if (variant.isa >= isa && isa_runs_here(variant.isa)) return variant.function;
  }
  return table[n - 1].function;
}

}  // namespace spatialonnx
