# The query side of KenLM, compiled from its own source distribution and linked statically (LGPL 2.1 or later).
# KENLM_SOURCE_DIR (CMake variable or environment) names an unpacked source; otherwise pip fetches the pinned one.
set(KENLM_SOURCE_DIR "$ENV{KENLM_SOURCE_DIR}" CACHE PATH "Unpacked KenLM source; empty: fetch the pinned distribution")

if(KENLM_SOURCE_DIR)
  set(kenlm_source "${KENLM_SOURCE_DIR}")
else()
  set(kenlm_source "${CMAKE_BINARY_DIR}/kenlm-0.3.0")
  if(NOT EXISTS "${kenlm_source}/lm/model.hh")
    message(STATUS "Fetching the source of KenLM 0.3.0")
    # ":all:" would build even KenLM's own build tools from source, so only kenlm is named.
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary kenlm
              --require-hashes --requirement "${CMAKE_CURRENT_LIST_DIR}/kenlm-requirements.txt" --dest "${CMAKE_BINARY_DIR}"
      RESULT_VARIABLE kenlm_status)
    if(NOT kenlm_status EQUAL 0)
      message(FATAL_ERROR "pip could not fetch KenLM's source; unpack kenlm 0.3.0 yourself and set KENLM_SOURCE_DIR")
    endif()
    file(ARCHIVE_EXTRACT INPUT "${CMAKE_BINARY_DIR}/kenlm-0.3.0.tar.gz" DESTINATION "${CMAKE_BINARY_DIR}")
  endif()
endif()
if(NOT EXISTS "${kenlm_source}/lm/model.hh")
  message(FATAL_ERROR "No KenLM source in ${kenlm_source}; set KENLM_SOURCE_DIR to an unpacked kenlm 0.3.0")
endif()

file(GLOB kenlm_files "${kenlm_source}/lm/*.cc" "${kenlm_source}/util/*.cc" "${kenlm_source}/util/double-conversion/*.cc")
list(FILTER kenlm_files EXCLUDE REGEX "(main|test|benchmark)\\.cc$")
add_library(kenlm STATIC EXCLUDE_FROM_ALL ${kenlm_files})
target_include_directories(kenlm SYSTEM PUBLIC "${kenlm_source}")
target_compile_definitions(kenlm PUBLIC KENLM_MAX_ORDER=6 PRIVATE $<$<PLATFORM_ID:Linux>:HAVE_CLOCKGETTIME>)
target_compile_options(kenlm PRIVATE -w $<$<CONFIG:Release>:-O3>)
set_target_properties(kenlm PROPERTIES CXX_STANDARD 11)
