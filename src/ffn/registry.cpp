#include "ffn/registry.h"

#include "config/layers.h"

#include <map>
#include <utility>

namespace sffn {
namespace {

// A function's static, so that it exists before the first method registers, in whatever order files are initialised.
std::map<std::string, FfnMethod, std::less<>>& registry() {
  static std::map<std::string, FfnMethod, std::less<>> methods;
  return methods;
}

std::string known_types() {
  std::string list;
  for (const FfnMethod* method : ffn_methods()) list += (list.empty() ? "" : ", ") + method->name;
  return list;
}

const FfnMethod& method_of(const ConfigReader& reader, const std::string& type) {
  if (const FfnMethod* method = find_ffn_method(type)) return *method;
  std::vector<std::string> names;
  for (const FfnMethod* method : ffn_methods()) names.push_back(method->name);
  const std::string nearest = nearest_word(type, names);
  reader.fail("type", cat("unknown method \"", printable(type), "\"", nearest.empty() ? "" : "; did you mean ", nearest,
                          "; known: ", known_types()));
}

FfnEntry read_entry(const Json& entry, const ModelConfig& model, const std::string& file, const std::string& path) {
  ConfigReader reader(entry, file, path);
  reader.document("layers", "selection of layers", "Layers that take the entry.");
  if (const Json* layers = entry.find("layers")) reader.resolve("layers", *layers);
  const std::string type = reader.required<std::string>("type", "Method.");
  std::unique_ptr<FfnOptions> options = method_of(reader, type).parse(reader, model);
  reader.finish();
  return {type, std::move(options), reader.resolved()};
}

}  // namespace

RegisterFfn::RegisterFfn(FfnMethod method) {
  std::string name = method.name;
  const bool added = registry().emplace(std::move(name), std::move(method)).second;
  SFFN_CHECK(added, "two methods of one name");
}

std::vector<const FfnMethod*> ffn_methods() {
  std::vector<const FfnMethod*> methods;
  for (const auto& [name, method] : registry()) methods.push_back(&method);
  return methods;
}

const FfnMethod* find_ffn_method(std::string_view name) {
  const auto found = registry().find(name);
  return found == registry().end() ? nullptr : &found->second;
}

Schema method_schema(const FfnMethod& method) {
  Schema schema;
  ConfigReader reader(schema, "");
  method.parse(reader, ModelConfig());
  return schema;
}

std::string methods_reference_markdown() {
  std::string text =
      "\n## Methods of a feed-forward layer\n\nKeys of an entry of `model.sparse_ffn` beside `layers` and `type`. A "
      "key of "
      "another method is an error.\n";
  for (const FfnMethod* method : ffn_methods()) {
    text += cat("\n### ", method->name, "\n\n", method->summary, " (", method->source, ")\n\n",
                to_markdown(method_schema(*method)));
  }
  return text;
}

std::vector<FfnEntry> resolve_ffn(const ModelConfig& model, const std::string& file) {
  const std::string list = "model.sparse_ffn";
  const std::vector<int> entry_of =
      assign_layers(model.sparse_ffn, static_cast<int>(model.layers), cat(file, ": ", list));
  Json base = Json::object();
  base["type"] = model.ffn.type;
  std::vector<FfnEntry> layers;
  for (const int entry : entry_of) {
    layers.push_back(entry < 0 ? read_entry(base, model, file, "model.ffn")
                               : read_entry(model.sparse_ffn.as_array()[entry], model, file, cat(list, ".", entry)));
  }
  return layers;
}

Json resolved_json(const Config& config) {
  const std::vector<int> entry_of =
      assign_layers(config.model.sparse_ffn, static_cast<int>(config.model.layers), "config: model.sparse_ffn");
  std::vector<FfnEntry> layers = resolve_ffn(config.model, "config");
  Config resolved = config;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (entry_of[i] < 0) continue;
    layers[i].options->resolve(layers[i].resolved, config.dtype());
    resolved.model.sparse_ffn.as_array()[static_cast<size_t>(entry_of[i])] = layers[i].resolved;
  }
  return to_json(resolved);
}

}  // namespace sffn
