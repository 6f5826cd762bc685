// SFFN_UNROLL before a loop of a constant number of turns: arrays that it indexes stay in registers. SFFN_NO_UNROLL
// where several turns at once would need more of them than there are.
#pragma once

#ifdef __CUDACC__
#define SFFN_UNROLL _Pragma("unroll")
#define SFFN_NO_UNROLL _Pragma("unroll 1")
#else
#define SFFN_UNROLL
#define SFFN_NO_UNROLL
#endif
