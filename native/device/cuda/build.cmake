# Builds the configured CUDA project: cmake -DPROJECT=<build folder> -DLIBRARY=<galvani_cuda.so> -DREQUIRED=<bool> -P …
# A toolkit that configures but cannot compile the kernels costs the CUDA backend and one line, not the CPU build.
include(ProcessorCount)
ProcessorCount(cores)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${PROJECT} --parallel ${cores}
                RESULT_VARIABLE rc OUTPUT_VARIABLE log ERROR_VARIABLE log)
if(rc EQUAL 0)
  string(REGEX MATCHALL "[^\n]*warning[^\n]*" warnings "${log}")
  foreach(warning ${warnings})
    message("${warning}")
  endforeach()
elseif(REQUIRED)
  message(FATAL_ERROR "galvani: CUDA backend required but not built:\n${log}")
else()
  file(REMOVE ${LIBRARY}) # an older one would speak another version of the table
  string(REGEX MATCH "[^\n]*(error|fatal|Error)[^\n]*" why "${log}")
  message("galvani: CUDA backend FAILED to build, CPU backend only. Reason: ${why}")
endif()
