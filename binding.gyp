{
  # Fallback where cmake is missing: the same CPU sources as CMakeLists.txt, one static library per instruction set.
  'variables': {
    'list': "node scripts/native-sources.cjs",
    'napi_inc': "<!(node -p \"require('node-addon-api').include_dir\")",
    # -ffp-contract=off: merges have the same bits on every instruction set; where fusing pays, it is asked for by name
    'common_flags': ['-std=c++20', '-O3', '-ffp-contract=off', '-fPIC', '-fexceptions', '-frtti', '-fvisibility=hidden', '-fvisibility-inlines-hidden'],
    'removed_flags': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20']
  },
  'targets': [
    {
      'target_name': 'galvani_avx512', 'type': 'static_library',
      'sources': ['<!@(<(list) avx512)'], 'include_dirs': ['native'],
      'cflags_cc!': ['<@(removed_flags)'],
      'cflags_cc': ['<@(common_flags)', '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx2', '-mfma', '-mf16c']
    },
    {
      'target_name': 'galvani_avx2', 'type': 'static_library',
      'sources': ['<!@(<(list) avx2)'], 'include_dirs': ['native'],
      'cflags_cc!': ['<@(removed_flags)'],
      'cflags_cc': ['<@(common_flags)', '-mavx2', '-mfma', '-mf16c']
    },
    {
      'target_name': 'galvani',
      'dependencies': ['galvani_avx512', 'galvani_avx2'],
      'sources': ['<!@(<(list) portable)', '<!@(<(list) bindings)'],
      'include_dirs': ['<(napi_inc)', 'native'],
      'defines': ['NAPI_VERSION=9', 'NODE_ADDON_API_CPP_EXCEPTIONS', 'NODE_ADDON_API_DISABLE_DEPRECATED', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
      'cflags_cc!': ['<@(removed_flags)'],
      'cflags_cc': ['<@(common_flags)'],
      'ldflags': ['-static-libstdc++', '-static-libgcc', '-Wl,--exclude-libs,ALL'],
      'libraries': ['-ldl', '-lpthread']
    }
  ]
}
