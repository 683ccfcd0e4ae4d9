# Defines the library `tvmfbnet_runtime`: TVM's runtime for the device, from the wheels or from TVM's source tree.
add_library(tvmfbnet_runtime INTERFACE)

if(TVM_WHEELS_DIR)
  set(runtime_files
    "${TVM_WHEELS_DIR}/tvm_ffi/lib/libtvm_ffi.so"
    "${TVM_WHEELS_DIR}/tvm/lib/libtvm_runtime.so"
    "${TVM_WHEELS_DIR}/tvm/lib/libtvm_runtime_extra.so")
  foreach(file ${runtime_files})
    if(NOT EXISTS "${file}")
      message(FATAL_ERROR "${file} is missing: TVM_WHEELS_DIR must hold apache-tvm and apache-tvm-ffi, unpacked")
    endif()
  endforeach()
  target_include_directories(tvmfbnet_runtime SYSTEM INTERFACE
    "${TVM_WHEELS_DIR}/tvm_ffi/include" "${TVM_WHEELS_DIR}/tvm/include"
    # The wheels lack two headers that their own headers include.
    "${CMAKE_CURRENT_SOURCE_DIR}/device/wheel_headers")
  # Nothing here names a symbol of the "extra" library, yet tuning needs the functions that it registers when loaded.
  target_link_options(tvmfbnet_runtime INTERFACE -Wl,--no-as-needed)
  target_link_libraries(tvmfbnet_runtime INTERFACE ${runtime_files})
  install(PROGRAMS ${runtime_files} DESTINATION .)
elseif(TVM_SOURCE_DIR OR TVM_FETCH)
  if(CMAKE_VERSION VERSION_LESS 3.26)
    message(FATAL_ERROR "TVM's sources need CMake 3.26 or later, and this is ${CMAKE_VERSION}: pip install cmake")
  endif()
  # The compiler half of TVM is not wanted on a device, hence no LLVM.
  set(USE_LLVM OFF CACHE STRING "" FORCE)
  set(BUILD_STATIC_RUNTIME OFF CACHE BOOL "" FORCE)
  if(ANDROID)
    # Its own configure script gets the NDK's compiler without the option that names the phone's system.
    set(TVM_FFI_USE_LIBBACKTRACE OFF CACHE BOOL "" FORCE)
  endif()
  if(TVM_SOURCE_DIR)
    if(NOT EXISTS "${TVM_SOURCE_DIR}/include/tvm/runtime/base.h")
      message(FATAL_ERROR "TVM_SOURCE_DIR is '${TVM_SOURCE_DIR}', which is not TVM's source tree")
    endif()
    if(NOT EXISTS "${TVM_SOURCE_DIR}/3rdparty/tvm-ffi/CMakeLists.txt")
      message(FATAL_ERROR "${TVM_SOURCE_DIR} lacks its submodules: git clone --recursive, or git submodule update --init --recursive")
    endif()
    add_subdirectory("${TVM_SOURCE_DIR}" tvm EXCLUDE_FROM_ALL)
    set(tvm_SOURCE_DIR "${TVM_SOURCE_DIR}")
  else()
    include(FetchContent)
    FetchContent_Declare(tvm GIT_REPOSITORY https://github.com/apache/tvm.git GIT_TAG ${TVMFBNET_TVM_TAG} GIT_SHALLOW ON)
    FetchContent_MakeAvailable(tvm)
  endif()
  # TVM's targets name their headers for those who installed TVM only.
  target_include_directories(tvmfbnet_runtime SYSTEM INTERFACE
    "${tvm_SOURCE_DIR}/include" "${tvm_SOURCE_DIR}/3rdparty/tvm-ffi/include")
  target_link_options(tvmfbnet_runtime INTERFACE -Wl,--no-as-needed)
  target_link_libraries(tvmfbnet_runtime INTERFACE tvm_runtime tvm_runtime_extra tvm_ffi_shared)
  install(TARGETS tvm_runtime tvm_runtime_extra tvm_ffi_shared LIBRARY DESTINATION .)
else()
  message(FATAL_ERROR "where is TVM's runtime? Give -DTVM_WHEELS_DIR=DIR (Linux) or -DTVM_SOURCE_DIR=DIR (Android); "
    "`tvmfbnet device build --target T` does it for a target")
endif()
