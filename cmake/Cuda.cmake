# sffn_cuda: kernels/cuda as sffn::cuda, compiled by nvcc for GPUs (SFFN_CUDA) or by the C++ compiler for the SIMT executor
# (SFFN_SIMT). Without either there is no such target, and ops.h never names sffn::cuda. sffn_nccl: communicators of ranks
# that have a GPU each, over NCCL or the executor's stand-in for it.
if(NOT SFFN_CUDA AND NOT SFFN_SIMT)
  return()
endif()
add_compile_definitions(SFFN_HAS_CUDA=1)
# This layer defines ops and calls none: as the preset cpu compiles it, so that ccache serves it to both.
set_property(TARGET sffn_kernels PROPERTY COMPILE_DEFINITIONS "")
file(GLOB cuda_sources CONFIGURE_DEPENDS kernels/cuda/*.cu kernels/cuda/*.cpp)

if(SFFN_SIMT)
  # The executor is not instrumented: sanitizers see what kernels do, and nothing of how threads are switched.
  set(detectors SIMT_ASAN=0 SIMT_TSAN=0)
  if(SFFN_SANITIZE MATCHES address)
    set(detectors SIMT_ASAN=1 SIMT_TSAN=0)
  elseif(SFFN_SANITIZE MATCHES thread)
    set(detectors SIMT_ASAN=0 SIMT_TSAN=1)
  endif()
  add_library(sffn_simt OBJECT tests/simt/executor.cpp tests/simt/fiber.cpp tests/simt/tensor_core.cpp
    tests/simt/warpgroup.cpp tests/simt/device_memory.cpp tests/simt/stream.cpp tests/simt/devices.cpp tests/simt/clique.cpp
    tests/simt/collectives.cpp tests/simt/kernel_names.cpp)
  target_compile_features(sffn_simt PUBLIC cxx_std_20)
  target_compile_options(sffn_simt PRIVATE -Wall -Wextra -Werror -O2)
  target_compile_definitions(sffn_simt PUBLIC SFFN_SIMT=1 ${detectors})
  target_include_directories(sffn_simt BEFORE PUBLIC tests/simt/include tests)
  target_link_libraries(sffn_simt PUBLIC Threads::Threads)
  set_property(GLOBAL APPEND PROPERTY SFFN_EXTERNALS sffn_simt)

  list(APPEND cuda_sources tests/simt/blas.cpp)
  file(GLOB kernel_files CONFIGURE_DEPENDS kernels/cuda/*.cu)
  set_source_files_properties(${kernel_files} PROPERTIES LANGUAGE CXX)
  add_library(sffn_cuda OBJECT ${cuda_sources})
  target_compile_options(sffn_cuda PRIVATE -Wno-unknown-pragmas)  # unroll
  target_link_libraries(sffn_cuda PUBLIC sffn_simt)
else()
  # Debian's CUDA, or NVIDIA's toolkit 12.4 to 13: nvcc, cuBLASLt.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
  endif()
  if(SFFN_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${SFFN_CCACHE}")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
  add_library(sffn_cuda OBJECT ${cuda_sources})
  # -std by hand: CMake before 3.26 does not know nvcc's flag for C++20.
  target_compile_options(sffn_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --extended-lambda -Xcompiler=-Wall,-Wextra -Xptxas=-v>)
  target_link_libraries(sffn_cuda PUBLIC CUDA::cudart CUDA::cublasLt)
  set_property(GLOBAL APPEND PROPERTY SFFN_EXTERNALS CUDA::cudart CUDA::cublasLt)

  # NCCL: part of NVIDIA's HPC kit, else its packages libnccl2 and libnccl-dev.
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${NCCL_ROOT}/include ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${NCCL_ROOT}/lib ${NCCL_ROOT}/lib64 ${CUDAToolkit_LIBRARY_DIR}
               ${CUDAToolkit_LIBRARY_ROOT}/lib)
  if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
    message(FATAL_ERROR "The CUDA backend needs NCCL, for collectives between GPUs: nccl.h is ${NCCL_INCLUDE_DIR}, the library "
                        "${NCCL_LIBRARY}. Install libnccl-dev from NVIDIA's repository, or name a folder with include and lib: "
                        "-DNCCL_ROOT=FOLDER")
  endif()
endif()
target_link_libraries(sffn_cuda PUBLIC sffn_kernels)

add_library(sffn_nccl OBJECT src/comm/nccl.cpp)
target_link_libraries(sffn_nccl PRIVATE sffn_comm sffn_cuda)
if(SFFN_CUDA)
  target_include_directories(sffn_nccl SYSTEM PRIVATE "${NCCL_INCLUDE_DIR}")
  set_property(GLOBAL APPEND PROPERTY SFFN_EXTERNALS "${NCCL_LIBRARY}")
endif()
set(SFFN_LAYERS "${SFFN_LAYERS};sffn_cuda;sffn_nccl" CACHE INTERNAL "")
