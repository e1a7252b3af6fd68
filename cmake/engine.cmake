# The engine without Python, as the static library `gatewise_engine`: for the module and for the plain C++ tests.
find_package(Threads REQUIRED)
option(GATEWISE_WIDE "Also build the 16-lane kernels on AVX2 instructions, to test them without AVX-512" OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)

# Builds with sanitizers are for the tests, and take minutes as it is: without the AVX-512 set, whose source GATEWISE_WIDE
# compiles too, and with two cells compiled by themselves in the place of ten; the others take the way of any cell.
set(GATEWISE_SANITIZE "" CACHE STRING "Sanitizers to build with, for the tests: address,undefined or thread")
set(level -O3)
if(GATEWISE_SANITIZE)
  set(level -O1)
  add_compile_options(-fsanitize=${GATEWISE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 ${level})
  add_compile_definitions(GATEWISE_FEW_ROWS)
  add_link_options(-fsanitize=${GATEWISE_SANITIZE})
endif()

set(csrc "${CMAKE_CURRENT_LIST_DIR}/../csrc")
# No contraction anywhere: a product and a sum are one rounding only where the source says fma.
set(engine_options -ffp-contract=off -Wall -Wextra)

add_library(gatewise_engine STATIC ${csrc}/blocks.cc ${csrc}/describe.cc ${csrc}/dispatch.cc ${csrc}/engine.cc
            ${csrc}/executor.cc ${csrc}/meeting.cc ${csrc}/members.cc ${csrc}/memory.cc ${csrc}/recurrent.cc
            ${csrc}/schedule.cc ${csrc}/team.cc)
set_target_properties(gatewise_engine PROPERTIES POSITION_INDEPENDENT_CODE ON)
target_compile_options(gatewise_engine PRIVATE ${engine_options})
target_include_directories(gatewise_engine PUBLIC "${csrc}" "${CMAKE_CURRENT_BINARY_DIR}")
target_link_libraries(gatewise_engine PUBLIC ${CMAKE_DL_LIBS} Threads::Threads)

# Compiles the kernels once more, as namespace `name` for float and `name`_double for double, and puts them last in the
# list that dispatch.cc reads.
set(kernels ${csrc}/backward.cc ${csrc}/backward_once.cc ${csrc}/backward_rows.cc ${csrc}/backward_sums.cc
            ${csrc}/pack_backward.cc ${csrc}/pointwise_backward.cc ${csrc}/reduce.cc)
set(forward_kernels ${csrc}/forward.cc ${csrc}/forward_norm.cc ${csrc}/forward_once.cc ${csrc}/forward_rows.cc
                    ${csrc}/pack.cc ${csrc}/pointwise_forward.cc ${csrc}/table.cc)
set(built "")
function(gatewise_kernels library)
  set_target_properties(${library} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${library} PRIVATE ${level} -Wno-psabi ${engine_options} ${ARGN})
  target_sources(gatewise_engine PRIVATE $<TARGET_OBJECTS:${library}>)
endfunction()
function(gatewise_isa name)
  add_library(kernels_${name} OBJECT ${kernels} ${forward_kernels} ${csrc}/dense.cc ${csrc}/halve.cc
              ${csrc}/rounding.cc)
  target_compile_definitions(kernels_${name} PRIVATE GATEWISE_ISA=${name})
  add_library(kernels_${name}_double OBJECT ${kernels} ${forward_kernels})
  target_compile_definitions(kernels_${name}_double PRIVATE GATEWISE_ISA=${name}_double GATEWISE_DOUBLE)
  gatewise_kernels(kernels_${name} ${ARGN})
  gatewise_kernels(kernels_${name}_double ${ARGN})
  set(built "${built}GATEWISE_BUILT(${name})\n" PARENT_SCOPE)
endfunction()

# And once more as namespace `name`_narrow, with the products of bfloat16 of processors that have them.
function(gatewise_narrow name)
  add_library(kernels_${name}_narrow OBJECT ${forward_kernels})
  target_compile_definitions(kernels_${name}_narrow PRIVATE GATEWISE_ISA=${name}_narrow GATEWISE_NARROW)
  gatewise_kernels(kernels_${name}_narrow ${ARGN})
  set(built "${built}GATEWISE_BUILT_NARROW(${name})\n" PARENT_SCOPE)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  if(NOT GATEWISE_SANITIZE)
    gatewise_isa(avx512 -mavx512f -mavx2 -mfma)
    gatewise_narrow(avx512 -mavx512f -mavx512bf16 -mavx2 -mfma)
  endif()
  gatewise_isa(avx2 -mavx2 -mfma)
  if(GATEWISE_WIDE)
    # For its bits, which no optimisation changes: with more of it one file takes five minutes.
    gatewise_isa(wide -mavx2 -mfma -DGATEWISE_WIDE -O1)
    gatewise_narrow(wide -mavx2 -mfma -DGATEWISE_WIDE -O1)
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  gatewise_isa(neon -DGATEWISE_NEON)
  gatewise_narrow(neon -DGATEWISE_NEON -march=armv8.2-a+bf16)
endif()
gatewise_isa(baseline)
file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/isas.inc" CONTENT "${built}")
