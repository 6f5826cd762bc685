# Every library from outside is found here, once, and given to the layers as sffn_external_NAME.
find_program(SFFN_CCACHE ccache)
if(SFFN_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Or ccache would not serve what includes a precompiled header, nor one preset what another has compiled alike.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros;CCACHE_NOHASHDIR=1;${SFFN_CCACHE}")
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Lines for stack traces and profiles; variables of templates would take a fifth of the time to compile.
if(SFFN_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")
else()
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(sffn_external_threads INTERFACE)
target_link_libraries(sffn_external_threads INTERFACE Threads::Threads)

# nlohmann-json3-dev: JSON text to events; our strict value type stands on its SAX interface (core/json.cpp only).
find_package(nlohmann_json REQUIRED)
add_library(sffn_external_json_headers INTERFACE)
target_link_libraries(sffn_external_json_headers INTERFACE nlohmann_json::nlohmann_json)

# libspdlog-dev: console and file log (core/log.cpp only).
find_package(spdlog REQUIRED)
add_library(sffn_external_spdlog_headers INTERFACE)
target_link_libraries(sffn_external_spdlog_headers INTERFACE spdlog::spdlog)

# libxxhash-dev: XXH3 checksums.
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
add_library(sffn_external_xxhash INTERFACE)
target_link_libraries(sffn_external_xxhash INTERFACE PkgConfig::XXHASH)

# libdnnl-dev: CPU GEMM, fp32 and bf16 (kernels/cpu/gemm.cpp only).
find_library(DNNL_LIBRARY dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
add_library(sffn_external_dnnl INTERFACE)
target_include_directories(sffn_external_dnnl SYSTEM INTERFACE "${DNNL_INCLUDE_DIR}")
target_link_libraries(sffn_external_dnnl INTERFACE "${DNNL_LIBRARY}")

add_library(sffn_external_openmp INTERFACE)
if(SFFN_OPENMP)
  find_package(OpenMP REQUIRED)
  target_link_libraries(sffn_external_openmp INTERFACE OpenMP::OpenMP_CXX)
else()
  target_compile_options(sffn_external_openmp INTERFACE -fopenmp-simd -Wno-unknown-pragmas)
endif()

# libopenmpi-dev: ranks (comm/mpi.cpp only). The C bindings are enough.
find_package(MPI REQUIRED COMPONENTS CXX)
add_library(sffn_external_mpi INTERFACE)
target_link_libraries(sffn_external_mpi INTERFACE MPI::MPI_CXX)
target_compile_definitions(sffn_external_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)

# libsentencepiece-dev, zlib1g-dev, libzstd-dev: tokenizer and compressed text (data layer).
find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
add_library(sffn_external_sentencepiece INTERFACE)
target_link_libraries(sffn_external_sentencepiece INTERFACE "${SENTENCEPIECE_TRAIN_LIBRARY}" "${SENTENCEPIECE_LIBRARY}")
find_package(ZLIB REQUIRED)
add_library(sffn_external_zlib INTERFACE)
target_link_libraries(sffn_external_zlib INTERFACE ZLIB::ZLIB)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
add_library(sffn_external_zstd INTERFACE)
target_link_libraries(sffn_external_zstd INTERFACE PkgConfig::ZSTD)

# libcli11-dev: command line (tools only).
find_package(CLI11 REQUIRED)
add_library(sffn_external_cli11 INTERFACE)
target_link_libraries(sffn_external_cli11 INTERFACE CLI11::CLI11)
