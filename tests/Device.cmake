# Tests of the CUDA backend: under the SIMT executor, in three schedules, or on a GPU. The ops are judged by the tests that
# judge the CPU's: each op goes to the device and back (support/run_on_device.h).

file(GLOB op_tests CONFIGURE_DEPENDS ops/*_test.cpp)
add_executable(test_ops ${op_tests})
target_compile_options(test_ops PRIVATE -include support/run_on_device.h)
# Only these layers: others were compiled with ops that stay where their stream is.
target_link_libraries(test_ops PRIVATE sffn_test_support sffn_core sffn_kernels sffn_cuda)
get_property(externals GLOBAL PROPERTY SFFN_EXTERNALS)
list(REMOVE_DUPLICATES externals)
target_link_libraries(test_ops PRIVATE ${externals})

add_custom_target(device_tests DEPENDS test_ops)

# Whole steps; under the executor in the plain build only.
if(NOT SFFN_SANITIZE)
  file(GLOB device_sources CONFIGURE_DEPENDS device/*_test.cpp)
  if(SFFN_CUDA)  # these need GPUs that are at fault, as the executor's can be
    list(FILTER device_sources EXCLUDE REGEX "/(nccl_fault|open)_test\\.cpp$")
  endif()
  add_executable(test_device ${device_sources} comm/conformance.cpp)
  target_link_libraries(test_device PRIVATE sffn_test_support)
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
set_source_files_properties(${simt_kernels} PROPERTIES LANGUAGE CXX)
target_link_libraries(test_simt PRIVATE sffn_test_support sffn_core)
target_link_libraries(test_simt PRIVATE sffn_kernels sffn_cuda ${externals})
add_dependencies(device_tests test_simt)
catch_discover_tests(test_simt TEST_PREFIX "simt: " PROPERTIES LABELS core)

# A sanitizer runs one schedule, and the others under the label "long". (No test has the tag of a schedule: Catch's script
# tells its calls for one target apart by their TEST_SPEC.)
set(kernel_record "${PROJECT_BINARY_DIR}/kernels_that_ran")
foreach(schedule forward reverse random)
  set(properties LABELS core ENVIRONMENT SFFN_SIMT_SCHEDULE=${schedule})
  if(SFFN_SANITIZE AND NOT schedule STREQUAL random)
    set(properties LABELS long ENVIRONMENT SFFN_SIMT_SCHEDULE=${schedule})
  elseif(schedule STREQUAL forward)  # which is the schedule unless told
    set(properties LABELS core ENVIRONMENT SFFN_SIMT_KERNELS=${kernel_record} FIXTURES_SETUP kernel_record
        FIXTURES_REQUIRED empty_kernel_record)
  endif()
  set(spec "~[cpu]~[${schedule}]")
  if(NOT schedule STREQUAL forward)
    string(APPEND spec "~*any number of threads*")  # which compares the schedules
  endif()
  catch_discover_tests(test_ops TEST_PREFIX "simt ops ${schedule}: " TEST_SPEC "${spec}" TEST_LIST test_ops_${schedule}
    PROPERTIES ${properties})
endforeach()

# Once, in a plain build: the benchmarks and the script that runs them, at small sizes.
if(NOT SFFN_SANITIZE)
  add_dependencies(device_tests sffn)
  add_test(NAME "simt: the slots of gpu_check" COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/scripts/gpu_check_test.py
           OnTheExecutor --build ${PROJECT_BINARY_DIR})
  set_tests_properties("simt: the slots of gpu_check" PROPERTIES LABELS core)
endif()

# Likewise: the list of kernels, none of which may go untested. The tests of one schedule record what they launch.
if(NOT SFFN_SANITIZE)
  add_test(NAME "simt: no kernel has run yet" COMMAND ${CMAKE_COMMAND} -E rm -f ${kernel_record})
  set_tests_properties("simt: no kernel has run yet" PROPERTIES LABELS core FIXTURES_SETUP empty_kernel_record)
  add_test(NAME "simt: the tests of the ops run every kernel"
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/simt/kernels.sh $<TARGET_FILE:test_ops> ${kernel_record})
  set_tests_properties("simt: the tests of the ops run every kernel" PROPERTIES LABELS core FIXTURES_REQUIRED kernel_record)
endif()
