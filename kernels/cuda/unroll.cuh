// SFFN_UNROLL before a loop of a constant number of turns: arrays that it indexes stay in registers.
#pragma once

#ifdef __CUDACC__
#define SFFN_UNROLL _Pragma("unroll")
#else
#define SFFN_UNROLL
#endif
