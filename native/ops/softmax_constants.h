// The numbers of the softmax algebra (softmax_state.h), apart so that kernels can include them without its functions.
#pragma once

namespace galvani {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
// Blocked scores are this finite number, since 0·(−∞) would make t NaN.
inline constexpr float kBlocked = -1e30f;
inline constexpr float kEmptyMax = -1e30f;

}  // namespace galvani
