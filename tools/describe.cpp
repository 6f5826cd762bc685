// sffn describe: the configuration's schema and the feed-forward methods.
#include "config/schema.h"
#include "ffn/registry.h"
#include "tools/commands.h"
#include "tools/options.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string topic = "config";
  bool json = false, markdown = false;
};

Json method_json(const FfnMethod& method) {
  Json json;
  json["type"] = method.name;
  json["summary"] = method.summary;
  json["source"] = method.source;
  json["keys"] = to_json(method_schema(method));
  json["example"] = parse_json(method.tiny_config, "method " + method.name, ExitCode::kRunFailed);
  return json;
}

std::string known_topics() {
  std::string known = "config, methods";
  for (const FfnMethod* method : ffn_methods()) known += ", " + method->name;
  return known;
}

int describe_config(const Arguments& arguments) {
  std::string text;
  if (arguments.json) {
    print_json(Json::Object{{"keys", to_json(config_schema())}});
  } else if (arguments.markdown) {
    text = config_reference_markdown() + methods_reference_markdown();
  } else {
    text = to_text(config_schema()) +
           "\nThe keys of an entry of model.sparse_ffn: sffn describe METHOD; methods: " + "sffn describe methods\n";
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

int describe_methods(const Arguments& arguments) {
  Json list = Json::array();
  for (const FfnMethod* method : ffn_methods()) {
    if (arguments.json)
      list.push_back(method_json(*method));
    else
      std::printf("%-14s %s\n", method->name.c_str(), method->summary.c_str());
  }
  if (arguments.json) print_json(Json::Object{{"methods", list}});
  return 0;
}

int describe_method(const Arguments& arguments) {
  const FfnMethod* method = find_ffn_method(arguments.topic);
  if (method == nullptr) throw UsageError("describe " + arguments.topic, "is not known; known: " + known_topics());
  if (arguments.json)
    print_json(method_json(*method));
  else {
    std::printf("%s: %s\nsource: %s\nexample: %s\n\n%s", method->name.c_str(), method->summary.c_str(),
                method->source.c_str(), method->tiny_config.c_str(), to_text(method_schema(*method)).c_str());
  }
  return 0;
}

}  // namespace

void add_describe_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("describe", "every configuration key, or the feed-forward methods");
  command->add_option("topic", arguments->topic, "config | methods | the name of a method")->capture_default_str();
  command->add_flag("--json", arguments->json, "for machines");
  command->add_flag("--markdown", arguments->markdown, "configs/README.md as it is generated (config only)");
  command->footer("Examples:\n  sffn describe config | less\n  sffn describe methods --json\n  sffn describe dense");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      if (arguments->topic == "config") return describe_config(*arguments);
      if (arguments->topic == "methods") return describe_methods(*arguments);
      return describe_method(*arguments);
    };
  });
}

}  // namespace sffn
