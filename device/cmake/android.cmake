# What a phone needs besides the programs: pages of 16 KiB, and the NDK's C++ library, which Android does not have.
# Without effect for other systems. `tvmfbnet device build` checks the result; see tvmfbnet/provisioning/bundle.py.
if(ANDROID)
  # For whatever is linked from here on, TVM's runtime included. At the end of the linker's flags, where the last word
  # wins: without ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES the NDK's own flags may ask for 4 KiB.
  foreach(kind EXE SHARED MODULE)
    string(APPEND CMAKE_${kind}_LINKER_FLAGS " -Wl,-z,max-page-size=16384")
  endforeach()

  if(NOT ANDROID_STL OR ANDROID_STL STREQUAL "c++_shared")
    set(android_library_folders "${CMAKE_SYSROOT}/usr/lib/aarch64-linux-android")
    foreach(ndk "${ANDROID_NDK}" "${CMAKE_ANDROID_NDK}" "$ENV{ANDROID_NDK_HOME}")
      file(GLOB folders "${ndk}/toolchains/llvm/prebuilt/*/sysroot/usr/lib/aarch64-linux-android")
      list(APPEND android_library_folders ${folders})
    endforeach()
    find_file(ANDROID_CXX_LIBRARY libc++_shared.so PATHS ${android_library_folders}
      NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
    if(NOT ANDROID_CXX_LIBRARY)
      message(FATAL_ERROR "libc++_shared.so was not found in the NDK (looked in ${android_library_folders}); "
        "without it no phone can start the programs")
    endif()
    install(FILES "${ANDROID_CXX_LIBRARY}" DESTINATION .)
    # The NDK's copy carries symbols that a phone has no use for.
    if(CMAKE_STRIP)
      install(CODE "
        if(CMAKE_INSTALL_DO_STRIP)
          execute_process(COMMAND \"${CMAKE_STRIP}\" --strip-unneeded \"\${CMAKE_INSTALL_PREFIX}/libc++_shared.so\"
            COMMAND_ERROR_IS_FATAL ANY)
        endif()")
    endif()
  endif()
endif()
