# sffn_layer(NAME DIR folder [USES layer...] [EXTERNAL dependency...] [EXCLUDE subfolder or file])
#
# One OBJECT library a layer (a static library would drop self-registering files). The layer's headers are visible as
# "NAME/file.h" through a link of its own, so that including a layer that is not below fails to build.
set(SFFN_LAYERS "" CACHE INTERNAL "")

add_library(sffn_flags INTERFACE)
target_compile_features(sffn_flags INTERFACE cxx_std_20)
# g++ 12 and 13 warn falsely of maybe-uninitialized values in std::variant and under AddressSanitizer.
target_compile_options(sffn_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wno-maybe-uninitialized>)
if(SFFN_NATIVE)
  target_compile_options(sffn_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
endif()
if(SFFN_SANITIZE)
  target_compile_options(sffn_flags INTERFACE -fsanitize=${SFFN_SANITIZE} -fno-omit-frame-pointer
                                              -fno-sanitize-recover=undefined)
  target_link_options(sffn_flags INTERFACE -fsanitize=${SFFN_SANITIZE})
endif()

function(sffn_layer NAME)
  cmake_parse_arguments(ARG "" "DIR;EXCLUDE" "USES;EXTERNAL" ${ARGN})
  # One view for all presets: what they compile alike ccache then serves to the second.
  set(root "${PROJECT_SOURCE_DIR}/build-layers/${NAME}")
  file(MAKE_DIRECTORY "${root}")
  file(CREATE_LINK "${PROJECT_SOURCE_DIR}/${ARG_DIR}" "${root}/${NAME}" SYMBOLIC)

  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${ARG_DIR}/*.cpp")
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "/${ARG_EXCLUDE}(/|$)")
  endif()
  if(NOT sources)  # headers only
    set(sources "${PROJECT_BINARY_DIR}/${NAME}.cpp")
    file(WRITE ${sources} "")
  endif()
  add_library(sffn_${NAME} OBJECT ${sources})
  target_include_directories(sffn_${NAME} PUBLIC "${root}")
  target_link_libraries(sffn_${NAME} PUBLIC sffn_flags)
  foreach(used ${ARG_USES})
    target_link_libraries(sffn_${NAME} PUBLIC sffn_${used})
  endforeach()
  foreach(external ${ARG_EXTERNAL})
    target_link_libraries(sffn_${NAME} PRIVATE sffn_external_${external})
    set_property(GLOBAL APPEND PROPERTY SFFN_EXTERNALS sffn_external_${external})
  endforeach()
  set(SFFN_LAYERS "${SFFN_LAYERS};sffn_${NAME}" CACHE INTERNAL "")
endfunction()

# Links every layer and every library the layers need into an executable.
function(sffn_link_all TARGET)
  get_property(externals GLOBAL PROPERTY SFFN_EXTERNALS)
  list(REMOVE_DUPLICATES externals)
  target_link_libraries(${TARGET} PRIVATE ${SFFN_LAYERS} ${externals})
endfunction()
