// What rgn.cpp hands to rgn_cuda.cu.
#pragma once

#include <cstdint>

namespace ftcompare {

enum Kind : uint8_t { kFloat32, kBFloat16, kFloat16, kFloat64 };

// A weight and its gradient, each a dense run of elements as it lies in memory. grad: null without one.
struct Pair {
  const void* weight;
  const void* grad;
  int64_t numel;
  Kind weight_kind, grad_kind;
};

// Squares are added up in float32. A sum below this one may have lost squares to underflow (1e5 elements lose
// at most 1e-33), an infinite one may have overflowed, nan and zero are rare: all of these are added up again
// in double.
constexpr double kSafeSum = 1e-25;

}  // namespace ftcompare
