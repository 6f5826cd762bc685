// A model of a method's tiny configuration.
#pragma once
#include "ffn/registry.h"
#include "model/model_run.h"

namespace sffn::test {

// Two layers, d 16, d_ff 32; the second one's FFN is the method's.
inline Config model_of(const FfnMethod& method, Precision precision) {
  Config config = tiny_model(precision);
  config.model.d_model = 16;
  config.model.head_dim = 8;
  config.model.ffn.d_ff = 32;
  Json entry = parse_json(method.tiny_config, method.name, ExitCode::kUsage);
  entry["layers"] = Json::Array{int64_t{1}};
  config.model.sparse_ffn = Json::Array{entry};
  return config;
}

// Whether the method's entry takes the key.
inline bool has_key(const FfnMethod& method, const std::string& key) {
  return resolve_ffn(model_of(method, Precision::kFp32).model, "test")[1].resolved.find(key) != nullptr;
}

}  // namespace sffn::test
