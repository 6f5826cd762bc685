# Tests of the CUDA backend: under the SIMT executor, in three schedules, or on a GPU. The ops are judged by the tests that
# judge the CPU's: each op goes to the device and back (support/run_on_device.h).

file(GLOB op_tests CONFIGURE_DEPENDS ops/*_test.cpp)
add_executable(test_ops ${op_tests})
# Only these layers: others were compiled with ops that stay where their stream is.
target_link_libraries(test_ops PRIVATE sffn_test_support sffn_core sffn_kernels sffn_cuda)
target_link_libraries(test_ops PRIVATE ${externals})
# A precompiled header is forced into each file, and must be the first that is.
if(CMAKE_DISABLE_PRECOMPILE_HEADERS)
  target_compile_options(test_ops PRIVATE -include support/run_on_device.h)
else()
  target_precompile_headers(test_ops PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/support/run_on_device.h
                                             ${CMAKE_CURRENT_SOURCE_DIR}/support/catch.h)
endif()

add_custom_target(device_tests DEPENDS test_ops)

# Whole steps; under the executor in the plain build only.
if(NOT SFFN_SANITIZE)
  file(GLOB device_sources CONFIGURE_DEPENDS device/*_test.cpp)
  if(SFFN_CUDA)  # these need GPUs that are at fault, as the executor's can be
    list(FILTER device_sources EXCLUDE REGEX "/(nccl_fault|open)_test\\.cpp$")
  endif()
  add_executable(test_device ${device_sources} comm/conformance.cpp)
  target_link_libraries(test_device PRIVATE sffn_test_support)
  target_precompile_headers(test_device REUSE_FROM sffn_catch)
  sffn_link_all(test_device)
  add_dependencies(test_device sffn)  # open_test starts it
  add_dependencies(device_tests test_device)
endif()

if(SFFN_CUDA)
  catch_discover_tests(test_ops TEST_PREFIX "gpu ops: " TEST_SPEC "~[cpu]" PROPERTIES LABELS gpu)
  catch_discover_tests(test_device TEST_PREFIX "gpu: " PROPERTIES LABELS gpu)
  return()
endif()
if(NOT SFFN_SANITIZE)
  catch_discover_tests(test_device TEST_PREFIX "simt: " PROPERTIES LABELS core)
endif()

file(GLOB simt_tests CONFIGURE_DEPENDS simt/*_test.cpp)
file(GLOB simt_kernels CONFIGURE_DEPENDS simt/*.cu)
add_executable(test_simt ${simt_tests} ${simt_kernels})
set_source_files_properties(${simt_kernels} PROPERTIES LANGUAGE CXX SKIP_PRECOMPILE_HEADERS ON)
target_precompile_headers(test_simt REUSE_FROM sffn_catch)
target_link_libraries(test_simt PRIVATE sffn_test_support sffn_core)
target_link_libraries(test_simt PRIVATE sffn_kernels sffn_cuda ${externals})
add_dependencies(device_tests test_simt)
catch_discover_tests(test_simt TEST_PREFIX "simt: " PROPERTIES LABELS core)

# A sanitizer runs one schedule, and the others under the label "long"; ThreadSanitizer that one with few shapes. (No test
# has the tag of a schedule: Catch's script tells its calls for one target apart by their TEST_SPEC.) Tests of one schedule
# record which kernels they launch.
set(kernel_record "${PROJECT_BINARY_DIR}/kernels_that_ran")
set(recorded forward)
if(SFFN_SANITIZE)
  set(recorded random)
endif()
set(environments "")
foreach(schedule forward reverse random)
  set(environment "SFFN_SIMT_SCHEDULE=${schedule}")
  set(properties LABELS core)
  set(spec "~[cpu]~[schedule_${schedule}]")
  if(schedule STREQUAL recorded)
    list(APPEND properties FIXTURES_SETUP kernel_record FIXTURES_REQUIRED empty_kernel_record)
    string(APPEND environment ";SFFN_SIMT_KERNELS=${kernel_record}")
    if(SFFN_SANITIZE MATCHES thread)
      string(APPEND environment ";SFFN_FEW_SHAPES=1")
    endif()
  elseif(SFFN_SANITIZE)
    set(properties LABELS long)
  endif()
  if(NOT schedule STREQUAL forward)
    string(APPEND spec "~*any number of threads*")  # which compares the schedules
  endif()
  catch_discover_tests(test_ops TEST_PREFIX "simt ops ${schedule}: " TEST_SPEC "${spec}" TEST_LIST test_ops_${schedule}
    PROPERTIES ${properties})
  # Catch's script takes no property that is a list.
  string(APPEND environments "foreach(test IN LISTS test_ops_${schedule})
  set_tests_properties(\"\${test}\" PROPERTIES ENVIRONMENT \"${environment}\")
endforeach()
")
endforeach()
file(CONFIGURE OUTPUT ops_environments.cmake CONTENT "@environments@" @ONLY)
set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${CMAKE_CURRENT_BINARY_DIR}/ops_environments.cmake")

# Once, in a plain build: the benchmarks and the script that runs them, at small sizes.
if(NOT SFFN_SANITIZE)
  add_dependencies(device_tests sffn)
  add_test(NAME "simt: the slots of gpu_check" COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/scripts/gpu_check_test.py
           OnTheExecutor --build ${PROJECT_BINARY_DIR})
  set_tests_properties("simt: the slots of gpu_check" PROPERTIES LABELS core COST 100)  # long: begun first
endif()

# The list of kernels, none of which may go untested.
add_test(NAME "simt: no kernel has run yet" COMMAND ${CMAKE_COMMAND} -E rm -f ${kernel_record})
set_tests_properties("simt: no kernel has run yet" PROPERTIES LABELS core FIXTURES_SETUP empty_kernel_record)
add_test(NAME "simt: the tests of the ops run every kernel"
         COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/simt/kernels.sh $<TARGET_FILE:test_ops> ${kernel_record})
set_tests_properties("simt: the tests of the ops run every kernel" PROPERTIES LABELS core FIXTURES_REQUIRED kernel_record)
