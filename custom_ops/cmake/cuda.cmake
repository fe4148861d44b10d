# Sets SPATIALONNX_WITH_CUDA. AUTO is on where nvcc compiles and links what the kernels need of it;
# that it is there says little: its headers or its runtime may be missing, it may not know the
# newest architecture or not take the host compiler.
#
# CUDA's runtime is linked statically, so the library loads where there is no GPU and no driver.

# Machine code for four generations, and code that every later or in-between one translates.
set(SPATIALONNX_CUDA_ARCHITECTURES "75;80-real;90-real;120" CACHE STRING
    "Architectures of the CUDA kernels, as CMake's CUDA_ARCHITECTURES")

set(SPATIALONNX_WITH_CUDA OFF)
if(NOT SPATIALONNX_CUDA STREQUAL "OFF" AND SPATIALONNX_SANITIZE)
  message(STATUS "CUDA kernels: no, sanitizers check the CPU's")
elseif(NOT SPATIALONNX_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  set(reason "nvcc is not found, or does not compile and link")
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    try_compile(SPATIALONNX_CUDA_WORKS
      ${CMAKE_CURRENT_BINARY_DIR}/cuda_probe
      SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/cmake/cuda_probe.cu
      CMAKE_FLAGS "-DCMAKE_CUDA_ARCHITECTURES=${SPATIALONNX_CUDA_ARCHITECTURES}"
                  "-DCMAKE_CUDA_RUNTIME_LIBRARY=Static"
      CUDA_STANDARD 17
      CUDA_STANDARD_REQUIRED ON
      OUTPUT_VARIABLE output)
    set(SPATIALONNX_WITH_CUDA ${SPATIALONNX_CUDA_WORKS})
    set(reason "${CMAKE_CUDA_COMPILER} does not compile what they need:\n${output}")
  endif()
  if(SPATIALONNX_WITH_CUDA)
    message(STATUS "CUDA kernels: yes, ${CMAKE_CUDA_COMPILER_VERSION}")
  elseif(SPATIALONNX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SPATIALONNX_CUDA=ON: ${reason}")
  else()
    message(STATUS "CUDA kernels: no, ${reason}")
  endif()
endif()

# Compiles sources with nvcc into a target. C++17: older CMakes know no C++20
# for CUDA, and the kernels need none of it.
function(spatialonnx_add_cuda_kernels target)
  target_sources(${target} PRIVATE ${ARGN})
  set_target_properties(${target} PROPERTIES
    CUDA_ARCHITECTURES "${SPATIALONNX_CUDA_ARCHITECTURES}"
    CUDA_RUNTIME_LIBRARY Static
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_VISIBILITY_PRESET hidden)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
  if(SPATIALONNX_WERROR)
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
endfunction()
