// Whether a function of a header we do not include has the type we declare for it.
#pragma once
#include <type_traits>

// Function types with every pointer as const void* and every enum as int.
template <class T>
using Erased = std::conditional_t<std::is_pointer_v<T>, const void*, std::conditional_t<std::is_enum_v<T>, int, T>>;
template <class F>
struct ErasedFunction;
template <class R, class... Args>
struct ErasedFunction<R(Args...)> {
  using type = Erased<R>(Erased<std::decay_t<Args>>...);
};
template <class Theirs, class Ours>
constexpr bool same(Theirs*, Ours*) {
  return std::is_same_v<typename ErasedFunction<Theirs>::type, typename ErasedFunction<Ours>::type>;
}
