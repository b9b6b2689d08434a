// Every standard and torch header that the kernels need; included before a target pragma.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Half.h>
