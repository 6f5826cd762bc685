// The words that files use for enumerations.
#pragma once
#include "config/config.h"
#include "config/reader.h"

namespace sffn {

// The inner function of an FFN and whether a gate table multiplies it.
struct ActivationChoice {
  Activation activation;
  bool gated;
  bool operator==(const ActivationChoice&) const = default;
};

inline constexpr Named<ActivationChoice> kActivationNames[] = {
    {"relu", {Activation::kRelu, false}},        {"gelu", {Activation::kGelu, false}},
    {"gelu_erf", {Activation::kGeluErf, false}}, {"silu", {Activation::kSilu, false}},
    {"swiglu", {Activation::kSilu, true}},       {"geglu", {Activation::kGelu, true}}};
inline constexpr Named<Norm> kNormNames[] = {{"layernorm", Norm::kLayer}, {"rms", Norm::kRms}};
inline constexpr Named<Positions> kPositionsNames[] = {
    {"learned", Positions::kLearned}, {"sinusoidal", Positions::kSinusoidal}, {"rope", Positions::kRope}};
inline constexpr Named<InitScheme> kInitNames[] = {{"gpt", InitScheme::kGpt}, {"xl", InitScheme::kXl}};
inline constexpr Named<Precision> kPrecisionNames[] = {{"fp32", Precision::kFp32}, {"bf16", Precision::kBf16}};
inline constexpr Named<Recompute> kRecomputeNames[] = {
    {"none", Recompute::kNone}, {"ffn", Recompute::kFfn}, {"block", Recompute::kBlock}};
inline constexpr Named<Dispatch> kDispatchNames[] = {
    {"auto", Dispatch::kAuto}, {"gather", Dispatch::kGather}, {"all_to_all", Dispatch::kAllToAll}};
inline constexpr Named<ScheduleType> kScheduleNames[] = {{"linear", ScheduleType::kLinear},
                                                         {"cosine", ScheduleType::kCosine},
                                                         {"wsd", ScheduleType::kWsd},
                                                         {"inverse_sqrt", ScheduleType::kInverseSqrt},
                                                         {"constant", ScheduleType::kConstant}};

}  // namespace sffn
