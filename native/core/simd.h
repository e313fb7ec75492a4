// What this CPU can do, asked once. GALVANI_ISA=portable|avx2|avx512 lowers the choice, for tests and comparison.
#pragma once

namespace galvani {

enum class Isa { kPortable, kAvx2, kAvx512 };

Isa cpu_isa();
const char* isa_name(Isa isa);

}  // namespace galvani
